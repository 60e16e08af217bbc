"""Which calls start now, and where: the one place that decides.

A venue is a queue and the places its calls may run in. Counted venues (the event loop,
threads) have so many places and hand out single calls; the laned venue has one slot a worker
process, to which it hands batches bounded by time. After any change the shell asks ``assign``
what should run now and performs the answer; it derives that from the state alone, so asking
again is harmless, and a cancelled, crashed or finished call needs no path of its own.

No clock, no I/O: ``now`` is seconds on whatever monotonic clock the shell keeps.
Costs O(log n) a decision in the number of queued workloads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, final

from aiopool._core.estimate import QUANTUM, SMALLEST_SHARE
from aiopool._core.fairness import FairQueue
from aiopool._core.queue import TurnQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiopool._core.options import Settings
    from aiopool._core.quota import Quota
    from aiopool._core.workload import Batch, Workload


@final
class Slot:
    """One worker as the scheduler sees it."""

    __slots__ = ("allowance", "due", "load", "open", "outstanding")

    def __init__(self, allowance: int | None = None) -> None:
        self.open = False  # takes calls: it is ready and not retiring
        self.load = 0  # calls handed to it and not yet settled
        self.outstanding = 0.0  # estimated seconds of those calls
        self.due = 0.0  # when they should be done
        self.allowance = allowance  # calls it may still be handed, None if unbounded

    def __repr__(self) -> str:
        state = "open" if self.open else "shut"
        return f"<Slot {state} load={self.load} outstanding={self.outstanding:.6f}>"


class Venue:
    """A queue of workloads; what to start next is its subclass's to say."""

    __slots__ = ("parked", "population", "queue")

    def __init__(self, aging: float) -> None:
        self.queue: TurnQueue[Workload] | FairQueue[Workload] = TurnQueue(aging)
        self.population = 0  # workloads that are not concluded
        self.parked = 0  # those in lines of quotas instead of in the queue

    @property
    def idle(self) -> bool:
        """Whether a call could start at once in a place that has nothing else to do."""
        return False

    def wake(self, workload: Workload) -> None:
        """Queue a workload that has, or may have, something to start."""
        if workload.entry is None and not workload.stopped and self._has_room(workload):
            self.queue.push(workload)

    def give_back(self, batch: Batch) -> None:
        """Queue calls that were not started, or are to be tried again, at their original age."""
        workload = batch.workload
        workload.put_back(batch)
        if self._has_room(workload):
            self._line_of(workload).push(workload)
            self._admit_for(workload)

    def drop(self, workload: Workload) -> None:
        """Take a workload out."""
        if workload.parked:
            self._unpark(workload)
        else:
            self.queue.remove(workload)
        self._admit_for(workload)

    def moved(self, workload: Workload) -> None:
        """Its priority has changed: if it is queued, put it where it belongs now."""
        if workload.entry is not None:
            self._line_of(workload).push(workload)
            self._admit_for(workload)

    def settle(self, batch: Batch) -> None:
        """A batch handed out has left its place, whatever became of its calls."""
        workload = batch.workload
        workload.running -= 1
        if workload.entry is None and workload.has_more():
            self.wake(workload)
        if workload.settings.quota is not None:
            workload.settings.quota.release()

    def split(self, batch: Batch, count: int) -> None:
        """A batch handed out goes on as so many, each to be settled."""
        workload = batch.workload
        workload.running += count - 1
        if workload.settings.quota is not None:
            workload.settings.quota.running += count - 1

    def be_fair(self) -> None:
        """Let tenants take turns from now on. Idempotent."""
        if isinstance(self.queue, TurnQueue):
            self.queue = FairQueue(self.queue)

    def admit(self, quota: Quota) -> None:
        """If a quota has room, let the first workload it parked here back into the queue."""
        if quota.has_room and (line := quota.lines.get(self)) is not None:
            workload = line.peek()
            assert workload is not None
            self._unpark(workload)
            self.queue.push(workload)

    def _admit_for(self, workload: Workload) -> None:
        """A workload has left the queue, or has another place: it may be a parked one's turn."""
        if workload.settings.quota is not None:
            self.admit(workload.settings.quota)

    def _parks(self, workload: Workload, quota: Quota) -> bool:
        """Park a workload whose turn it is if its quota is used up; whether it was."""
        if quota.has_room:
            return False
        self.queue.remove(workload)
        line = quota.lines.get(self)
        if line is None:
            line = quota.lines[self] = FairQueue(TurnQueue(self.queue.aging))
        line.push(workload)
        workload.parked = True
        self.parked += 1
        return True

    def _unpark(self, workload: Workload) -> None:
        quota = cast("Quota", workload.settings.quota)
        line = quota.lines[self]
        line.remove(workload)
        if not line.size:
            del quota.lines[self]
        workload.parked = False
        self.parked -= 1

    def _line_of(self, workload: Workload) -> TurnQueue[Workload] | FairQueue[Workload]:
        """Where it is queued, or is to be."""
        if not workload.parked:
            return self.queue
        return cast("Quota", workload.settings.quota).lines[self]

    def _has_room(self, workload: Workload) -> bool:
        limit = workload.settings.limit
        return (limit is None or workload.running < limit) and workload.packing is None

    def _serve(self, workload: Workload, count: int, now: float) -> Batch | None:
        """Take a batch in the workload's turn and queue what is left of it afresh."""
        batch = workload.take(count)
        if batch is None:
            self.drop(workload)
            return None
        batch.started = now
        if batch.began is None:
            batch.began = now
        workload.running += 1
        workload.turn = now
        settings = workload.settings
        if settings.fairness_key is not None:
            self.queue.served(workload, now)
        if workload.has_more() and self._has_room(workload):
            self.queue.push(workload)
        else:
            self.queue.remove(workload)
        if settings.quota is not None:
            self._take_place(workload, settings.quota, now)
        return batch

    def _take_place(self, workload: Workload, quota: Quota, now: float) -> None:
        """A call of it starts, by a place of its quota."""
        quota.running += 1
        line = quota.lines.get(self)
        if line is not None:
            line.served(workload, now)
            self.admit(quota)


