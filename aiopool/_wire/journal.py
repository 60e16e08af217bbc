"""Results that are safe before they are sent: some of the slate's memory, written by the worker.

A call of ``submit`` or ``run`` is never executed twice, so its result has to be out of the worker
before the next call starts. Sending costs a system call and wakes the parent each time; noting it
here costs half a microsecond, and the parent finds it whatever becomes of the worker. Notes are
wiped when the same results have been sent, some hundred microseconds later.

``CYCLE`` counts the wipes. A parent that reads while the worker lives compares it before and after,
and takes the notes for good only if it has not moved (a sequence lock with one writer).
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Final, final

from aiopool._wire.messages import ERROR, VALUE
from aiopool._wire.pickling import dumps, loads
from aiopool._wire.slate import CYCLE, NOTED

if TYPE_CHECKING:
    from aiopool._wire.messages import Segment
    from aiopool._wire.slate import Slate

_ENTRY: Final = struct.Struct("<QQIB")


@final
class Journal:
    """The notes of one worker; each side has its own object over the same memory."""

    __slots__ = ("_end", "_space", "_words")

    def __init__(self, slate: Slate) -> None:
        self._words = slate.words
        self._space = slate.space
        self._end = 0

    def note(self, segment: Segment) -> bool:
        """Keep the segment of one call; False if there is no room, or it is in several pieces."""
        seq, _, spent, kind, load = segment
        if kind == VALUE:
            load, buffers = load
            if buffers or isinstance(load, (tuple, pickle.PickleBuffer)):
                return False
        elif kind == ERROR:
            load = dumps(load)
        load = load or b""
        start = self._end + _ENTRY.size
        stop = start + len(load)
        if stop > len(self._space):
            return False
        _ENTRY.pack_into(self._space, self._end, seq, spent, len(load), kind)
        self._space[start:stop] = load
        self._end = self._words[NOTED] = stop
        return True

    def wipe(self) -> None:
        """What was noted has been sent."""
        if self._end:
            self._words[CYCLE] += 1
            self._end = self._words[NOTED] = 0

    def read(self) -> list[Segment]:
        """The segments noted and not wiped; none if they are being wiped just now."""
        cycle = self._words[CYCLE]
        noted = bytes(self._space[: self._words[NOTED]])
        if self._words[CYCLE] != cycle:
            return []
        segments: list[Segment] = []
        place = 0
        while place < len(noted):
            seq, spent, size, kind = _ENTRY.unpack_from(noted, place)
            place += _ENTRY.size + size
            load = noted[place - size : place]
            segments.append((seq, 1, spent, kind, _opened(kind, load)))
        return segments


def _opened(kind: int, load: bytes) -> object:
    """A segment's payload as it would have been sent."""
    if kind == ERROR:
        return loads(load)
    return (load, ()) if kind == VALUE else load
