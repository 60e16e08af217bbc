"""Shared memory with a name, for where a descriptor cannot be reached from another process."""

from __future__ import annotations

import os
from multiprocessing.shared_memory import SharedMemory
from typing import final


@final
class Named:
    """Named shared memory."""

    def __init__(self, size: int) -> None:
        self._shared = _Quiet(create=True, size=size)
        self.place = self._shared.name, 0

    def write(self, start: int, data: memoryview) -> None:
        """Fill a part of it."""
        _view(self._shared)[start : start + len(data)] = data

    def close(self) -> None:
        """Let go of it."""
        self._shared.close()

    def remove(self) -> None:
        """Remove its name as well; it is gone when nobody else has it."""
        self._shared.close()
        self._shared.unlink()


class _Quiet(SharedMemory):
    """Does not complain when it is closed while somebody looks at it: the map stays for them."""

    def close(self) -> None:
        try:
            super().close()
        except BufferError:
            fd, self._fd = getattr(self, "_fd", -1), -1
            if fd >= 0:
                os.close(fd)


def open_named(name: str) -> memoryview:
    """What the memory of that name holds, read-only; raises FileNotFoundError if it is gone."""
    memory = _Quiet(name)
    return _view(memory).toreadonly()


def _view(memory: SharedMemory) -> memoryview:
    assert memory.buf is not None  # it is open
    return memory.buf
