"""Memory that one process fills once and any other of the same user's can read by its address.

On Linux it is a file without a name, in memory, and others open it through the descriptor of the
process that made it, ``/proc/<pid>/fd/<fd>``: however everybody ends, the kernel is left with
nothing to keep. Elsewhere it is named shared memory, which ``multiprocessing`` sees removed.

::

    key (8)  gone (8)  pieces (8) | length (8) * pieces | piece | ...

Pieces begin at multiples of ``_ALIGNED`` bytes. A descriptor's number, and a process's, may come to
mean something else; the key in the address does not. ``gone`` is set once nobody will ask for the
memory any more: those who have attached to it are to let go.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiopool._wire.named import Named

Address: TypeAlias = "tuple[int | str, int, int]"
"""Process and descriptor and key, or name and zero and key."""

_HEADER: Final = struct.Struct("<QQQ")
_GONE: Final = 8
_ALIGNED: Final = 64
_PROC: Final = sys.platform == "linux"


@final
class Segment:
    """The memory as its maker holds it."""

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        """Fill it; raises OSError if there is no room for it, with nothing left."""
        lengths = [piece.nbytes for piece in pieces]
        starts, size = _layout(lengths)
        key = int.from_bytes(os.urandom(7), "little")
        self._memory: _File | Named | None = _File() if _PROC else _make_named(size)
        self.address: Address = (*self._memory.place, key)
        try:
            for start, piece in zip(starts, pieces, strict=True):
                self._memory.write(start, piece)
            header = _HEADER.pack(key, 0, len(lengths))
            self._memory.write(0, memoryview(header + struct.pack(f"<{len(lengths)}Q", *lengths)))
        except BaseException:
            self.retire()
            raise

    def retire(self) -> None:
        """Nobody will attach any more: let go, and tell those who have. Idempotent."""
        memory, self._memory = self._memory, None
        if memory is not None:
            with suppress(OSError):  # there was no room for it
                memory.write(_GONE, memoryview(b"\1"))
            memory.remove()

    def disown(self) -> None:
        """This is a forked process's copy: let go, and leave it to the maker."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()


@final
class Attached:
    """The memory as another process, or the same, reads it: ``pieces`` are read-only."""

    __slots__ = ("_words", "pieces")

    def __init__(self, address: Address) -> None:
        """Map it; raises OSError if it is there no more, or for another user."""
        place, fd, key = address
        whole = _open_file(place, fd) if isinstance(place, int) else _open_named(place)
        size = _HEADER.size
        found, gone, count = _HEADER.unpack_from(whole) if len(whole) >= size else (None, 0, 0)
        if found != key or gone:
            message = "a shared object is gone: nobody holds its handle any more"
            raise FileNotFoundError(message)
        lengths = struct.unpack_from(f"<{count}Q", whole, size)
        starts, _ = _layout(lengths)
        self._words = whole[: 2 * _GONE]
        self.pieces = [
            whole[start : start + length] for start, length in zip(starts, lengths, strict=True)
        ]

    @property
    def gone(self) -> bool:
        """Whether its maker has let go of it."""
        return self._words[_GONE] != 0


@final
class _File:
    """A file without a name."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("aiopool-shared")
        else:
            memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112 - workers load this, and not pathlib
            with tempfile.TemporaryFile(dir=memory) as file:
                self._fd = os.dup(file.fileno())
        self.place = os.getpid(), self._fd

    def write(self, start: int, data: memoryview) -> None:
        """Fill a part of it; a full file system is an OSError here, and a signal in a map."""
        while data:
            written = os.pwrite(self._fd, data, start)
            data, start = data[written:], start + written

    def close(self) -> None:
        """Let go of it; it is gone when nobody else has it."""
        os.close(self._fd)

    remove = close


def _open_file(pid: int, number: int) -> memoryview:
    fd = os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
    except ValueError as error:  # it is another file by now, an empty one
        raise FileNotFoundError(*error.args) from None
    finally:
        os.close(fd)


def _make_named(size: int) -> Named:
    from aiopool._wire.named import Named  # what it loads costs workers milliseconds

    return Named(size)


def _open_named(name: str) -> memoryview:
    from aiopool._wire.named import open_named

    return open_named(name)


def _layout(lengths: Sequence[int]) -> tuple[list[int], int]:
    """Where pieces of these lengths begin, and where the last one ends."""
    end = _HEADER.size + 8 * len(lengths)
    starts = []
    for length in lengths:
        start = -(-end // _ALIGNED) * _ALIGNED
        starts.append(start)
        end = start + length
    return starts, end
