"""The order in which workloads get their turn: priority with aging, by a key that never changes.

The key is ``turn + priority * aging`` seconds: a workload waits behind newer, more important
work for at most the difference in priority times ``aging``, and nothing has to be sorted again
as time passes. Equal keys are first in, first out. With infinite ``aging`` priority is strict.
A workload that was served goes back with a fresh turn, which makes equals share turn by turn.

Removal is lazy: a heap entry counts only while it is its workload's ``entry``. The heap is
swept when most of it is stale, so a storm of cancels costs O(n log n) altogether.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SWEEP_AT: Final = 64


class Element(Protocol):
    """What stands in a queue: a workload, or a tenant's many as one."""

    turn: float
    """When it came, or was last served."""

    priority: int
    """Lower comes first."""

    entry: tuple[Any, ...] | None
    """Its one valid place in the queue; the queue's own business."""


E = TypeVar("E", bound=Element)


@final
class TurnQueue(Generic[E]):
    """A priority queue of workloads, each in it at most once."""

    __slots__ = ("_aging", "_heap", "_order", "_strict", "aging", "size")

    def __init__(self, aging: float) -> None:
        self.aging = aging
        self._aging = 0.0 if aging == inf else aging
        self._strict = aging == inf
        self._heap: list[tuple[Any, ...]] = []
        self._order = count()
        self.size = 0  # how many are in it; to be read only

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[E]:
        """The workloads in it, in no particular order."""
        return (entry[-1] for entry in self._heap if entry[-1].entry is entry)

    def push(self, workload: E) -> None:
        """Put it in its place by ``turn`` and ``priority``; if it is in already, move it there."""
        if workload.entry is None:
            self.size += 1
        elif len(self._heap) > 2 * self.size + _SWEEP_AT:
            self._sweep()
        turn, priority = workload.turn, workload.priority
        if self._strict:
            entry: tuple[Any, ...] = (priority, turn, next(self._order), workload)
        else:
            entry = (turn + priority * self._aging, turn, next(self._order), workload)
        heap, old = self._heap, workload.entry
        workload.entry = entry
        if old is not None and heap[0] is old:
            heapreplace(heap, entry)  # it was served just now, and goes back
        else:
            heappush(heap, entry)

    def peek(self) -> E | None:
        """The workload whose turn it is, None if the queue is empty."""
        heap = self._heap
        while heap:
            entry = heap[0]
            workload: E = entry[-1]
            if workload.entry is entry:
                return workload
            heappop(heap)
        return None

    def remove(self, workload: E) -> None:
        """Take it out if it is in."""
        if workload.entry is None:
            return
        workload.entry = None
        self.size -= 1
        if not self.size:
            self._heap.clear()
        elif len(self._heap) > 2 * self.size + _SWEEP_AT:
            self._sweep()

    def served(self, workload: E, now: float) -> None:
        """A call of it starts, which is all the same here: there are no tenants."""

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if entry[-1].entry is entry]
        heapify(self._heap)

    def validate(self) -> None:
        """Raise AssertionError unless what always holds holds."""
        live = [entry for entry in self._heap if entry[-1].entry is entry]
        assert len(live) == self.size, (len(live), self.size)
        assert len({id(entry[-1]) for entry in live}) == len(live)
        heap = self._heap
        assert all(heap[(place - 1) // 2][:3] <= heap[place][:3] for place in range(1, len(heap)))
