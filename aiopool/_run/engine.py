"""The engine room: it owns the venues and their backends and performs what the core decides.

Work comes in as workloads with a sink to tell; every change ends in ``changed``, which asks each
venue what should start now. What backends tell is turned into a verdict here: a value or a final
error goes to the sink, an error that its policy forgives rests in a timer and comes back.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, final

from aiopool._core.retry import verdict
from aiopool.errors import NotTransferable, TaskTimeout, WorkerCrashed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiopool._core.scheduler import Venue
    from aiopool._core.workload import Batch, Workload
    from aiopool._run.gate import Gate
    from aiopool._run.news import News


_BURST: Final = 0.001
"""Seconds of adding calls after which the pool does not wait for the loop to turn."""


class Sink(Protocol):
    """Who is told how the calls of a workload end; each call once."""

    def values(self, batch: Batch, values: Sequence[Any], seconds: float, pid: int | None) -> None:
        """These calls returned."""

    def error(self, batch: Batch, error: Exception, seconds: float, pid: int | None) -> None:
        """This one failed for good."""

    def attempted(self, batch: Batch, seconds: float, pid: int | None) -> None:
        """An attempt failed and another is to follow."""

    def stopped(self, batch: Batch) -> None:
        """These were stopped, or will not start."""

    def ended(self) -> None:
        """No more calls will be taken from the input."""


class Backend(Protocol):
    """Where calls run."""

    def assign(self, now: float) -> None:
        """Start what is to start now."""

    def stop(self, workload: Workload, error: Exception | None) -> None:
        """Stop the calls of a workload that were started."""


class Counts:
    """How many calls have ended, and how, since the pool was opened."""

    __slots__ = ("cancelled", "done", "failed", "retried")

    def __init__(self) -> None:
        self.done = self.failed = self.cancelled = self.retried = 0


@final
class Engine:
    """What runs a pool's calls; the ``Client`` of its backends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, news: News) -> None:
        self.loop = loop
        self.counts = Counts()
        self.venues: dict[object, Venue] = {}
        self._backends: dict[object, Backend] = {}
        self._places: tuple[tuple[Venue, Backend], ...] = ()  # the same, to go through
        self._news = news
        self._live: dict[Workload, asyncio.TimerHandle | None] = {}  # and its deadline's timer
        self._resting = 0
        self._packing: set[Workload] = set()  # single calls whose arguments are being pickled
        self._assigning = self._dirty = self._scheduled = False
        self._empty = asyncio.Event()
        self._looked = 0.0  # when it was last asked what should start
        self.gate: Callable[[Any, str], Any]  # the venue of calls that pass a limiter first
        self.on_room: Callable[[], None] | None = None  # told when calls may have left the queues
        self.on_burst: Callable[[], None] | None = None  # takes in what workers have answered

    # What comes in ------------------------------------------------------------------------

    def install(self, name: object, venue: Venue, backend: Backend) -> None:
        """Add a place where calls run."""
        self.venues[name] = venue
        self._backends[name] = backend
        self._places = tuple(zip(self.venues.values(), self._backends.values(), strict=True))

    def add(self, workload: Workload) -> None:
        """Take in a workload; its sink will be told of each of its calls."""
        deadline = workload.settings.deadline
        timer = None
        if deadline is not None:
            left = workload.since + deadline - monotonic()
            timer = self.loop.call_later(left, self._expire, workload, deadline)
        self._live[workload] = timer
        if workload.settings.limiter is not None:
            workload.venue = self.gate(workload.settings.limiter, workload.venue)
        venue = self.venues[workload.venue]
        venue.population += 1
        if workload.packing is not None:
            self._packing.add(workload)
            self.packed(workload)
        if workload.settings.fairness_key is not None:
            venue.be_fair()
        venue.wake(workload)
        if self._scheduled:
            if workload.since > self._looked + _BURST:
                self._amid_burst()
            return
        if venue.idle:
            self.changed()  # nothing to gather with: a loop turn saved
        else:
            self.soon()

    def _amid_burst(self) -> None:
        """Workers are not to wait because calls are being added without a turn of the loop."""
        self._looked = monotonic()
        if self.on_burst is not None:
            self.on_burst()
        self.changed()

    def more(self, workload: Workload) -> None:
        """A workload's source has something to take again."""
        self.venues[workload.venue].wake(workload)
        self.soon()

    def packed(self, workload: Workload) -> None:
        """The argument of a single call may have been pickled apart; harmless at any time."""
        job = workload.packing
        if workload in self._live and not workload.stopped and job is not None and job.done():
            workload.packing = None
            self._packing.discard(workload)
            try:
                workload.pack(job.result())
            except NotTransferable as error:
                self.stop(workload, error)
            else:
                self.more(workload)

    def moved(self, workload: Workload) -> None:
        """A workload's priority has changed."""
        self.venues[workload.venue].moved(workload)

    def stop(self, workload: Workload, reason: Exception | None = None) -> None:
        """Stop a workload: its calls end with ``reason``, or cancelled if there is none."""
        if workload.stopped or workload not in self._live:
            return
        self._resting -= len(workload.resting or ())
        self._packing.discard(workload)
        dropped, sink = workload.stop(reason), workload.sink
        self.venues[workload.venue].drop(workload)
        for batch in dropped:
            self._tell_stopped(batch, started=False)
        sink.ended()
        if workload.running:
            self._backends[workload.venue].stop(workload, reason)
        self.soon()

    def stop_all(self) -> None:
        """Stop everything."""
        for workload in list(self._live):
            self.stop(workload)

    def concluded(self, workload: Workload) -> None:
        """A sink has been told of all calls of its workload."""
        workload.sink = None  # the two hold each other, and a large result until a collection
        workload.context = None  # it may hold a call that led to this one, and so on
        timer = self._live.pop(workload)
        if timer is not None:
            timer.cancel()
        name: object = workload.venue
        venue = self.venues[name]
        venue.population -= 1
        if not venue.population and isinstance(name, tuple):  # a gate nobody waits at any more
            del self.venues[name], self._backends[name]
            self._places = tuple(zip(self.venues.values(), self._backends.values(), strict=True))
        if not self._live:
            self._empty.set()

    @property
    def live(self) -> Iterable[Workload]:
        """The workloads not concluded, oldest first."""
        return self._live

    @property
    def gates(self) -> list[Gate]:
        """The limiters that calls stand at."""
        gates = [self._backends[name] for name in self._backends if isinstance(name, tuple)]
        return cast("list[Gate]", gates)

    @property
    def pending(self) -> int:
        """Submitted calls, maps and streams that wait for their turn or their next attempt."""
        queued = sum(len(venue.queue) + venue.parked for venue in self.venues.values())
        return queued + self._resting + len(self._packing)

    async def until_empty(self) -> None:
        """Wait until every workload is concluded."""
        while self._live:
            self._empty.clear()
            await self._empty.wait()

    # What is to start ---------------------------------------------------------------------

    def soon(self) -> None:
        """Have ``changed`` called before the loop waits again, once for a burst of changes."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn)

    def changed(self) -> None:
        """Start whatever should run now. Idempotent; harmless at any time."""
        if self._assigning:
            self._dirty = True
            return
        self._assigning = self._dirty = True
        try:
            while self._dirty:
                self._dirty = False
                now = self._looked = monotonic()
                for venue, backend in self._places:
                    if venue.queue.size:
                        backend.assign(now)
        finally:
            self._assigning = False
        if self.on_room is not None:
            self.on_room()

    def _turn(self) -> None:
        self._scheduled = False
        self.changed()

    # What backends tell -------------------------------------------------------------------

    def succeeded(
        self, batch: Batch, values: Sequence[Any], seconds: float, pid: int | None
    ) -> None:
        """These calls returned."""
        workload = batch.workload
        if workload.stopped and workload.reason is None:
            self._tell_stopped(batch, started=True)
            return
        workload.sink.values(batch, values, seconds, pid)
        if workload.silent:
            return
        self.counts.done += len(batch)
        if self._news.wanted:
            self._news.finished(batch, seconds, pid, None)

    def failed(self, batch: Batch, error: Exception, seconds: float, pid: int | None) -> None:
        """This call failed in this attempt: it fails for good, or rests and is tried again."""
        workload = batch.workload
        if workload.stopped:
            self._tell_stopped(batch, started=True)
            return
        delay = self._delay(batch, error)
        if delay is not None:
            self._rest(batch, delay, error, seconds, pid)
            return
        workload.sink.error(batch, error, seconds, pid)
        if workload.silent:
            return
        self.counts.failed += 1
        if self._news.wanted:
            self._news.finished(batch, seconds, pid, error)

    def stopped(self, batch: Batch, *, started: bool) -> None:
        """These calls were stopped as asked."""
        self._tell_stopped(batch, started=started)

    def returned(self, batch: Batch) -> None:
        """These calls were not started: they go to the head of the queue."""
        if batch.workload.stopped:
            self._tell_stopped(batch, started=False)
        else:
            self.venues[batch.workload.venue].give_back(batch)

    def settled(self, batch: Batch) -> None:
        """A place is free."""
        venue = self.venues.get(batch.workload.venue)
        if venue is not None:
            venue.settle(batch)

    def refused(self, error: Exception) -> None:
        """No worker can be started: what waits for one fails."""
        for workload in list(self.venues["process"].queue):
            reason = WorkerCrashed(workload.name, reason=f"no worker could start: {error}")
            reason.__cause__ = error
            self.stop(workload, reason)

    def worker_started(self, pid: int | None) -> None:
        """A worker process is ready."""
        if self._news.wanted:
            self._news.worker_started(pid)

    def worker_ended(self, pid: int | None, *, crashed: bool) -> None:
        """A worker process is gone."""
        if self._news.wanted:
            self._news.worker_ended(pid, crashed=crashed)

    # Verdicts -----------------------------------------------------------------------------

    def _delay(self, batch: Batch, error: Exception) -> float | None:
        """Seconds until another attempt, None if there is none."""
        retry = batch.workload.settings.retry
        if retry is None or isinstance(error, NotTransferable):
            return None
        now = monotonic()
        began = now if batch.began is None else batch.began
        return verdict(retry, error, attempts=batch.attempt, started=began, now=now)

    def _rest(
        self, batch: Batch, delay: float, error: Exception, seconds: float, pid: int | None
    ) -> None:
        """Let a failed call wait out its backoff, holding nothing meanwhile."""
        workload = batch.workload
        workload.sink.attempted(batch, seconds, pid)
        again = batch.part(0, 1, attempt=batch.attempt + 1)
        workload.rest(again)
        self._resting += 1
        self.counts.retried += 1
        self.loop.call_later(delay, self.try_again, again)
        if self._news.wanted:
            self._news.retrying(batch, error, delay)

    def try_again(self, batch: Batch) -> None:
        """A backoff has ended: the call goes back in line, once its door lets it in."""
        workload = batch.workload
        if workload.door is not None and not workload.door.lets_in(batch):
            return  # the door will ask again
        if workload.wake(batch):
            self._resting -= 1
            self.venues[workload.venue].give_back(batch)
            self.changed()

    def _tell_stopped(self, batch: Batch, *, started: bool) -> None:
        """Calls of a stopped workload end cancelled, or with the reason for stopping."""
        if not started:  # this attempt was none
            batch = batch.part(0, len(batch), attempt=batch.attempt - 1)
        reason = batch.workload.reason
        sink = batch.workload.sink
        if reason is None:
            sink.stopped(batch)
        else:
            for place in range(len(batch)):
                sink.error(batch.part(place, place + 1), reason, 0.0, None)
        if batch.workload.silent:
            return
        self.counts.cancelled += len(batch) if reason is None else 0
        self.counts.failed += len(batch) if reason is not None else 0
        if self._news.wanted:
            self._news.stopped(batch, reason)

    def _expire(self, workload: Workload, deadline: float) -> None:
        self.stop(workload, TaskTimeout(workload.name, deadline, "deadline"))
