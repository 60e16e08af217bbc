"""Memory that large frames are received into: in large pages, and used again; and how much is held.

Touching fresh memory for the first time takes several times as long as copying into it. So large
pieces come from anonymous maps, in pages of megabytes where the system has them, and the last few
maps are remembered. One is given out again when nobody else refers to it: arrays, views and
whatever else was built on such memory hold a reference to its map, so what the application keeps,
for however long, is never written to again.
"""

from __future__ import annotations

import mmap
from collections import deque
from contextlib import suppress
from sys import getrefcount
from typing import Final, TypeAlias

Writable: TypeAlias = bytearray | memoryview

LARGE: Final = 2 << 20
"""Bytes from which on memory is taken from a map: the usual size of a large page."""

MOST_KEPT: Final = 128 << 20
"""Bytes in remembered maps at most: room for a result of 64 MB and the one before it."""

_kept: deque[mmap.mmap] = deque()  # in use or not, the latest last
_UNUSED: Final = 2
"""References to a map that nobody uses: from the list it is in, and from counting them."""


def allocate(size: int) -> Writable:
    """Writable memory of so many bytes, with anything in it; MemoryError if there is none."""
    if size < LARGE or not hasattr(mmap, "MAP_PRIVATE"):
        return bytearray(size)
    for _ in range(len(_kept)):
        with suppress(IndexError):  # another thread is looking at the rest
            mine = [_kept.popleft()]  # so that no other thread gives out the same
            fits = size <= len(mine[0]) <= 2 * size and getrefcount(mine[0]) == _UNUSED
            memory = memoryview(mine[0])[:size] if fits else None
            _kept.append(mine[0])
            if memory is not None:
                return memory
    return memoryview(_fresh(size))


def held(process: int | str) -> int:
    """Bytes of memory a process holds, without what it shares; by its pid, or ``"self"``.

    Raises OSError where that is not told: Linux tells it, of processes that are there.
    """
    with open(f"/proc/{process}/statm", "rb") as file:  # noqa: PTH123 - pathlib is no light import
        _, resident, shared, *_ = file.read().split()
    return (int(resident) - int(shared)) * mmap.PAGESIZE


def unused() -> int:
    """Bytes that are remembered and not in use."""
    maps = list(_kept)
    return sum(
        len(maps[place]) for place in range(len(maps)) if getrefcount(maps[place]) == _UNUSED + 1
    )


def _fresh(size: int) -> mmap.mmap:
    """A new map, remembered in place of the oldest if need be."""
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(*error.args) from None
    with suppress(OSError, AttributeError):  # pages as they are, where there are no large ones
        memory.madvise(mmap.MADV_HUGEPAGE)
    _kept.append(memory)
    while sum(map(len, list(_kept))) > MOST_KEPT:
        _kept.popleft()
    return memory
