"""A few words of memory that a worker and its parent both see, one slate a worker.

The socket carries what was asked and what came of it; the slate says how far the worker is,
which has to be known when no message will ever come: which call was executing when the worker
died, how long it has been running, which calls must not start any more, which one to interrupt.

Every word has one writer. A word is stored and loaded whole: eight aligned bytes.

Taking calls back works without a lock. The worker stores ``STARTED`` and then loads the skip
range; the parent stores the skip range, lets ``SETTLING`` seconds pass, and then loads
``STARTED``. The pause is orders of magnitude longer than any processor holds a store back, so
of a call that the worker has not marked as started by then, the worker will find that it is to
be skipped (Dekker's algorithm with the fence replaced by time). Skipping is reported too, so a
call is lost in no interleaving.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from functools import partial
from time import sleep
from typing import Final, final

STARTED: Final = 0
"""Number of the call that started last. Written by the worker."""

FINISHED: Final = 1
"""Number of the last call whose result has been sent. Written by the worker."""

SINCE: Final = 2
"""When the call ``STARTED`` began, by ``time.monotonic_ns``. Written by the worker."""

TARGET: Final = 3
"""Number of the call an interrupt is meant for. Written by the parent."""

SKIP_FROM: Final = 4
"""First call that must not start. Written by the parent."""

SKIP_TO: Final = 5
"""The call before which skipping ends. Written by the parent."""

NOTED: Final = 6
"""Bytes of the journal in use. Written by the worker."""

CYCLE: Final = 7
"""How often the journal has been wiped. Written by the worker."""

SENT: Final = 8
"""How many frames were sent to the worker. Written by the parent."""

SETTLING: Final = 0.002
"""Seconds after which a store to the skip range is certain to be seen."""

give_way: Final = getattr(os, "sched_yield", partial(sleep, 0))
"""Let another process have the processor, if one wants it: for whoever waits awake."""

_WORDS: Final = 128  # in bytes; what follows them starts on a cache line
_SIZE: Final = _WORDS + 64 * 1024


@final
class Slate:
    """The shared words: ``words[STARTED]`` and so on, unsigned 64-bit integers.

    ``space`` is the memory behind them, for the journal.
    """

    __slots__ = ("_memory", "space", "words")

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        whole = memoryview(memory)
        self.words = whole[:_WORDS].cast("Q")
        self.space = whole[_WORDS:]
        whole.release()

    @classmethod
    def create(cls) -> tuple[Slate, int]:
        """Make a slate; also its descriptor, which the caller passes on and closes.

        Nothing on disk and no name: an anonymous memory file where there is one, else a
        temporary file that is unlinked already.
        """
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("aiopool-slate")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        try:
            os.ftruncate(fd, _SIZE)
            return cls(mmap.mmap(fd, _SIZE)), fd
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int) -> Slate:
        """Map the slate behind a descriptor, which is closed."""
        try:
            return cls(mmap.mmap(fd, _SIZE))
        finally:
            os.close(fd)

    @classmethod
    def named(cls, name: str) -> Slate:
        """Map the slate of that name, making it if need be: where descriptors cannot be passed."""
        return cls(mmap.mmap(-1, _SIZE, tagname=name))  # type: ignore[call-arg, unused-ignore]

    def close(self) -> None:
        """Unmap it."""
        self.words.release()
        self.space.release()
        self._memory.close()
