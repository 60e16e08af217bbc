"""The worker processes of a pool as one backend: started as needed, replaced, retired, let go.

Workers start when there is work for them, several at once, and a dead one is replaced at once.
Where they keep dying without finishing a call the next start waits ever longer, up to a second;
where they cannot start at all, the calls that wait for one fail and say why.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, final

from aiopool._backends import leaving
from aiopool._backends.lane import Lane, State
from aiopool._backends.launch import preload
from aiopool._backends.memory import MemoryWatch
from aiopool._backends.output import logger_levels
from aiopool._backends.packing import Packing
from aiopool._backends.parcels import TURN, encode, ready_parcel
from aiopool._backends.threads import join
from aiopool._backends.vigil import SHORT, Vigil
from aiopool._core.scheduler import LanedVenue, Slot
from aiopool._wire import shared
from aiopool._worker.main import Plan
from aiopool.errors import WorkerCrashed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.context import BaseContext

    from aiopool._backends.base import Client
    from aiopool._backends.parcels import Parcel
    from aiopool._core.workload import Batch, Workload

_log: Final = logging.getLogger("aiopool")
_RETRY_START: Final = 0.5
"""Seconds until a start is tried again after one has failed."""

_KILLED_STARTS: Final = 3
"""Crashes in a row up to which a start that a signal ended is just tried again."""

_FREE_CRASHES: Final = 8
"""Crashes in a row, with no call finished in between, after which starts begin to wait."""


@final
class Fleet:
    """All the lanes of one pool."""

    def __init__(  # noqa: PLR0913 - the pool's own parameters, passed on
        self,
        client: Client,
        venue: LanedVenue,
        *,
        size: int,
        context: BaseContext,
        grace: float,
        initializer: bytes | None,
        max_tasks: int | None,
        max_memory: int | None,
        vigilant: bool,
        forward_output: bool,
        start_timeout: float,
    ) -> None:
        self._client = client
        self._venue = venue
        self._size = size
        self._context = context
        self._grace = grace
        self._initializer = initializer
        self._max_tasks = max_tasks
        self._max_memory = max_memory
        self._forward_output = forward_output
        self._start_timeout = start_timeout
        self.packing = Packing(client, venue)
        self._keeper = _keeper(size + 2)
        self._vigil = Vigil() if vigilant else None
        self._lanes: dict[Slot, Lane] = {}
        self._memory = None if max_memory is None else MemoryWatch(max_memory, self._lanes.values)
        self._crashes = 0  # in a row
        self._pause: asyncio.TimerHandle | None = None  # until which no worker is started
        self._paused = False  # before the next start, which so may come after any crashes
        self._closing = False
        self._emptied: asyncio.Event = asyncio.Event()
        self.crashed = 0
        self._loop = asyncio.get_running_loop()
        shared.watchers.add(self._object_gone)
        if context.get_start_method() == "forkserver":
            preload()

    @property
    def lanes(self) -> Iterable[Lane]:
        """The lanes there are, starting ones included."""
        return self._lanes.values()

    def assign(self, now: float) -> None:
        """Send what is to be sent now, and start workers for what is left."""
        outgoing: dict[Slot, list[Parcel]] = {}
        for slot, batch in self._venue.assign(now):
            parcels = self._load(slot, batch)
            if slot in outgoing:
                outgoing[slot] += parcels
            else:
                outgoing[slot] = parcels
            if batch.payloads is None and monotonic() > now + TURN:  # pickling took that long
                self._client.soon()
                break
        for slot, parcels in outgoing.items():
            self._lanes[slot].send(parcels)
        if self._vigil is not None and self._venue.expects_soon(SHORT):
            self._vigil.begin(now)
        if self._memory is not None:
            self._memory.arm()
        if self._venue.queue.size:
            self._grow()

    def stop(self, workload: Workload, error: Exception | None) -> None:
        """Stop the calls of a workload that workers have."""
        self.packing.stop(workload)
        for lane in list(self._lanes.values()):
            lane.stop(workload, error)

    def catch_up(self) -> None:
        """Take in what workers have answered while the loop was kept from turning."""
        for lane in list(self._lanes.values()):
            lane.catch_up()

    async def close(self) -> None:
        """Let all workers go, at most a grace period and what killing takes; idempotent."""
        self._closing = True
        shared.watchers.discard(self._object_gone)
        if self._pause is not None:
            self._pause.cancel()
        if self._memory is not None:
            self._memory.stop()
        for lane in list(self._lanes.values()):
            lane.close()
        while self._lanes:
            self._emptied.clear()
            await self._emptied.wait()
        await self.packing.close(self._grace)
        await join(self._keeper)

    def lane_ready(self, lane: Lane) -> None:
        """A worker takes calls."""
        self._client.worker_started(lane.pid)
        self._client.changed()

    def lane_idle(self, lane: Lane, resident: int) -> None:
        """A worker has finished what it had, so workers are well; retire this one if it is due."""
        self._crashes = 0
        if self._vigil is not None:
            self._vigil.end()
        spent = lane.slot.allowance == 0
        if spent or (self._max_memory is not None and resident > self._max_memory):
            lane.close()

    def lane_dead(self, lane: Lane, error: Exception | None) -> None:
        """A worker is gone; start another unless it was let go for good."""
        crashed = lane.crashed
        del self._lanes[lane.slot]
        self._venue.slots.remove(lane.slot)
        leaving.forget(lane)
        self._emptied.set()
        self._client.worker_ended(lane.pid, crashed=crashed)
        if self._closing:
            return
        killed = isinstance(error, WorkerCrashed) and error.signal_name is not None
        self._crashes += crashed or killed
        self.crashed += crashed
        if crashed or (killed and self._crashes <= _KILLED_STARTS):  # it says nothing of the next
            self._open_lane()
        elif error is not None:
            self._cannot_start(error)
        self._client.changed()

    def _object_gone(self) -> None:
        """The handle of a shared object is gone, as seen by any thread."""
        with suppress(RuntimeError):  # the loop is closed, and the workers are with it
            self._loop.call_soon_threadsafe(self._sweep)

    def _sweep(self) -> None:
        for lane in self._lanes.values():
            lane.sweep()

    def _load(self, slot: Slot, batch: Batch) -> list[Parcel]:
        """Encode a batch for its worker; what cannot go fails, what is too much waits."""
        if batch.payloads is not None:
            return [ready_parcel(batch)]
        parcels, refused, rest, unhurried = encode(batch)
        if len(parcels) == 1 and not refused and rest is None:
            return parcels
        self._venue.split(batch, max(len(parcels), 1))
        unsent = len(refused) + (len(rest) if rest else 0)
        self._venue.unload(slot, unsent, batch.workload.cost.seconds or 0.0)
        for call in refused:
            self._client.failed(call.batch, call.error, 0.0, None)
        if rest and unhurried and not batch.workload.stopped:
            self.packing.batch(rest)
        elif rest:
            self._client.returned(rest)
        if not parcels:
            self._client.settled(batch)
        return parcels

    def _grow(self) -> None:
        """Start as many workers as the queued calls could keep busy."""
        if self._pause is not None or self._closing:
            return
        starting = sum(lane.state is State.STARTING for lane in self.lanes)
        room = self._size - len(self._lanes)
        for _ in range(min(room, self._venue.backlog(self._size) - starting)):
            self._open_lane()

    def _open_lane(self) -> None:
        if self._crashes > _FREE_CRASHES and not self._paused:
            delay = min(1.0, 0.01 * 2 ** (self._crashes - _FREE_CRASHES))
            self._wait(delay)
            return
        self._paused = False
        slot = Slot(self._max_tasks)
        lane = Lane(
            fleet=self,
            client=self._client,
            venue=self._venue,
            slot=slot,
            keeper=self._keeper,
            grace=self._grace,
        )
        self._lanes[slot] = lane
        self._venue.slots.append(slot)
        leaving.remember(lane)
        measure = self._max_memory is not None
        levels = logger_levels() if self._forward_output else None
        lane.start(self._context, Plan(self._initializer, measure, levels), self._start_timeout)

    def _wait(self, delay: float) -> None:
        """Start no worker for so many seconds."""
        if self._pause is None:
            self._pause = self._loop.call_later(delay, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._paused = True
        self._client.changed()

    def _cannot_start(self, error: Exception) -> None:
        """A worker did not get ready: others carry on, or those who wait for one are told."""
        self._wait(_RETRY_START)
        if any(lane.state in (State.READY, State.STARTING) for lane in self.lanes):
            if not leaving.begun():  # an exiting interpreter makes do with those it has
                _log.warning("aiopool could not start a worker: %r", error)
        else:
            self._client.refused(error)


def _keeper(count: int) -> ThreadPoolExecutor:
    """Threads for what blocks; all of them at once where they could not be had at exit."""
    keeper = ThreadPoolExecutor(count, thread_name_prefix="aiopool keeper")
    if leaving.NO_THREADS:
        all_there = threading.Barrier(count)
        for _ in range(count):
            keeper.submit(all_there.wait)
    return keeper
