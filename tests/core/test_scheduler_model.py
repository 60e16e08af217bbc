"""Both venues against a naive model: for each workload a plain list of its calls in line.

The model knows no heap, no cursor and no lazy removal. Before each hand-out it looks through all
workloads that could start something and asks that the one chosen is a first of them, that the
calls are the first in that workload's line, and that there was a place for them.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aiopool._core.estimate import LARGEST_BATCH, QUANTUM, Estimate
from aiopool._core.options import Settings
from aiopool._core.scheduler import CountedVenue, LanedVenue, Slot
from aiopool._core.workload import EMPTY, Batch, Workload

COSTS = [None, 2**-20, 2**-11, 2**-9, 1.0]  # seconds; unknown, tiny, short, about a quantum, long
STEPS = [0.0, 2**-20, 2**-10, 2**-4, 1.0, 15.0]  # seconds; sums of them are exact


class Call(NamedTuple):
    """A call in one attempt."""

    index: int
    attempt: int


class Items:
    """A source of numbers that may be supplied with more."""

    def __init__(self, count, *, known):
        self.items = list(range(count))
        self.end = count
        self.known = known

    def supply(self, count):
        new = list(range(self.end, self.end + count))
        self.items += new
        self.end += count
        return new

    def take(self, count, /):
        taken, self.items = self.items[:count], self.items[count:]
        return taken

    def remaining(self):
        return len(self.items) if self.known else None


@dataclass(eq=False)
class Job:
    """What the model knows of a workload."""

    workload: Workload
    turn: float
    priority: int
    line: list  # calls that may start, first to last
    pulled: int = 0  # of its input
    running: int = 0  # batches
    resting: list = field(default_factory=list)  # batches of one
    ended: Counter = field(default_factory=Counter)  # indices: how often they ended
    attempts: Counter = field(default_factory=Counter)  # calls: how often they ran
    stopped: bool = False
    share: object = None  # of a view's places

    @property
    def ready(self):
        limit = self.workload.settings.limit
        free = self.share is None or self.share.running < self.share.capacity
        roomy = limit is None or self.running < limit
        return bool(self.line) and not self.stopped and roomy and free

    def take(self, count):
        """Count so many batches of it in, or out."""
        self.running += count
        self.occupy(count)

    def occupy(self, count):
        if self.share is not None:
            self.share.running += count

    def key(self, aging):
        strict = aging == inf
        return (self.priority if strict else self.turn + self.priority * aging, self.turn)


@dataclass(eq=False)
class Out:
    """A batch that was handed out, and the calls of it that have not ended."""

    job: Job
    batch: Batch
    place: object
    seconds: float
    done: int = 0

    @property
    def left(self):
        return len(self.batch) - self.done

    def rest(self):
        return self.batch.part(self.done, len(self.batch))


def calls_of(batch):
    return [Call(index, batch.attempt) for index in batch.indices]


class Model(RuleBasedStateMachine):
    """What both venues have in common."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.jobs = []
        self.out = []
        self.held = False  # changes pile up before the venue is asked again
        self.costs = []

    def begin(self, aging):
        self.aging = aging
        for seconds in COSTS:
            self.costs.append(Estimate())
            self.costs[-1].seconds = seconds

    # What comes in ------------------------------------------------------------------------

    @rule(priority=st.integers(-3, 3), cost=st.sampled_from(range(5)))
    def submit(self, priority, cost):
        job = self.new_job(EMPTY, priority, cost, None)
        job.workload.hold(0)
        job.line = [Call(0, 1)]
        job.pulled = 1
        self.venue.wake(job.workload)

    @rule(
        priority=st.integers(-3, 3),
        cost=st.sampled_from(range(5)),
        count=st.integers(0, 30),
        known=st.booleans(),
        limit=st.sampled_from([None, None, 1, 2]),
    )
    def submit_map(self, priority, cost, count, known, limit):
        job = self.new_job(Items(count, known=known), priority, cost, limit)
        job.line = [Call(index, 1) for index in range(count)]
        self.venue.wake(job.workload)

    def new_job(self, source, priority, cost, limit):
        workload = Workload(
            None,
            self.settings(priority, limit),
            name=str(len(self.jobs)),
            venue="",
            sink=None,
            now=self.now,
            cost=self.costs[cost],
            source=source,
        )
        self.jobs.append(Job(workload, self.now, priority, []))
        return self.jobs[-1]

    def settings(self, priority, limit):
        return Settings(priority=priority, limit=limit)

    @precondition(lambda self: self.inputs())
    @rule(data=st.data(), count=st.integers(1, 4))
    def supply(self, data, count):
        """An input has more."""
        job = data.draw(st.sampled_from(self.inputs()))
        new = job.workload.source.supply(count)
        job.line += [Call(index, 1) for index in new]
        self.venue.wake(job.workload)

    def inputs(self):
        jobs = [job for job in self.jobs if not job.stopped]
        return [job for job in jobs if isinstance(job.workload.source, Items)]

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def probe(self, data):
        data.draw(st.sampled_from(self.jobs)).workload.probe()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), priority=st.integers(-3, 3))
    def reprioritize(self, data, priority):
        job = data.draw(st.sampled_from(self.jobs))
        job.workload.priority = job.priority = priority
        self.venue.moved(job.workload)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data):
        """A workload is stopped: what waits of it comes back once, what runs may end."""
        job = data.draw(st.sampled_from(self.jobs))
        dropped = job.workload.stop(None)
        self.venue.drop(job.workload)
        expected = [] if job.stopped else self.waiting(job)
        assert sorted(call for batch in dropped for call in calls_of(batch)) == sorted(expected)
        for call in expected:
            job.ended[call.index] += 1
        job.stopped = True
        job.line, job.resting = [], []

    def waiting(self, job):
        """The calls of a job that were pulled from its input, and are not with anyone."""
        source = job.workload.source
        untouched = len(source.items) if isinstance(source, Items) else 0
        pulled = job.line[: len(job.line) - untouched]
        return pulled + [call for batch in job.resting for call in calls_of(batch)]

    @rule(step=st.sampled_from(STEPS))
    def wait(self, step):
        self.now += step

    @rule()
    def hold(self):
        """Let several changes come before the venue is asked again."""
        self.held = not self.held

    # What ends ----------------------------------------------------------------------------

    def end(self, out, count, *, fail):
        """The next calls of a batch have ended, the last of them by a failure or not."""
        ended = out.batch.part(out.done, out.done + count)
        out.done += count
        self.left_place(out, count)
        for call in calls_of(ended):
            out.job.attempts[call] += 1
        last = ended.part(count - 1, count, attempt=ended.attempt + 1)
        if fail and not out.job.stopped:
            out.job.workload.rest(last)
            out.job.resting.append(last)
            ended = ended.part(0, count - 1)
        for call in calls_of(ended):
            out.job.ended[call.index] += 1
        if not out.left:
            self.settle(out)

    def return_unstarted(self, out):
        """What is left of a batch did not start."""
        rest = out.rest()
        if out.job.stopped:
            for call in calls_of(rest):
                out.job.ended[call.index] += 1
        elif len(rest):
            self.give_back(out.job, rest)

    def give_back(self, job, batch):
        self.venue.give_back(batch)
        job.line = calls_of(batch) + job.line
        job.turn = job.workload.since

    def settle(self, out):
        self.out.remove(out)
        out.job.take(-1)
        self.venue.settle(out.batch)

    @precondition(lambda self: any(job.resting for job in self.jobs))
    @rule(data=st.data())
    def try_again(self, data):
        """A backoff ends."""
        job = data.draw(st.sampled_from([job for job in self.jobs if job.resting]))
        batch = job.resting.pop(data.draw(st.integers(0, len(job.resting) - 1)))
        assert job.workload.wake(batch)
        assert not job.workload.wake(batch)
        self.give_back(job, batch)

    # What starts --------------------------------------------------------------------------

    @invariant()
    def assign(self):
        self.venue.queue.validate()
        if not self.held:
            for chosen in self.venue.assign(self.now):
                self.handed_out(*self.check_place(chosen))
            self.venue.validate()
            self.check_rest()
        queued = set(self.venue.queue)
        for job in self.jobs:
            assert job.workload.running == job.running
            assert not (job.stopped and job.workload in queued)

    def handed_out(self, batch, place):
        """A batch starts: it was its turn, and they are the first calls in its line."""
        [job] = [job for job in self.jobs if job.workload is batch.workload]
        assert job.ready
        calls = calls_of(batch)
        assert calls
        assert calls == job.line[: len(calls)]
        assert list(batch.items) == list(batch.indices)
        assert batch.started == self.now
        self.check_turn(job)
        del job.line[: len(calls)]
        job.turn = self.now
        job.take(1)
        self.out.append(Out(job, batch, place, batch.workload.cost.seconds or 0.0))

    def check_turn(self, job):
        """No workload that could start something has waited longer than it must."""
        for other in self.jobs:
            if other.ready:
                assert job.key(self.aging) <= other.key(self.aging)
                ahead = job.turn - other.turn
                if ahead > 0:
                    assert job.priority < other.priority or self.aging == 0
                    assert ahead <= (other.priority - job.priority) * self.aging

    # The end of it all --------------------------------------------------------------------

    def teardown(self):
        """Everything is let run to its end: every call ended once, none was lost."""
        if not hasattr(self, "venue"):
            return
        self.held = False
        while self.out or any(job.line or job.resting for job in self.jobs):
            for job in self.jobs:
                while job.resting:
                    assert job.workload.wake(job.resting[0])
                    self.give_back(job, job.resting.pop(0))
            self.make_room()
            self.assign()
            assert self.out, "calls wait, and none is running"
            for out in list(self.out):
                self.end(out, out.left, fail=False)
            self.now += 1.0
        for job in self.jobs:
            source = job.workload.source
            pulled = job.workload.next_index or job.pulled
            assert job.stopped or source.remaining() in {0, None}
            assert job.ended == Counter(range(pulled))
            assert not job.attempts or max(job.attempts.values()) == 1


