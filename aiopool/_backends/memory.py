"""Ends workers whose memory grows far beyond what they may hold while a call runs.

A worker that holds a little too much is replaced between calls and costs nobody anything. One that
holds twice as much in the middle of a call is about to cost the machine everything, and is killed.
Linux only: elsewhere a process cannot be asked what another one holds, and nothing is looked at.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, final

from aiopool._wire.memory import held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiopool._core.scheduler import Slot

MULTIPLE: Final = 2
"""How many times its bound a worker may hold before its call is ended."""

_INTERVAL: Final = 0.05
"""Seconds between two looks while calls run."""


class Lane(Protocol):
    """A worker."""

    slot: Slot

    @property
    def pid(self) -> int | None:
        """Its process."""

    def condemn(self, why: str) -> None:
        """Kill it, if it runs a call, which fails and says why."""


@final
class MemoryWatch:
    """Looks after the memory of a pool's workers while they are busy."""

    def __init__(self, bound: int, lanes: Callable[[], Iterable[Lane]]) -> None:
        self._most = MULTIPLE * bound
        self._bound = bound
        self._lanes = lanes
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Calls were sent: look at who runs them, from time to time."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        busy = [lane for lane in self._lanes() if lane.slot.load]
        for lane in busy:
            size = _resident(lane.pid)
            if size > self._most:
                lane.condemn(
                    f"it held {size >> 20} MiB, more than {MULTIPLE} times max_worker_memory "
                    f"({self._bound >> 20} MiB)"
                )
        if busy:
            self.arm()


def _resident(pid: int | None) -> int:
    """Bytes of memory a process holds, without what it shares; 0 if that cannot be known."""
    try:
        return 0 if pid is None else held(pid)
    except (OSError, ValueError):  # it is gone, or about to be
        return 0