@final
class CountedVenue(Venue):
    """So many places, one call each: the event loop under ``limit``, and threads."""

    __slots__ = ("capacity", "lent", "running")

    def __init__(self, capacity: int, aging: float) -> None:
        super().__init__(aging)
        self.capacity = capacity
        self.running = 0  # places taken; may pass ``capacity`` when a lent one is forced back
        self.lent = 0  # calls that wait for this pool and gave their place away meanwhile

    def assign(self, now: float) -> Iterator[Batch]:
        """The calls to start now, each in a batch of one."""
        while self.running < self.capacity:
            workload = self.queue.peek()
            if workload is None:
                return
            quota = workload.settings.quota
            if quota is not None and self._parks(workload, quota):
                continue
            batch = self._serve(workload, 1, now)
            if batch is not None:
                self.running += 1
                yield batch

    def settle(self, batch: Batch) -> None:
        """A call has ended and its place is free."""
        self.running -= 1
        super().settle(batch)

    def has_place(self, workload: Workload) -> bool:
        """Whether a call of it could have a place at once."""
        quota = workload.settings.quota
        return self.running < self.capacity and (quota is None or quota.has_room)

    def lend(self, workload: Workload) -> None:
        """A running call gives its place away while it waits for its own pool."""
        self.lent += 1
        self.unseat(workload)

    def reclaim(self, workload: Workload) -> None:
        """A call that lent its place has one again."""
        self.running += 1
        self.lent -= 1
        if workload.settings.quota is not None:
            workload.settings.quota.running += 1

    def unseat(self, workload: Workload) -> None:
        """Count the place of a running call as free."""
        self.running -= 1
        if workload.settings.quota is not None:
            workload.settings.quota.release()

    def validate(self) -> None:
        """Raise AssertionError unless what always holds holds."""
        self.queue.validate()
        assert self.running >= 0, self.running
        assert self.lent >= 0, self.lent
        stuck = self.running < self.capacity and self.queue.peek() is not None
        assert not stuck, "a place is free while calls wait: assign was not asked"