class Counted(Model):
    """A venue of so many places."""

    @initialize(aging=st.sampled_from([0.0, 0.5, 2.0, inf]), capacity=st.integers(1, 4))
    def open(self, aging, capacity):
        self.begin(aging)
        self.venue = CountedVenue(capacity, aging)
        self.lent = []

    def check_place(self, batch):
        assert len(batch) == 1
        assert len(self.out) - len(self.lent) < self.venue.capacity
        return batch, None

    def check_rest(self):
        taken = len(self.out) - len(self.lent)
        assert (self.venue.running, self.venue.lent) == (taken, len(self.lent))
        assert taken >= self.venue.capacity or not any(job.ready for job in self.jobs)

    def left_place(self, out, count):
        if out in self.lent:
            self.reclaim(out)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), fail=st.booleans())
    def finish(self, data, fail):
        self.end(data.draw(st.sampled_from(self.out)), 1, fail=fail)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def unstart(self, data):
        """A call that was handed out could not be started after all."""
        out = data.draw(st.sampled_from(self.out))
        self.left_place(out, 1)
        self.return_unstarted(out)
        self.settle(out)

    @precondition(lambda self: len(self.out) > len(self.lent))
    @rule(data=st.data())
    def lend(self, data):
        out = data.draw(st.sampled_from([each for each in self.out if each not in self.lent]))
        self.lent.append(out)
        out.job.occupy(-1)
        self.venue.lend(out.batch.workload)

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def take_back(self, data):
        self.reclaim(data.draw(st.sampled_from(self.lent)))

    def reclaim(self, out):
        self.lent.remove(out)
        out.job.occupy(1)
        self.venue.reclaim(out.batch.workload)

    def make_room(self):
        """There are always places."""


