"""Lines out to a file or standard output: whole, in groups, and at once when there are few.

A group is one ``write`` of whole lines, at most as many bytes as a pipe takes whole, so a program
that reads them never sees half a line, however this one ends. What piled up since the last write
goes together, and as a write follows as soon as the loop has nothing better to do, a single answer
does not wait. The loop is not held up where the reader is slow: the lines wait, and those who add
to them with ``room``.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
from typing import Final, final

from aiopool._cli.mistakes import Mistake
from aiopool._cli.readiness import Readiness

_GROUP: Final = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe takes whole; a longer line may arrive in parts."""

_MOST: Final = 1 << 18
"""Characters that may wait to be written."""


@final
class Lines:
    """A file that is being written, or standard output.

    ``written`` is a task of its own, which ends after ``end`` or with what writing raised.
    """

    def __init__(self, fd: int, name: str, *, is_ours: bool = True) -> None:
        self._fd = fd
        self._name = name
        self._added: list[str] = []
        self._size = 0  # characters in it
        self._left = memoryview(b"")  # of it, encoded: what is being written
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._is_ours = is_ours
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._readiness = Readiness(fd, to_write=True)

    def empty(self) -> None:
        """Drop what a file of ours held before."""
        if self._is_file and self._is_ours:
            os.ftruncate(self._fd, 0)

    def add(self, line: str) -> bool:
        """Have a line written soon; whether there is no more room."""
        if not self._added:
            self._news.set()
        self._added.append(line)
        self._size += len(line)
        return self._size > _MOST

    async def room(self) -> None:
        """Wait until there is room for more."""
        while self._size > _MOST:
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """No more lines are added."""
        self._ended = True
        self._news.set()

    async def written(self) -> None:
        """Write what is added until the end; raises ``BrokenPipeError`` or ``Mistake``."""
        while not self._ended or self._added:
            await self._news.wait()
            self._news.clear()
            while self._take():
                await self._readiness.wait()
                self._write()

    def finish(self) -> None:
        """Write at once what is left, and wait for a slow reader; after an interrupt."""
        while self._take():
            self._readiness.block()
            self._write()

    def close(self) -> None:
        """Let go of it; the descriptor stays open."""
        self._readiness.close()

    def _take(self) -> bool:
        """Whether there is something to write."""
        if not self._left and self._added:
            self._left = memoryview("".join(self._added).encode())
            self._added.clear()
            self._size = 0
            self._room.set()
        return bool(self._left)

    def _write(self) -> None:
        """Write one group."""
        group = self._left
        if len(group) > _GROUP:
            end = bytes(group[:_GROUP]).rfind(b"\n") + 1
            if not end:  # a file takes a long line whole; anything else could hold up the loop
                end = bytes(group).find(b"\n") + 1 if self._is_file else _GROUP
            group = group[:end]
        try:
            count = os.write(self._fd, group)
        except BlockingIOError:  # somebody else made it so, and was quicker
            return
        except BrokenPipeError:
            raise
        except OSError as error:
            message = f"{self._name}: {os.strerror(error.errno or 0)}; make room and run it again"
            raise Mistake(message) from None
        self._left = self._left[count:]
