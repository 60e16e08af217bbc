"""One worker process of the pool: batches out, results in, and the account when it dies.

::

    starting ── HELLO ──▶ ready ── close ──▶ closing ──▶ dead
        └── refused, died ──┴───── died ──────────────────▶

A lane is replaced, never repaired. Its slate then says which call was executing: that one alone
fails; calls told of keep their results; the others go back to the queue, and no attempt is counted.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from aiopool._backends.addresses import Addresses
from aiopool._backends.flights import Flights
from aiopool._backends.launch import why_not_started
from aiopool._backends.output import RELAYED, Relay
from aiopool._backends.process import WorkerProcess
from aiopool._backends.watch import Watch
from aiopool._wire.failure import decode_failure, remote_error
from aiopool._wire.journal import Journal
from aiopool._wire.messages import CALLS, ERROR, HELLO, INTERRUPTED, REFUSED, SKIPPED, VALUE, VALUES
from aiopool._wire.pickling import loads, seal, unpack
from aiopool._wire.slate import FINISHED, SENT, STARTED
from aiopool.errors import WorkerCrashed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext

    from aiopool._backends.base import Client
    from aiopool._backends.flights import Call, Flight
    from aiopool._backends.parcels import Parcel
    from aiopool._core.scheduler import LanedVenue, Slot
    from aiopool._core.workload import Batch, Workload
    from aiopool._wire.framing import Frame
    from aiopool._wire.messages import Segment
    from aiopool._worker.main import Plan

_GROUPS: Final = 256
"""Batches in one frame; with the bound on a pickle's buffers it bounds those of a frame."""


class State(Enum):
    """Where a lane is in its life."""

    STARTING = "starting"
    READY = "ready"
    CLOSING = "closing"
    DEAD = "dead"


class Fleet(Protocol):
    """Who is told how a lane fares."""

    def lane_ready(self, lane: Lane) -> None:
        """It takes calls."""

    def lane_idle(self, lane: Lane, resident: int) -> None:
        """It has nothing to do; ``resident`` is its memory in bytes if measured, else 0."""

    def lane_dead(self, lane: Lane, error: Exception | None) -> None:
        """It is gone and reaped; ``error`` says why it could not start, None if it had."""


