"""What the queue holds: a workload is calls of one function that share their options.

``submit`` makes a workload of one call; ``map`` and ``stream`` make one with a cursor into
their input, so a million items are one queue entry and only what is taken is held.
A batch is a run of those calls on its way through one attempt; what comes back unstarted
or is to be tried again waits in ``again``, ahead of input not yet taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiopool._core.estimate import Estimate
    from aiopool._core.options import Settings


class Source(Protocol):
    """Where a workload's items come from."""

    def take(self, count: int, /) -> Sequence[Any]:
        """Up to ``count`` items; none if there are none now. Never raises."""

    def remaining(self) -> int | None:
        """How many items are left, None if that is not known."""


@final
class Empty:
    """The source of a workload whose calls are all in ``again``."""

    def take(self, _count: int, /) -> Sequence[Any]:
        """Nothing, ever."""
        return ()

    def remaining(self) -> int:
        """Zero."""
        return 0


EMPTY = Empty()
NONE: list[Batch] = []
"""No calls; a list that stays empty."""

_FIRST = (0,)


@final
class Batch:
    """Consecutive calls of one workload in the same attempt.

    ``indices`` are their places in the input, ``attempt`` counts from 1, and ``began`` is when
    their first attempt was handed out.
    """

    __slots__ = ("attempt", "began", "indices", "items", "payloads", "started", "workload")

    def __init__(
        self,
        workload: Workload,
        indices: Sequence[int],
        items: Sequence[Any],
        attempt: int = 1,
        began: float | None = None,
    ) -> None:
        self.workload = workload
        self.indices = indices
        self.items = items
        self.attempt = attempt
        self.began = began
        self.started = 0.0  # when this attempt was handed to a worker or a slot
        self.payloads: Sequence[Any] | None = None  # the items as they cross, once encoded

    def __len__(self) -> int:
        return len(self.items)

    def part(self, start: int, stop: int, *, attempt: int | None = None) -> Batch:
        """The calls from ``start`` to ``stop`` as a batch of their own."""
        piece = Batch(
            self.workload,
            self.indices[start:stop],
            self.items[start:stop],
            self.attempt if attempt is None else attempt,
            self.began,
        )
        piece.started = self.started
        if self.payloads is not None:
            piece.payloads = self.payloads[start:stop]
        return piece

    def __repr__(self) -> str:
        return f"<Batch {list(self.indices[:3])}… of {self.workload!r}, attempt {self.attempt}>"


