"""Which calls are with a worker: their numbers, in the order they were sent.

Plain bookkeeping. A worker runs its calls in order and tells of them in order, so a flight (a
batch on its way) needs only the number of its first call and how many calls have been settled.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiopool._core.workload import Batch


@final
class Flight:
    """A batch with a worker: calls ``first`` up to ``stop``, the first ``settled`` of them told."""

    __slots__ = ("batch", "first", "seconds", "settled")

    def __init__(self, batch: Batch, first: int, seconds: float) -> None:
        self.batch = batch
        self.first = first
        self.seconds = seconds  # what one of its calls was estimated to take
        self.settled = 0

    @property
    def stop(self) -> int:
        """The number after its last call."""
        return self.first + len(self.batch.items)

    def piece(self, start: int, stop: int) -> Flight:
        """Some of its calls as a flight of their own."""
        return Flight(self.batch.part(start, stop), self.first + start, self.seconds)


class Call(NamedTuple):
    """One call of a flight: its number and its place in the batch."""

    seq: int
    flight: Flight
    place: int

    def alone(self) -> Batch:
        """The call as a batch of one."""
        return self.flight.batch.part(self.place, self.place + 1)


@final
class Flights:
    """The flights of one lane, oldest first. Numbers start at 1: 0 means no call."""

    __slots__ = ("_queue", "next", "shortest")

    def __init__(self) -> None:
        self._queue: deque[Flight] = deque()
        self.next = 1
        self.shortest = inf  # timeout of any call added since there were none

    def __bool__(self) -> bool:
        return bool(self._queue)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._queue)

    def add(self, batch: Batch) -> Flight:
        """Number the calls of a batch that is sent now."""
        workload = batch.workload
        timeout = workload.settings.timeout
        if not self._queue:
            self.shortest = inf
        if timeout is not None and timeout < self.shortest:
            self.shortest = timeout
        flight = Flight(batch, self.next, workload.cost.seconds or 0.0)
        self.next += len(batch.items)
        self._queue.append(flight)
        return flight

    def find(self, seq: int) -> Call | None:
        """The unsettled call of that number, None if there is none."""
        for flight in self._queue:
            if flight.first + flight.settled <= seq < flight.stop:
                return Call(seq, flight, seq - flight.first)
        return None

    def land(self, first: int, count: int) -> Flight | None:
        """Remove the oldest flight if these calls are all of it, which is how most of them end."""
        queue = self._queue
        oldest = queue[0] if queue else None
        if oldest is None or oldest.first != first or len(oldest.batch.items) != count:
            return None
        return None if oldest.settled else queue.popleft()

    def name(self, seq: int) -> str | None:
        """What the unsettled call of that number is called, None if there is none."""
        call = self.find(seq)
        return None if call is None else call.flight.batch.workload.name

    def settle(self, call: Call, count: int) -> None:
        """``count`` calls from this one on have been told of, and so have those before."""
        call.flight.settled = call.place + count

    def sweep(self) -> Iterator[Flight]:
        """Remove the oldest flights as far as all of their calls are settled."""
        queue = self._queue
        while queue and queue[0].settled >= len(queue[0].batch.items):
            yield queue.popleft()

    def cut(self, seq: int, stop: int) -> list[Flight]:
        """Take back the unsettled calls from ``seq`` up to ``stop``, as flights of their own.

        ``stop`` lies between flights: calls are taken back together with all sent after them.
        """
        cut: list[Flight] = []
        for flight in self._queue:
            start = max(seq - flight.first, flight.settled)
            if start < len(flight.batch) and flight.stop <= stop:
                cut.append(flight.piece(start, len(flight.batch)))
                flight.batch = flight.batch.part(0, start)
        return cut

    def purge(self) -> list[Flight]:
        """Remove all flights with nothing left in them, wherever they stand."""
        empty = [flight for flight in self._queue if flight.settled >= len(flight.batch)]
        for flight in empty:
            self._queue.remove(flight)
        return empty

    def abandon(self, started: int, finished: int) -> tuple[list[Call], list[Flight]]:
        """The worker is gone: the calls lost with it, and those that may run elsewhere.

        Lost is the call that was executing, and any whose result was sent and cannot be read.
        Before ``started`` and after ``finished`` are calls whose results waited to be sent: exact
        ones are lost, others may run again.
        """
        lost: list[Call] = []
        left: list[Flight] = []
        for flight in self._queue:
            begin, end = flight.first + flight.settled, flight.stop
            again = started if flight.batch.workload.exact else finished
            spans = [(max(begin, again + 1), min(end, started)), (max(begin, started + 1), end)]
            left += [flight.piece(a - flight.first, b - flight.first) for a, b in spans if a < b]
            gone = [*range(begin, min(end, again + 1))]
            if started > again and begin <= started < end:
                gone.append(started)
            lost += [Call(seq, flight, seq - flight.first) for seq in gone]
            flight.settled = len(flight.batch)
        return lost, left

    def unstarted(self, started: int) -> bool:
        """Whether a call after number ``started`` is waiting here."""
        return bool(self._queue) and self._queue[-1].stop > started + 1
