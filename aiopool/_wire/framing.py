"""Frames on the byte stream between a worker and its parent.

A frame is a header, the lengths of its out-of-band buffers, a body, and the buffers::

    magic (2)  kind (1)  pad (1)  buffers (4)  body length (8) | length (8) * buffers | body | ...

Both sides use the same ``Decoder``. It hands out the memory that the next bytes go to, so that
a large frame is received straight into the memory it stays in; small frames share one scratch
buffer and are copied out of it. Everything is checked against bounds: a peer that writes garbage
gives ``ProtocolError``, and a length is believed only up to ``LARGEST``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

from aiopool._wire.memory import allocate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aiopool._wire.memory import Writable

Bytes: TypeAlias = bytes | bytearray | memoryview

_HEADER: Final = struct.Struct("<2sBxIQ")
_MAGIC: Final = b"ap"
_SCRATCH: Final = 256 * 1024
LARGEST: Final = 1 << 40
"""Bytes in one body or buffer at most."""
MOST_BUFFERS: Final = 1 << 14
"""Out-of-band buffers in one frame at most: their lengths fit the scratch buffer."""


class ProtocolError(Exception):
    """The peer sent what is no frame; nothing more it says can be believed."""


class Frame(NamedTuple):
    """One message: what kind, its body, and the buffers beside it, each in memory of its own."""

    kind: int
    body: Bytes
    buffers: list[Writable]


def encode(kind: int, body: Bytes, buffers: Sequence[Bytes] = ()) -> list[Bytes]:
    """The pieces to write, in order; buffers go as they are, uncopied."""
    lengths = [memoryview(buffer).nbytes for buffer in buffers]
    header = _HEADER.pack(_MAGIC, kind, len(buffers), len(body))
    if not buffers:
        return [header + body] if len(body) < _SCRATCH else [header, body]
    return [header + struct.pack(f"<{len(lengths)}Q", *lengths), body, *buffers]


@final
class Decoder:
    """Bytes in, frames out: ask ``get_buffer`` where to put them, then tell ``received``."""

    __slots__ = ("_end", "_large", "_scratch")

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._end = 0  # bytes of the scratch buffer that are filled
        self._large: _Large | None = None  # the frame being received in memory of its own

    def get_buffer(self, _sizehint: int = -1) -> memoryview:
        """Writable memory for the next bytes, never empty."""
        return self._large.room() if self._large else self._scratch[self._end :]

    def received(self, count: int) -> Iterator[Frame]:
        """The frames that ``count`` more bytes complete.

        The body of a small frame is a view that holds until the next one is asked for.
        """
        if self._large is not None:
            if self._large.advance(count):
                frame, self._large = self._large.frame(), None
                yield frame
            return
        self._end += count
        start = 0
        while self._end - start >= _HEADER.size:
            kind, lengths, head = self._header(start)
            if lengths is None:
                break
            stop = start + head + sum(lengths)
            if stop > self._end:
                if stop - start > _SCRATCH // 2:
                    start = self._begin_large(kind, lengths, start + head)
                break
            yield self._small(kind, lengths, start + head)
            start = stop
        rest = self._end - start
        if start and rest:
            self._scratch[:rest] = bytes(self._scratch[start : self._end])
        self._end = rest

    def _header(self, start: int) -> tuple[int, list[int] | None, int]:
        """Kind, lengths of body and buffers (None: not all there), and size of the header."""
        magic, kind, count, body = _HEADER.unpack_from(self._scratch, start)
        if magic != _MAGIC or count > MOST_BUFFERS:
            message = f"not a frame: {bytes(self._scratch[start : start + 16])!r}"
            raise ProtocolError(message)
        size = _HEADER.size + 8 * count
        lengths: list[int] | None = [body]
        if count:
            if self._end - start < size:
                return kind, None, size
            table = struct.unpack_from(f"<{count}Q", self._scratch, start + _HEADER.size)
            lengths = [body, *table]
        if max(lengths or (0,)) > LARGEST:
            message = f"a length of {max(lengths or (0,))} bytes is no frame of ours"
            raise ProtocolError(message)
        return kind, lengths, size

    def _small(self, kind: int, lengths: list[int], start: int) -> Frame:
        stop = start + lengths[0]
        body = self._scratch[start:stop]
        buffers: list[Writable] = []
        for length in lengths[1:]:
            buffers.append(bytearray(self._scratch[stop : stop + length]))
            stop += length
        return Frame(kind, body, buffers)

    def _begin_large(self, kind: int, lengths: list[int], start: int) -> int:
        """Move what has come of a large frame to its own memory; where the scratch goes on."""
        try:
            self._large = _Large(kind, lengths)
        except MemoryError:
            message = f"no memory for a frame of {sum(lengths)} bytes"
            raise ProtocolError(message) from None
        there = self._scratch[start : self._end]
        while there:
            room = self._large.room()
            count = min(len(there), len(room))
            room[:count] = there[:count]
            self._large.advance(count)
            there = there[count:]
        return self._end


@final
class _Large:
    """A frame whose body and buffers are filled one after another, each in its own memory."""

    __slots__ = ("_filled", "_kind", "_parts", "_views")

    def __init__(self, kind: int, lengths: list[int]) -> None:
        self._kind = kind
        self._parts = [allocate(length) for length in lengths]
        self._views = [memoryview(part) for part in reversed(self._parts) if part]
        self._filled = 0

    def room(self) -> memoryview:
        """The memory that the next bytes go to."""
        return self._views[-1][self._filled :]

    def advance(self, count: int) -> bool:
        """Note that ``count`` bytes came; whether the frame is complete."""
        self._filled += count
        if self._filled == len(self._views[-1]):
            self._views.pop()
            self._filled = 0
        return not self._views

    def frame(self) -> Frame:
        """The finished frame."""
        return Frame(self._kind, self._parts[0], self._parts[1:])