@final
class Workload:
    """Calls of one function: who they are, what is left of them, and when their turn is."""

    __slots__ = (
        "_item",
        "_packed",
        "again",
        "context",
        "cost",
        "deadline",
        "door",
        "entry",
        "exact",
        "function",
        "here",
        "inner",
        "name",
        "next_index",
        "packing",
        "parked",
        "priority",
        "reason",
        "resting",
        "running",
        "settings",
        "silent",
        "since",
        "sink",
        "source",
        "star",
        "stopped",
        "turn",
        "venue",
    )

    _item: Any
    _packed: Any
    packing: Any  # what pickles calls of it in a thread: until that is done nothing of it starts

    def __init__(  # noqa: PLR0913 - all but two by keyword
        self,
        function: Any,  # noqa: ANN401 - whatever the venue's backend calls
        settings: Settings,
        *,
        name: str,
        venue: str,
        sink: Any,  # noqa: ANN401 - the run room's business
        now: float,
        cost: Estimate,
        source: Source = EMPTY,
        star: bool = True,
        exact: bool = False,
    ) -> None:
        self.function = function
        self.settings = settings
        self.name = name
        self.venue = venue
        self.sink = sink
        self.cost = cost
        self.source = source
        self.star = star  # an item is the tuple of a call's arguments, not the one argument
        self.exact = exact  # a call is never run twice within one attempt, whatever dies
        self.priority = settings.priority
        self.since = self.turn = now  # turn: when it was last served, for its key in the queue
        self.deadline = None if settings.deadline is None else now + settings.deadline
        self.again: list[Batch] = NONE  # a stack: the last is the first in line
        self.here = 0  # calls in it, or the one that ``hold`` was given
        self._item = self._packed = self.packing = None  # that call, and as it crosses
        self.next_index = 0
        self.running = 0  # batches handed out and not yet settled
        self.resting: dict[Batch, None] | None = None  # calls waiting out a backoff, if ever any
        self.context: Any = None  # the submitter's context variables, where calls run beside it
        self.stopped = False  # nothing more of it may start
        self.reason: Exception | None = None  # why it was stopped; None: it was cancelled
        self.door: Any = None  # where its call needs another place besides: who lets it in
        self.inner: Workload | None = None  # what does its work, where a limiter stands before
        self.silent = False  # part of another workload's call: not counted, nobody is told
        self.entry: tuple[Any, ...] | None = None  # its one valid place in the queue
        self.parked = False  # that queue is a line of its quota's, not the venue's

    def hold(self, item: object, packed: object = None) -> None:
        """Have this one call and no other; ``packed`` is the item as it crosses, if encoded."""
        self._item = item
        self._packed = packed
        self.here = 1

    def pack(self, packed: object) -> None:
        """Give the one call's item as it crosses, wherever that call is."""
        self._packed = packed
        for batch in self.again:
            batch.payloads = (packed,)

    def take(self, count: int) -> Batch | None:
        """Up to ``count`` calls to start now, None if there are none now."""
        if self.here:
            return self._take_again(count)
        items = self.source.take(count)
        if not items or self.stopped:  # the input is code of the caller's, and may stop all this
            return None
        first = self.next_index
        self.next_index = first + len(items)
        return Batch(self, range(first, first + len(items)), items)

    def _take_again(self, count: int) -> Batch:
        """Up to ``count`` calls of those that are here already."""
        if not self.again:
            self.here = 0
            batch = Batch(self, _FIRST, (self._item,))
            if self._packed is not None:
                batch.payloads = (self._packed,)
            return batch
        batch = self.again.pop()
        if len(batch) > count:
            self.again.append(batch.part(count, len(batch)))
            batch = batch.part(0, count)
        self.here -= len(batch)
        return batch

    def _keep(self, batch: Batch) -> None:
        if self.again is NONE:  # most workloads never need a list
            self.again = []
        self.again.append(batch)
        self.here += len(batch)

    def probe(self) -> None:
        """Find out whether the input has ended, by taking one more call and putting it back."""
        batch = None if self.here or self.stopped else self.take(1)
        if batch is not None:
            self._keep(batch)

    def put_back(self, batch: Batch) -> None:
        """Return calls that were not started: first in line, at their original age."""
        if batch.attempt == 1:
            batch.began = None
        if self._packed is not None:  # which it may not have been when the call was taken
            batch.payloads = (self._packed,)
        self._keep(batch)
        self.turn = self.since

    def remaining(self) -> int | None:
        """Calls that could still be taken, None if that is not known."""
        if self.source is EMPTY:
            return self.here
        left = self.source.remaining()
        return None if left is None else left + self.here

    @property
    def is_running(self) -> bool:
        """Whether a call of it has a place, and not only its turn at a limiter."""
        if self.settings.limiter is None:
            return self.running > 0
        return self.inner is not None and self.inner.running > 0

    def has_more(self) -> bool:
        """Whether there may be calls to take."""
        return self.here > 0 or (self.source is not EMPTY and self.source.remaining() != 0)

    def stop(self, reason: Exception | None) -> list[Batch]:
        """Let nothing more of it start; return the calls that were waiting to."""
        self.stopped = True
        self.reason = reason
        dropped = []
        while self.here:
            dropped.append(self._take_again(self.here))
        dropped += self.resting or ()
        self.resting = None
        return dropped

    def rest(self, batch: Batch) -> None:
        """Let a call wait out its backoff."""
        if self.resting is None:
            self.resting = {}
        self.resting[batch] = None

    def wake(self, batch: Batch) -> bool:
        """A backoff has ended; False if the workload was stopped meanwhile."""
        return self.resting is not None and self.resting.pop(batch, self) is None

    def __repr__(self) -> str:
        return f"<Workload {self.name} priority={self.priority} running={self.running}>"
