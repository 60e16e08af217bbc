"""Tenants: workloads of one ``fairness_key``, which take turns with others as one.

A tenant has a queue of its own, in today's order, and stands in the venue's queue as one entry.
That entry's key is ``max(k, s + p * aging)``: ``k`` is the key of the tenant's first call, ``s``
when the tenant was last served, and ``p`` the priority of the most important call that waits. So

- a tenant that was served is behind all of its importance that came before, as a map is; how much
  it has submitted makes no difference, and its calls never go before where they stood alone;
- an urgent call of one tenant goes before another's normal one, also where an old call of low
  priority is to go before it in its own line: that is served with the importance of the other;
- nobody starves: a call that waits has its tenant's turn after at most (the difference in
  priority) times ``aging`` seconds of newer, more important work, counted from its submission or
  its tenant's last turn, whichever was later.

A tenant of which nothing waits is forgotten: whoever comes later comes after its last turn anyhow,
and what is given back or tried again comes at its old age, as calls without a key do.

One entry a tenant, and a heap of the priorities in use: O(log n). The fair queue stands in for a
plain one from the first workload with a key on, so that those without cost what they always did.

Prior art: start-time fair queueing, https://doi.org/10.1145/248156.248171, whose tags count work
where these tell the time.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast, final

from aiopool._core.queue import Element, TurnQueue

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from aiopool._core.options import Settings

_NEVER: Final = -inf


class Keyed(Element, Protocol):
    """What may be a tenant's: a workload, or who waits for room to submit one."""

    settings: Settings
    """Its options, of which ``fairness_key`` counts."""


W = TypeVar("W", bound=Keyed)


@final
class Tenant(Generic[W]):
    """The waiting workloads of one key; an element of a ``TurnQueue``, as a workload is."""

    __slots__ = ("_counts", "_levels", "_ranks", "entry", "priority", "queue", "served", "turn")

    def __init__(self, aging: float) -> None:
        self.queue: TurnQueue[W] = TurnQueue(aging)
        self.served = _NEVER  # when one of them was last started
        self.entry: tuple[Any, ...] | None = None  # its one valid place in the outer queue
        self.turn = 0.0  # these two make up its key there
        self.priority = 0
        self._ranks: dict[W, int] = {}  # the priority each was put in with
        self._counts: dict[int, int] = {}  # how many have it
        self._levels: list[int] = []  # the same priorities, a heap

    def push(self, workload: W) -> None:
        """Put in a workload, or move it."""
        old, rank = self._ranks.get(workload), workload.priority
        if rank != old:
            if old is not None:
                self._counts[old] -= 1
            if rank not in self._counts:
                self._counts[rank] = 0
                heappush(self._levels, rank)
            self._counts[rank] += 1
            self._ranks[workload] = rank
        self.queue.push(workload)

    def remove(self, workload: W) -> None:
        """Take one out."""
        self._counts[self._ranks.pop(workload)] -= 1
        self.queue.remove(workload)

    def place(self) -> tuple[float, int]:
        """Where it stands in the outer queue, as a turn and a priority. Not for an empty one."""
        head = self.queue.peek()
        assert head is not None
        assert head.entry is not None
        while not self._counts[self._levels[0]]:
            del self._counts[heappop(self._levels)]
        lowest = self._levels[0]
        if self.queue.aging == inf:
            return max(head.entry[1], self.served), lowest
        return max(head.entry[0], self.served + lowest * self.queue.aging), 0

    def validate(self) -> None:
        """Raise AssertionError unless what always holds holds."""
        self.queue.validate()
        assert set(self.queue) == set(self._ranks)
        ranks = list(self._ranks.values())
        assert self._counts.keys() == set(self._levels), (self._counts, self._levels)
        assert {rank: ranks.count(rank) for rank in self._counts} == self._counts
        assert (self.turn, self.priority) == self.place()


@final
class FairQueue(Generic[W]):
    """A ``TurnQueue`` in which tenants take turns."""

    __slots__ = ("_tenants", "_turns", "aging", "size")

    def __init__(self, turns: TurnQueue[W]) -> None:
        self.aging = turns.aging
        self.size = turns.size  # how many workloads are in it; to be read only
        # Of tenants, and of workloads that have no key.
        self._turns = cast("TurnQueue[W | Tenant[W]]", turns)
        self._tenants: dict[Hashable, Tenant[W]] = {}  # by key; none is empty

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[W]:
        """The workloads in it, in no particular order."""
        for each in self._turns:
            if type(each) is Tenant:
                yield from each.queue
            else:
                yield each

    def push(self, workload: W) -> None:
        """Put it in its place; if it is in already, move it there."""
        if workload.entry is None:
            self.size += 1
        key = workload.settings.fairness_key
        if key is None:
            self._turns.push(workload)
            return
        tenant = self._tenants.get(key)
        if tenant is None:
            tenant = self._tenants[key] = Tenant(self.aging)
        tenant.push(workload)
        self._place(tenant)

    def peek(self) -> W | None:
        """The workload whose turn it is, None if the queue is empty."""
        head = self._turns.peek()
        return head.queue.peek() if type(head) is Tenant else head

    def remove(self, workload: W) -> None:
        """Take it out if it is in."""
        if workload.entry is None:
            return
        self.size -= 1
        key = workload.settings.fairness_key
        if key is None:
            self._turns.remove(workload)
            return
        tenant = self._tenants[key]
        tenant.remove(workload)
        if tenant.queue.size:
            self._place(tenant)
        else:
            self._turns.remove(tenant)
            del self._tenants[key]

    def served(self, workload: W, now: float) -> None:
        """A call of it starts: its tenant has had its turn."""
        tenant = self._tenants.get(workload.settings.fairness_key)
        if tenant is not None:
            tenant.served = now
            self._place(tenant, afresh=True)

    def _place(self, tenant: Tenant[W], *, afresh: bool = False) -> None:
        """Put a tenant where it belongs now; ``afresh`` behind its equals, if it was there."""
        turn, priority = tenant.place()
        if afresh or tenant.entry is None or (turn, priority) != (tenant.turn, tenant.priority):
            tenant.turn, tenant.priority = turn, priority
            self._turns.push(tenant)

    def validate(self) -> None:
        """Raise AssertionError unless what always holds holds."""
        self._turns.validate()
        assert self.size == sum(1 for _ in self), self.size
        assert {each for each in self._turns if type(each) is Tenant} == set(self._tenants.values())
        for key, tenant in self._tenants.items():
            tenant.validate()
            assert all(each.settings.fairness_key == key for each in tenant.queue)
