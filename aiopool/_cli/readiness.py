"""Whether a pipe or a terminal can be read or written without waiting, and waiting until it can.

The event loop watches an epoll object that watches the descriptor, and not the descriptor, because
uvloop makes what it watches non-blocking: for everybody who shares it, such as the shell.
"""

from __future__ import annotations

import asyncio
import select
from typing import final


@final
class Readiness:
    """That of one descriptor; ``is_known`` is False of a file, and where there is no epoll."""

    def __init__(self, fd: int, *, to_write: bool) -> None:
        self.is_known = hasattr(select, "epoll")
        if not self.is_known:
            return
        self._epoll = select.epoll()
        try:
            self._epoll.register(fd, select.EPOLLOUT if to_write else select.EPOLLIN)
        except PermissionError:  # a file, or /dev/null
            self.close()
            self.is_known = False

    def now(self) -> bool:
        """Whether there is no need to wait."""
        return not self.is_known or bool(self._epoll.poll(0))

    async def wait(self) -> None:
        """Wait until there is none, and let the loop turn meanwhile."""
        if self.now():
            return
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._epoll, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._epoll)

    def block(self) -> None:
        """Wait until there is none, and let nothing else happen."""
        if self.is_known:
            self._epoll.poll()

    def close(self) -> None:
        """Watch no more."""
        if self.is_known:
            self._epoll.close()