@final
class LanedVenue(Venue):
    """Worker processes: a batch goes to the worker that is idle, or soon will be."""

    __slots__ = ("slots",)

    def __init__(self, aging: float) -> None:
        super().__init__(aging)
        self.slots: list[Slot] = []

    @property
    def idle(self) -> bool:
        """Whether a worker waits for work."""
        for slot in self.slots:  # noqa: SIM110 - at every submission, and half the time of any()
            if slot.open and not slot.load:
                return True
        return False

    def assign(self, now: float) -> Iterator[tuple[Slot, Batch]]:
        """The batches to send now, and where."""
        while True:
            workload = self.queue.peek()
            if workload is None:
                return
            quota = workload.settings.quota
            if quota is not None and self._parks(workload, quota):
                continue
            slot = self._choose(workload, now)
            if slot is None:
                return
            batch = self._serve(workload, self._fit(workload, slot), now)
            if batch is not None:
                self._occupy(slot, batch, now)
                yield slot, batch

    def expects_soon(self, seconds: float) -> bool:
        """Whether one worker alone is busy, and is estimated to be so for ``seconds`` at most."""
        outstanding = 0.0
        for slot in self.slots:
            if slot.load:
                if outstanding or not 0.0 < slot.outstanding <= seconds:
                    return False
                outstanding = slot.outstanding
        return outstanding > 0.0

    def progress(self, slot: Slot, count: int, seconds: float) -> None:
        """``count`` calls, estimated at ``seconds``, have left a slot."""
        slot.load -= count
        left = slot.outstanding - seconds
        slot.outstanding = left if slot.load and left > 0 else 0.0

    def unload(self, slot: Slot, count: int, each: float) -> None:
        """``count`` calls, estimated at ``each`` seconds, were not started by a slot after all."""
        self.progress(slot, count, count * each)
        if slot.allowance is not None and count:
            slot.open = slot.open or not slot.allowance
            slot.allowance += count

    def backlog(self, enough: int) -> int:
        """How many calls are queued, counted up to ``enough``."""
        total = 0
        for workload in self.queue:
            left = workload.remaining()
            total += enough if left is None else left
            if total >= enough:
                return enough
        return total

    def _choose(self, workload: Workload, now: float) -> Slot | None:
        """An idle slot; else, for short calls, the one soonest done that holds half a quantum."""
        best: Slot | None = None
        cost = workload.cost.seconds
        ahead = cost is not None and cost <= QUANTUM / 2 and _is_unlimited(workload.settings)
        for slot in self.slots:
            if not slot.open:
                continue
            if not slot.load:
                return slot
            if ahead and now < slot.due and slot.outstanding <= QUANTUM / 2:
                best = slot if best is None or slot.due < best.due else best
        return best

    def _fit(self, workload: Workload, slot: Slot) -> int:
        """How many calls make up the slot's share of what is left, in time."""
        left = workload.remaining()
        cost = workload.cost.seconds
        if left == 1 or cost is None:
            return 1
        budget = QUANTUM - slot.outstanding
        if left is not None:
            share = left * cost / (2 * max(1, len(self.slots)))
            budget = min(budget, max(share, SMALLEST_SHARE))
        count = max(1, workload.cost.fit(budget))
        return count if slot.allowance is None else min(count, slot.allowance)

    def _occupy(self, slot: Slot, batch: Batch, now: float) -> None:
        size = len(batch.items)
        seconds = size * (batch.workload.cost.seconds or 0.0)
        slot.due = (slot.due if slot.load and slot.due > now else now) + seconds
        slot.load += size
        slot.outstanding += seconds
        if slot.allowance is not None:
            slot.allowance -= size
            slot.open = slot.allowance > 0

    def validate(self) -> None:
        """Raise AssertionError unless what always holds holds."""
        self.queue.validate()
        for slot in self.slots:
            assert slot.load >= 0, slot
            assert slot.load or not slot.outstanding, slot
        idle = any(slot.open and not slot.load for slot in self.slots)
        assert not (idle and self.queue.peek()), "a worker is idle while calls wait"


def _is_unlimited(settings: Settings) -> bool:
    return settings.limit is None and settings.quota is None