class Laned(Model):
    """A venue of worker processes."""

    @initialize(aging=st.sampled_from([0.0, 0.5, 2.0, inf]), slots=st.integers(0, 3))
    def open(self, aging, slots):
        self.begin(aging)
        self.venue = LanedVenue(aging)
        self.allowed = {}  # calls each slot may still be handed
        for _ in range(slots):
            self.add_slot(None)

    @precondition(lambda self: len(self.venue.slots) < 4)
    @rule(allowance=st.sampled_from([None, 1, 5]))
    def add_slot(self, allowance):
        """A worker is ready."""
        slot = Slot(allowance)
        slot.open = True
        self.allowed[slot] = inf if allowance is None else allowance
        self.venue.slots.append(slot)

    @precondition(lambda self: self.venue.slots)
    @rule(data=st.data())
    def shut(self, data):
        """A worker takes no more calls."""
        data.draw(st.sampled_from(self.venue.slots)).open = False

    @precondition(lambda self: self.venue.slots)
    @rule(data=st.data(), cost=st.sampled_from(COSTS[1:]))
    def measure(self, data, cost):
        """A function takes another time than was thought."""
        data.draw(st.sampled_from(self.costs)).observe(cost, 1)

    def in_slot(self, slot):
        return [out for out in self.out if out.place is slot]

    def check_place(self, chosen):
        """An idle slot comes first; what is sent ahead is short, known, unlimited and bounded."""
        slot, batch = chosen
        ahead = self.in_slot(slot)
        cost = batch.workload.cost.seconds
        self.allowed[slot] -= len(batch)
        assert self.allowed[slot] >= 0
        assert len(batch) <= LARGEST_BATCH
        if cost is None or cost > QUANTUM:
            assert len(batch) == 1
        if ahead:
            others = [each for each in self.venue.slots if each.open and each is not slot]
            assert all(self.in_slot(each) for each in others)
            assert batch.workload.settings.limit is None
            assert None not in {cost, *(out.batch.workload.cost.seconds for out in ahead)}
        work = sum(out.left * out.seconds for out in ahead) + len(batch) * (cost or 0.0)
        assert work <= QUANTUM * (1 + 1e-9) or not ahead
        return batch, slot

    def check_rest(self):
        for slot in self.venue.slots:
            assert slot.load == sum(out.left for out in self.in_slot(slot))
        idle = [each for each in self.venue.slots if each.open and not self.in_slot(each)]
        assert not idle or not any(job.ready for job in self.jobs)

    def left_place(self, out, count):
        self.venue.progress(out.place, count, count * out.seconds)

    def unload(self, out, count):
        """Calls were not started by their slot."""
        self.venue.unload(out.place, count, out.seconds)
        self.allowed[out.place] += count

    @precondition(lambda self: self.out)
    @rule(data=st.data(), count=st.integers(1, 40), fail=st.booleans())
    def finish(self, data, count, fail):
        """A worker tells of its next calls."""
        out = self.in_slot(data.draw(st.sampled_from(self.out)).place)[0]
        self.end(out, min(count, out.left), fail=fail)

    @precondition(lambda self: self.venue.slots)
    @rule(data=st.data(), retry=st.booleans())
    def crash(self, data, retry):
        """A worker dies: the call it was at fails, those behind it were not started."""
        slot = data.draw(st.sampled_from(self.venue.slots))
        slot.open = False
        here = self.in_slot(slot)
        if here:
            guilty, *others = here
            for out in reversed(others):
                self.leave(out)
            if guilty.left > 1:
                self.unload(guilty, guilty.left - 1)
                self.return_unstarted_behind(guilty)
            self.end(guilty, 1, fail=retry)
        assert slot.load == 0
        self.venue.slots.remove(slot)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def take_back(self, data):
        """Calls that wait behind another in a worker are taken back."""
        here = self.in_slot(data.draw(st.sampled_from(self.out)).place)
        for out in reversed(here[1:]):
            self.leave(out)
        if here[0].left > 1:
            self.unload(here[0], here[0].left - 1)
            self.return_unstarted_behind(here[0])

    def leave(self, out):
        self.unload(out, out.left)
        self.return_unstarted(out)
        self.settle(out)

    def return_unstarted_behind(self, out):
        """All but the next call of a batch did not start."""
        behind = Out(out.job, out.batch, None, 0.0, out.done + 1)
        self.return_unstarted(behind)
        out.batch = out.batch.part(0, out.done + 1)

    def make_room(self):
        if not any(slot.open for slot in self.venue.slots):
            slot = Slot()
            slot.open, self.allowed[slot] = True, inf
            self.venue.slots.append(slot)


FEW = settings(max_examples=25, stateful_step_count=30, report_multiple_bugs=False)


def test_counted_places_follow_the_model():
    """Counted places start every call once an attempt, in the order of the keys, and lose none."""
    run_state_machine_as_test(Counted, settings=FEW)


def test_slots_follow_the_model():
    """Slots are handed every call once an attempt, in the order of the keys, and lose none."""
    run_state_machine_as_test(Laned, settings=FEW)