@final
class Lane:
    """One worker, from its start to its end."""

    def __init__(  # noqa: PLR0913 - what joins a lane to the rest, said once
        self,
        *,
        fleet: Fleet,
        client: Client,
        venue: LanedVenue,
        slot: Slot,
        keeper: Executor,
        grace: float,
    ) -> None:
        self.state = State.STARTING
        self.crashed = False  # whether it died of itself after it was ready
        self.slot = slot
        self._fleet = fleet
        self._client = client
        self._venue = venue
        self._grace = grace
        self._process = WorkerProcess(self, keeper)
        self._flights = Flights()
        self._watch = Watch(
            process=self._process,
            flights=self._flights,
            slot=slot,
            grace=grace,
            taken_back=self._taken_back,
            collect=self._collect,
        )
        self._addresses = Addresses()
        self._relay = Relay(self._flights.name)
        self._refusal: Exception | None = None  # why it could not start
        self._fault: str | None = None  # why its running call had to die with it
        self._starting: asyncio.Task[None] | None = None
        self._overdue: asyncio.TimerHandle | None = None
        self._resident = 0

    @property
    def pid(self) -> int | None:
        """The worker's process id, None before there is one."""
        return self._process.pid

    @property
    def born(self) -> float:
        """When it was started, on the monotonic clock."""
        return self._process.born

    @property
    def task(self) -> str | None:
        """The name of the call it executes, None if it is idle."""
        running = self._running()
        return None if running is None else running.flight.batch.workload.name

    @property
    def flights(self) -> Iterable[Flight]:
        """What it was sent and has not told of, oldest first."""
        return self._flights

    def start(self, context: BaseContext, plan: Plan, timeout: float) -> None:
        """Start the worker; the fleet is told when it is ready, or why it is not.

        It has ``timeout`` seconds to get ready, its initializer included.
        """
        loop = asyncio.get_running_loop()
        self._overdue = loop.call_later(timeout, self._give_up, timeout)
        self._starting = loop.create_task(self._process.start(context, plan))
        self._starting.add_done_callback(self._start_ended)

    def send(self, parcels: list[Parcel]) -> None:
        """Send batches that were encoded for this worker."""
        if len(parcels) <= _GROUPS:
            self._send(parcels)
        else:
            for start in range(0, len(parcels), _GROUPS):
                self._send(parcels[start : start + _GROUPS])
        self._watch.arm()

    def _send(self, parcels: Sequence[Parcel], *, forget: bool = False) -> None:
        forget = forget or self._addresses.is_full(len(parcels))
        if forget:
            self._addresses.forget()
        address, add = self._addresses.group, self._flights.add
        groups = [address(parcel, add(parcel.batch).first) for parcel in parcels]
        self._process.send(CALLS, *seal((forget, groups)))
        self._process.words[SENT] += 1

    def stop(self, workload: Workload, error: Exception | None) -> None:
        """Stop the calls of a workload that are here; they end with ``error`` or as stopped."""
        if self.state is State.READY:
            self._watch.stop(workload, error)

    def catch_up(self) -> None:
        """Take in what the worker has answered, without the event loop."""
        if self._flights:
            self._process.catch_up()

    def sweep(self) -> None:
        """Have the worker let go of shared objects that are gone, and what is bound to them."""
        if self.state is State.READY:
            self._send((), forget=True)

    def condemn(self, why: str) -> None:
        """Kill the worker if it executes a call, which fails and says why."""
        if self.state is State.READY and self._running() is not None:
            self._fault = why
            self._process.kill()

    def close(self) -> None:
        """Let the worker go, killing it after the grace period; the fleet is told when it is."""
        if self.state in (State.STARTING, State.READY):
            hurry = self.state is State.STARTING
            self.state = State.CLOSING
            self._end(hurry=hurry)

    def abandon(self) -> None:
        """End the worker without the event loop: the interpreter exits."""
        if self._starting is not None and not self._starting.done():
            self._starting._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - it is, and nobody can help it
        self._process.abandon()

    def frame_received(self, frame: Frame) -> None:
        """A message of the worker's."""
        try:
            message = loads(frame.body, frame.buffers)
        except Exception:  # noqa: BLE001 - a call wrote into the wrong descriptor, perhaps
            self._process.kill()
            return
        if frame.kind == HELLO:
            self._hello()
        elif frame.kind == REFUSED:
            self._refusal = decode_failure(message, loads)
        elif frame.kind in RELAYED:
            self._relay.received(frame.kind, message)
        else:
            segments, self._resident = message
            for segment in segments:
                self._segment(segment)

    def batch_received(self) -> None:
        """The messages that came together have been dealt with."""
        if not self._flights:
            self._land()
        self._client.changed()
        self._watch.arm()

    def process_ended(self) -> None:
        """The process is gone; what it had written may still be on its way."""
        self._process.drain()

    def connection_ended(self) -> None:
        """The socket has ended, so the worker has, or is of no use any more."""
        if self.state in (State.STARTING, State.READY):
            self._process.kill()
            self._end()

    def _start_ended(self, starting: asyncio.Task[None]) -> None:
        error = None if starting.cancelled() else starting.exception()
        if self.state in (State.CLOSING, State.DEAD):
            self._process.kill()
        elif self.state is State.STARTING and (starting.cancelled() or error is not None):
            self._refusal = error if isinstance(error, Exception) else None
            self._end()

    def _give_up(self, timeout: float) -> None:
        if self.state is State.STARTING:
            self._refusal = TimeoutError(f"a worker was not ready within {timeout:g} s")
            self._process.kill()

    def _hello(self) -> None:
        if self.state is State.STARTING:
            self._process.ready()
            self.state = State.READY
            self.slot.open = self.slot.allowance != 0
            self._fleet.lane_ready(self)

    def _segment(self, segment: Segment) -> None:
        """Pass on how some consecutive calls ended."""
        first, count, spent, kind, payload = segment
        call: Call | None = None
        landed = self._flights.land(first, count)
        if landed is not None:
            batch = landed.batch
            self._venue.progress(self.slot, count, count * landed.seconds)
        elif (call := self._flights.find(first)) is not None:
            count = min(count, len(call.flight.batch.items) - call.place)
            batch = self._settle(call, count)
        else:
            return  # taken back before
        seconds = spent / 1e9
        if kind not in (SKIPPED, INTERRUPTED):
            batch.workload.cost.observe(seconds, count)
        if kind == VALUES:
            self._client.succeeded(batch, loads(payload), seconds, self._process.pid)
        elif kind == VALUE:
            self._value(batch, payload, seconds)
        elif kind == ERROR:
            self._client.failed(batch, decode_failure(payload, loads), seconds, self.pid)
        else:
            self._unfinished(batch, first, stopped=kind == INTERRUPTED)
        self._watch.forget(first, count)
        if call is None:
            self._client.settled(batch)
        elif call.flight.settled >= len(call.flight.batch.items):
            for flight in self._flights.sweep():
                self._client.settled(flight.batch)

    def _collect(self) -> None:
        """Take results from the worker's journal that it cannot, or could not yet, send."""
        for segment in Journal(self._process.slate).read():
            self._segment(segment)

    def _value(self, batch: Batch, payload: Any, seconds: float) -> None:  # noqa: ANN401
        try:
            value = unpack(payload)
        except BaseException as error:  # noqa: BLE001 - a value's own code runs here, in our process
            self._client.failed(batch, remote_error(error), seconds, self.pid)
        else:
            self._client.succeeded(batch, (value,), seconds, self.pid)

    def _unfinished(self, batch: Batch, seq: int, *, stopped: bool) -> None:
        """A call has no result: it was stopped, or was not started and may be elsewhere."""
        asked = self._watch.was_stopped(seq)
        error = self._watch.reason(seq)
        if error is not None and stopped:
            self._client.failed(batch, error, monotonic() - batch.started, self.pid)
        elif asked or stopped:
            self._client.stopped(batch, started=stopped)
        else:
            self._client.returned(batch)

    def _settle(self, call: Call, count: int) -> Batch:
        """Take calls off the worker's account; they as a batch."""
        flight = call.flight
        self._flights.settle(call, count)
        self._venue.progress(self.slot, count, count * flight.seconds)
        if count == len(flight.batch.items):
            return flight.batch
        return flight.batch.part(call.place, call.place + count)

    def _taken_back(self, cut: list[Flight]) -> None:
        """Calls that will not start here: back to the queue, or stopped as was asked."""
        for flight in reversed(cut):
            self._venue.unload(self.slot, len(flight.batch), flight.seconds)
            self._split(flight)
        self._land()
        self._client.changed()

    def _split(self, flight: Flight) -> None:
        """Tell of each call of a flight that did not start, those not to be stopped together."""
        batch = flight.batch
        end = len(batch)
        for place in range(end - 1, -1, -1):  # backwards: what is returned last is first in line
            seq = flight.first + place
            if self._watch.was_stopped(seq):
                if place + 1 < end:
                    self._client.returned(batch.part(place + 1, end))
                self._unfinished(batch.part(place, place + 1), seq, stopped=False)
                end = place
        if end:
            self._client.returned(batch.part(0, end))

    def _land(self) -> None:
        """Settle the flights that are done; an idle worker takes calls again, or is retired."""
        for flight in self._flights.purge():
            self._client.settled(flight.batch)
        if not self._flights and self.state is State.READY:
            self.slot.open = self.slot.allowance != 0
            self._fleet.lane_idle(self, self._resident)

    def _running(self) -> Call | None:
        """The call the worker is executing, as far as its slate tells."""
        if not self._flights:
            return None
        words = self._process.words
        return self._flights.find(words[STARTED]) if words[STARTED] > words[FINISHED] else None

    def _end(self, *, hurry: bool = False) -> None:
        """The worker is gone, or is to go: return what it did not start, and reap it."""
        failed_start = self.state is State.STARTING
        self.crashed = self.state is State.READY
        if self.state is not State.CLOSING:
            self.state = State.DEAD
        self.slot.open = False
        self._relay.end()
        if self._overdue is not None:
            self._overdue.cancel()
        lost: list[Call] = []
        if self._flights:
            self._collect()
            words = self._process.words
            lost, left = self._flights.abandon(words[STARTED], words[FINISHED])
            for flight in reversed(left):
                self._split(flight)
        self.slot.load = 0
        self._land()
        self._client.changed()
        patience = 0.0 if failed_start or hurry else self._grace
        reaped = partial(self._reaped, lost, failed_start)
        if self._starting is None or self._starting.done():
            self._process.reap(patience, reaped)
        else:  # what it is making now has to be there to be let go
            self._starting.add_done_callback(lambda _: self._process.reap(patience, reaped))

    def _reaped(self, lost: list[Call], failed_start: bool, exitcode: int | None) -> None:  # noqa: FBT001 - bound by _end
        pid = self.pid
        self.state = State.DEAD
        if failed_start and self._refusal is None:
            self._refusal = why_not_started(pid, exitcode)
        for call in lost:
            self._blame(call, pid, exitcode)
        self._watch.end()
        self._fleet.lane_dead(self, self._refusal)

    def _blame(self, call: Call, pid: int | None, exitcode: int | None) -> None:
        """Tell of a call that was executing, or not yet told of, when the worker died."""
        batch = call.alone()
        if self._watch.was_stopped(call.seq):
            self._unfinished(batch, call.seq, stopped=True)
        else:
            name, why = batch.workload.name, self._fault
            crash = WorkerCrashed(name, pid=pid, exitcode=exitcode, reason=why)
            self._client.failed(batch, crash, monotonic() - batch.started, pid)
        self._client.changed()
