"""What a lane does about time: bounds that run out, stops that were asked for, calls stuck behind.

``look`` compares the worker's slate with what was sent and does what is due now: interrupt the
call whose time is up, kill the worker if it has not let go after the grace period, and take back
calls that wait behind one that turned out long. It says itself when it must look again, and may
be asked at any time besides.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final, final

from aiopool._wire.slate import FINISHED, SETTLING, SINCE, SKIP_FROM, SKIP_TO, STARTED, TARGET
from aiopool.errors import TaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiopool._backends.flights import Call, Flight, Flights
    from aiopool._backends.process import WorkerProcess
    from aiopool._core.scheduler import Slot
    from aiopool._core.workload import Workload

_PATIENCE: Final = 0.010
"""Seconds a worker may be late before the calls that wait with it are taken back."""


@final
class Watch:
    """One lane's timekeeper."""

    def __init__(  # noqa: PLR0913 - what it watches and whom it tells
        self,
        *,
        process: WorkerProcess,
        flights: Flights,
        slot: Slot,
        grace: float,
        taken_back: Callable[[list[Flight]], None],
        collect: Callable[[], None],
    ) -> None:
        self._process = process
        self._flights = flights
        self._slot = slot
        self._grace = grace
        self._taken_back = taken_back
        self._collect = collect  # takes results that the worker has not sent
        self._nudged = 0  # the call in which it was last asked to send them
        self._stopping: dict[int, Exception | None] = {}  # call → why; None: it was cancelled
        self._interrupted = 0  # the call that was interrupted last
        self._kill_at = inf
        self._confirm_at = inf  # when calls to be skipped are certain not to start
        self._skip_from = self._skip_to = 0  # the calls that are to be taken back then
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = inf

    def stop(self, workload: Workload, error: Exception | None) -> None:
        """Stop all calls of a workload that this worker has; they end with ``error``."""
        for flight in self._flights:
            if flight.batch.workload is workload:
                for seq in range(flight.first + flight.settled, flight.stop):
                    self._stopping.setdefault(seq, error)
        self.look()

    def was_stopped(self, seq: int) -> bool:
        """Whether this call was to be stopped."""
        return seq in self._stopping

    def reason(self, seq: int) -> Exception | None:
        """Forget that a call was to be stopped; with what error, None if it was cancelled."""
        return self._stopping.pop(seq, None)

    def forget(self, first: int, count: int) -> None:
        """These calls have been told of."""
        if self._stopping:
            for seq in range(first, first + count):
                self._stopping.pop(seq, None)

    def arm(self) -> None:
        """See to it that a look is taken in time for what is with the worker now."""
        shortest = self._flights.shortest if self._flights else inf
        several = self._slot.load > 1
        if several or shortest < inf:
            now = monotonic()
            late = max(self._slot.due - now, 0) + _PATIENCE if several else inf
            self._look_by(now + min(shortest, late), now)

    def look(self) -> None:
        """Do what is due now and arrange for the next look."""
        self._disarm()
        if not self._flights:
            return
        now = monotonic()
        words = self._process.words
        running = self._flights.find(words[STARTED])
        wake = inf if running is None else self._tend_running(running, now)
        wake = min(wake, self._tend_waiting(running, now))
        if self._stopping:
            wake = min(wake, now + _PATIENCE)  # one of them may just be about to start
        if wake < inf:
            self._look_by(wake, now)
        else:
            self.arm()

    def end(self) -> None:
        """The worker is gone."""
        self._disarm()
        self._stopping.clear()

    def _tend_running(self, call: Call, now: float) -> float:
        """Interrupt or kill the running call if its time is up; when to look at it again."""
        seq = call.seq
        if self._process.words[FINISHED] >= seq:
            return now + _PATIENCE  # its result is on the way
        settings = call.flight.batch.workload.settings
        if settings.timeout is not None and seq not in self._stopping:
            ends = self._process.words[SINCE] / 1e9 + settings.timeout
            if now < ends:
                return ends
            name = call.flight.batch.workload.name
            self._stopping[seq] = TaskTimeout(name, settings.timeout)
        if seq not in self._stopping:
            return inf
        if self._interrupted != seq:
            self._interrupted = seq
            self._kill_at = now + self._grace
            self._process.words[TARGET] = seq
            self._process.interrupt()
            self._skip(seq + 1, now)  # nothing innocent starts in a worker about to be killed
        if now >= self._kill_at:
            self._process.kill()
            return inf
        return self._kill_at

    def _tend_waiting(self, running: Call | None, now: float) -> float:
        """Take back calls that wait and should not; when to look at them again."""
        started = self._process.words[STARTED]
        if self._confirm_at <= now:
            self._confirm_at = inf
            first = max(self._skip_from, started + 1)
            self._taken_back(self._flights.cut(first, self._skip_to))
        elif self._confirm_at < inf:
            return self._confirm_at
        unwanted = min((seq for seq in self._stopping if seq > started), default=0)
        if unwanted:
            self._skip(unwanted, now)
        elif running is not None and self._slot.load > 1:
            late_at = self._slot.due + _PATIENCE
            if now < late_at:
                return late_at
            self._skip(started + 1, now)
            self._ask_for_results(started)
        return self._confirm_at

    def _ask_for_results(self, started: int) -> None:
        """Do not let finished calls wait for the running one to end."""
        if self._nudged != started and self._process.words[FINISHED] + 1 < started:
            self._nudged = started
            self._process.interrupt()  # untargeted: have it hand in what is finished
            self._collect()

    def _skip(self, seq: int, now: float) -> None:
        """Tell the worker not to start any call from this one on of those it was sent."""
        if not self._flights.unstarted(seq - 1):
            return
        words = self._process.words
        passed = words[STARTED] + 1 >= words[SKIP_TO]
        words[SKIP_FROM] = seq if passed else min(seq, words[SKIP_FROM])
        words[SKIP_TO] = self._skip_to = self._flights.next
        self._slot.open = False
        self._skip_from = seq if self._confirm_at == inf else min(seq, self._skip_from)
        self._confirm_at = now + SETTLING

    def _look_by(self, when: float, now: float) -> None:
        if when >= self._look_at:
            return
        self._disarm()
        self._look_at = when
        delay = max(when - now, 0.001)
        self._timer = asyncio.get_running_loop().call_later(delay, self.look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._look_at = inf
