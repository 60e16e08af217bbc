from math import ceil, inf

import pytest

from aiopool._core.estimate import LARGEST_BATCH, QUANTUM, SMALLEST_SHARE, Estimate
from aiopool._core.options import Settings
from aiopool._core.scheduler import CountedVenue, LanedVenue, Slot
from aiopool._core.workload import EMPTY, Batch, Workload

SHORT = QUANTUM / 100
LONG = QUANTUM * 100


def estimate(seconds):
    cost = Estimate()
    cost.seconds = seconds
    return cost


class Items:
    """A source of numbers; its length is told or not."""

    def __init__(self, count, *, known=True):
        self.items = list(range(count))
        self.known = known

    def take(self, count, /):
        taken, self.items = self.items[:count], self.items[count:]
        return taken

    def remaining(self):
        return len(self.items) if self.known else None


def workload(name="w", source=EMPTY, *, now=0.0, cost=None, **options):
    return Workload(
        None,
        Settings(**options),
        name=name,
        venue="",
        sink=None,
        now=now,
        cost=cost if isinstance(cost, Estimate) else estimate(cost),
        source=source,
    )


def single(name="s", **options):
    """A workload of one call."""
    job = workload(name, **options)
    job.hold(())
    return job


def many(name="m", count=1000, *, known=True, **options):
    """A workload of many calls."""
    return workload(name, Items(count, known=known), **options)


def counted(capacity, *workloads, aging=1.0):
    venue = CountedVenue(capacity, aging)
    for each in workloads:
        venue.wake(each)
    return venue


def laned(slots, *workloads, allowance=None, aging=1.0):
    """A venue of so many open slots."""
    venue = LanedVenue(aging)
    for _ in range(slots):
        slot = Slot(allowance)
        slot.open = True
        venue.slots.append(slot)
    for each in workloads:
        venue.wake(each)
    return venue


def names(batches):
    return [batch.workload.name for batch in batches]


def start(venue, now=0.0):
    """What the venue starts now, each a batch; valid afterwards."""
    batches = list(venue.assign(now))
    venue.validate()
    return batches


def send(venue, now=0.0):
    """What a laned venue sends now, by slot, as ``name*count``."""
    sent = [[] for _ in venue.slots]
    for slot, batch in venue.assign(now):
        sent[venue.slots.index(slot)].append(f"{batch.workload.name}*{len(batch)}")
    venue.validate()
    return [" ".join(each) for each in sent]


def finish(venue, slot, batch, seconds=None):
    """All calls of a batch have left their slot."""
    cost = batch.workload.cost.seconds or 0.0
    venue.progress(slot, len(batch), len(batch) * cost if seconds is None else seconds)
    venue.settle(batch)


# --- both venues ----------------------------------------------------------------------------


@pytest.fixture(params=["counted", "laned"])
def narrow(request):
    """Give a function that makes a venue with one place."""
    return (lambda *jobs: counted(1, *jobs)) if request.param == "counted" else _one_slot


def _one_slot(*jobs):
    return laned(1, *jobs)


def pick(venue, now=0.0):
    """The one batch that starts now, and what ends it."""
    batches = list(venue.assign(now))
    assert len(batches) <= 1
    if not batches:
        return None, None
    if isinstance(venue, LanedVenue):
        [(slot, batch)] = batches
        return batch, lambda: finish(venue, slot, batch)
    return batches[0], lambda: venue.settle(batches[0])


def run_all(venue, now=0.0):
    """The names of workloads in the order their calls run in one place."""
    order = []
    while True:
        batch, end = pick(venue, now)
        if batch is None:
            venue.validate()
            return order
        order.append(batch.workload.name)
        end()


def test_the_most_important_starts_first(narrow):
    """Calls start in the order of priority, whatever the order they came in."""
    jobs = [single("low", priority=5), single("high", priority=-5), single("normal")]
    assert run_all(narrow(*jobs)) == ["high", "normal", "low"]


def test_asking_again_is_harmless(narrow):
    """Asking twice without a change starts nothing twice."""
    venue = narrow(single("a"), single("b"))
    first, _ = pick(venue)
    assert first.workload.name == "a"
    assert pick(venue) == (None, None)


def test_nothing_starts_without_work(narrow):
    """A venue without workloads starts nothing and is valid."""
    venue = narrow()
    assert pick(venue) == (None, None)
    venue.validate()


def test_equals_take_turns(narrow):
    """Workloads of equal priority start a batch each in turn."""
    jobs = [many(name, 3) for name in "abc"]
    venue, order = narrow(*jobs), []
    for now in range(9):
        batch, end = pick(venue, float(now))
        order.append(batch.workload.name)
        end()
    assert "".join(order) == "abcabcabc"


def test_equals_take_turns_within_one_moment(narrow):
    """Turns go round also when no time passes."""
    assert "".join(run_all(narrow(many("a", 3), many("b", 3)))) == "ababab"


def test_a_long_map_does_not_hold_up_a_short_one(narrow):
    """A small map that comes late gets every other turn, however much is left of the large one."""
    large, small = many("L", 10_000), many("s", 3, now=50.0)
    venue, order = narrow(large), []
    for now in range(60):
        if now == 50:
            venue.wake(small)
        batch, end = pick(venue, float(now))
        order.append(batch.workload.name)
        end()
    assert "".join(order[50:56]) in {"LsLsLs", "sLsLsL"}


def test_a_turn_is_started_at_now(narrow):
    """A batch that starts says when, and when its first attempt began."""
    batch, _ = pick(narrow(single()), 7.0)
    assert (batch.started, batch.began) == (7.0, 7.0)


def test_a_later_attempt_keeps_when_the_first_began(narrow):
    """A call that is tried again starts anew but began with its first attempt."""
    job = single()
    venue = narrow(job)
    batch, end = pick(venue, 1.0)
    job.rest(batch.part(0, 1, attempt=2))
    end()
    assert pick(venue, 2.0) == (None, None)
    [again] = job.resting
    assert job.wake(again)
    venue.give_back(again)
    batch, _ = pick(venue, 9.0)
    assert (batch.attempt, batch.started, batch.began) == (2, 9.0, 1.0)


def test_a_call_given_back_unstarted_begins_anew(narrow):
    """A call that came back before its first attempt begins when that starts."""
    venue = narrow(single())
    batch, end = pick(venue, 1.0)
    venue.give_back(batch)
    end()
    batch, _ = pick(venue, 9.0)
    assert (batch.attempt, batch.began) == (1, 9.0)


def test_what_is_given_back_is_as_old_as_ever(narrow):
    """A call given back goes before calls of equal priority that came later."""
    old, young = single("old", now=0.0), single("young", now=1.0)
    venue = narrow(old)
    batch, end = pick(venue, 2.0)
    venue.wake(young)
    venue.give_back(batch)
    end()
    assert run_all(venue, 3.0) == ["old", "young"]


def test_a_dropped_workload_starts_nothing(narrow):
    """What was stopped and taken out does not start, nor does it come back when its call ends."""
    job = many("a", 5)
    venue = narrow(job, single("b", priority=1))
    _, end = pick(venue)
    job.stop(None)
    venue.drop(job)
    end()
    venue.wake(job)
    assert [each.name for each in venue.queue] == ["b"]
    assert run_all(venue) == ["b"]


def test_a_moved_workload_has_its_new_place(narrow):
    """A queued workload whose priority changes goes where that belongs, at its old age."""
    a, b, c = single("a"), single("b"), single("c")
    venue = narrow(a, b, c)
    c.priority = -1
    venue.moved(c)
    a.priority = 1
    venue.moved(a)
    assert run_all(venue) == ["c", "b", "a"]


def test_moving_does_not_queue(narrow):
    """A change of priority does not queue a workload that is not."""
    venue = narrow()
    venue.moved(single())
    assert run_all(venue) == []


def test_a_dry_workload_is_parked_and_woken(narrow):
    """A workload with nothing to take leaves the queue, and comes back when woken."""
    job = many("m", 1, known=False)
    venue = narrow(job, single("s", priority=5))
    assert run_all(venue) == ["m", "s"]
    assert len(venue.queue) == 0
    job.source.items.append("late")
    assert pick(venue) == (None, None)
    venue.wake(job)
    assert run_all(venue) == ["m"]


def test_waking_is_idempotent(narrow):
    """Waking a queued workload neither doubles nor moves it."""
    a, b = single("a"), single("b")
    venue = narrow(a, b)
    venue.wake(a)
    assert len(venue.queue) == 2
    assert run_all(venue) == ["a", "b"]


def test_a_spent_workload_leaves_the_queue(narrow):
    """A workload whose length is known is not queued behind its last call."""
    venue = narrow(single())
    pick(venue)
    assert len(venue.queue) == 0


def test_a_workload_with_nothing_left_is_not_queued(narrow):
    """A call that has ended does not queue its workload if nothing is left of it."""
    venue = narrow(single())
    _, end = pick(venue)
    end()
    assert len(venue.queue) == 0


def test_a_limit_holds_a_workload_back(narrow):
    """A workload at its limit is not queued until one of its batches has settled."""
    job = many("m", 3, limit=1)
    venue = narrow(job)
    _, end = pick(venue)
    assert len(venue.queue) == 0
    venue.wake(job)
    assert len(venue.queue) == 0
    end()
    assert list(venue.queue) == [job]


def test_what_is_given_back_at_the_limit_waits(narrow):
    """A call given back while its workload is at its limit waits until a batch has settled."""
    job = many("m", 3, limit=1)
    venue = narrow(job)
    batch, end = pick(venue)
    venue.give_back(batch)
    assert len(venue.queue) == 0
    end()
    assert pick(venue)[0].indices == batch.indices


class Stopping(Items):
    """An input that has its own workload stopped when it is pulled."""

    def take(self, count, /):
        self.job.stop(None)
        self.venue.drop(self.job)
        return super().take(count)


def test_a_workload_stopped_by_its_own_input_starts_nothing(narrow):
    """An input that stops its own workload while it is pulled starts no call of it."""
    source = Stopping(3)
    job = workload("m", source)
    venue = narrow(job)
    source.job, source.venue = job, venue
    assert pick(venue) == (None, None)
    assert len(venue.queue) == 0


class Measured(tuple):
    """Items that count how often their number is asked for."""

    __slots__ = ()
    asked = 0

    def __len__(self):
        Measured.asked += 1
        return super().__len__()


def test_serving_costs_the_same_however_many_calls_came_back(narrow):
    """A turn does not go through all calls that wait for another attempt."""
    job = workload("m", cost=LONG)
    venue = narrow(job)
    for index in range(500):
        venue.give_back(Batch(job, (index,), Measured("x"), attempt=2))
    Measured.asked = 0
    assert pick(venue)[0] is not None
    assert Measured.asked < 50


# --- waiting is bounded ---------------------------------------------------------------------


@pytest.mark.parametrize("aging", [0.25, 1.0, 4.0])
def test_waiting_is_bounded_by_priority_times_aging(aging):
    """Behind newer and more important calls one waits the difference in priority times aging."""
    patient = single("patient", priority=10)
    venue = counted(1, patient, aging=aging)
    for now in range(100):
        venue.wake(single("urgent", now=float(now), priority=0))
        [batch] = start(venue, float(now))
        venue.settle(batch)
        if batch.workload is patient:
            break
    assert now == ceil(10 * aging)


def test_strict_priority_may_wait_forever():
    """With infinite aging the less important waits as long as there is something else."""
    venue = counted(1, single("patient", priority=1), aging=inf)
    for now in range(50):
        venue.wake(single("urgent", now=now * 1e6))
        [batch] = start(venue, now * 1e6)
        assert batch.workload.name == "urgent"
        venue.settle(batch)
    assert names(start(venue, 1e9)) == ["patient"]


# --- counted places -------------------------------------------------------------------------


def test_no_more_start_than_there_are_places():
    """A counted venue starts single calls until its places are taken."""
    venue = counted(3, many("m", 10))
    batches = start(venue)
    assert [list(batch.indices) for batch in batches] == [[0], [1], [2]]
    assert venue.running == 3
    venue.settle(batches[1])
    assert [list(batch.indices) for batch in start(venue)] == [[3]]


def test_places_are_taken_as_they_are_handed_out():
    """A consumer that stops asking half way has taken just the places it was given."""
    venue = counted(3, many("m", 10))
    assert next(venue.assign(0.0)).indices == range(1)
    assert venue.running == 1
    assert len(start(venue)) == 2


def test_a_limit_leaves_places_to_others():
    """A workload with a limit has no more calls running than that, whatever is free."""
    limited = many("m", 10, limit=2)
    venue = counted(5, limited, many("n", 10, priority=5))
    batches = start(venue)
    assert names(batches) == ["m", "m", "n", "n", "n"]
    assert limited.running == 2
    venue.settle(batches[0])
    assert names(start(venue)) == ["m"]


def test_a_lent_place_is_anothers_meanwhile():
    """A call that lends its place makes room for one other."""
    job = many("m", 5)
    venue = counted(1, job)
    start(venue)
    venue.lend(job)
    assert len(start(venue)) == 1
    assert (venue.running, venue.lent) == (1, 1)


def test_a_place_taken_back_by_force_is_made_up_for():
    """Nothing starts until the places passed over by a reclaim are free again."""
    job = many("m", 5)
    venue = counted(1, job)
    first, second = [*start(venue), *(venue.lend(job) or start(venue))]
    venue.reclaim(job)
    assert (venue.running, venue.lent) == (2, 0)
    venue.settle(first)
    assert start(venue) == []
    venue.settle(second)
    assert len(start(venue)) == 1


def test_a_free_place_beside_waiting_calls_is_not_valid():
    """A venue that was not asked what to start is found out."""
    with pytest.raises(AssertionError, match="assign was not asked"):
        counted(1, single()).validate()


@pytest.mark.parametrize("field", ["running", "lent"])
def test_a_negative_count_is_not_valid(field):
    """Places counted below zero are found out."""
    venue = counted(1)
    setattr(venue, field, -1)
    with pytest.raises(AssertionError):
        venue.validate()


# --- slots ----------------------------------------------------------------------------------


def test_an_unknown_function_goes_alone_to_each_idle_slot():
    """Of a function never measured each idle slot gets one call."""
    venue = laned(3, many("m", 10))
    assert send(venue) == ["m*1", "m*1", "m*1"]
    assert send(venue) == ["", "", ""]


def test_a_long_function_goes_alone():
    """Of a function longer than the quantum each idle slot gets one call."""
    assert send(laned(2, many("m", 10, cost=LONG))) == ["m*1", "m*1"]


def test_nothing_is_sent_behind_an_unknown_call():
    """A short call is not sent behind one of unknown length, also not in the same moment."""
    venue = laned(1, single("unknown"), single("short", cost=SHORT))
    assert send(venue) == ["unknown*1"]


@pytest.mark.parametrize("now", [0.0, 1e-9, 1.0])
def test_nothing_is_sent_behind_a_long_call(now):
    """A short call is not sent behind one that is known to be long."""
    venue = laned(1, single("long", cost=LONG))
    send(venue)
    venue.wake(single("short", cost=SHORT))
    assert send(venue, now) == [""]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("cost", [QUANTUM / 7, QUANTUM / 1.5, 1e-7])
def test_a_batch_is_bounded_by_the_quantum(known, cost):
    """A batch is as many calls as fit the quantum and one frame, and at least one."""
    [(slot, batch)] = list(laned(1, many("m", 10_000, known=known, cost=cost)).assign(0.0))[:1]
    assert len(batch) == min(max(1, int(QUANTUM / cost)), LARGEST_BATCH)
    assert slot.outstanding <= QUANTUM


def test_a_known_remainder_is_shared():
    """Of a known remainder a slot is sent half its even share."""
    cost = 2 * SMALLEST_SHARE
    venue = laned(2, many("m", 6 * 4, cost=cost))
    assert next(iter(venue.assign(0.0)))[1].indices == range(6)


def test_a_small_remainder_is_not_split_to_pieces():
    """What takes less than the smallest share goes as one batch."""
    cost = SMALLEST_SHARE / 8
    venue = laned(4, many("m", 8, cost=cost))
    assert len(next(iter(venue.assign(0.0)))[1]) == 8


def test_an_idle_slot_comes_first():
    """Short calls go to idle slots before any is sent ahead to a busy one."""
    venue = laned(3)
    for _ in range(3):
        venue.wake(single("s", cost=SHORT))
    assert send(venue) == ["s*1", "s*1", "s*1"]


def test_short_calls_are_sent_ahead():
    """Where no slot is idle, short calls go where they are soonest done."""
    venue = laned(2, single("a", cost=8 * SHORT), single("b", cost=4 * SHORT))
    assert send(venue) == ["a*1", "b*1"]
    for _ in range(2):
        venue.wake(single("s", cost=3 * SHORT))
    assert send(venue) == ["", "s*1 s*1"]


def test_what_is_sent_ahead_is_bounded():
    """No slot is sent more than half a quantum of single calls, or a quantum of batches."""
    venue = laned(1)
    for _ in range(200):
        venue.wake(single("s", cost=SHORT))
    [sent] = send(venue)
    assert len(sent.split()) == pytest.approx(QUANTUM / 2 / SHORT, abs=1)
    behind = laned(1, single("s", cost=40 * SHORT), many("m", known=False, cost=SHORT))
    assert send(behind)[0].startswith("s*1 m*")
    assert behind.slots[0].outstanding == pytest.approx(QUANTUM, abs=2 * SHORT)


@pytest.mark.parametrize(
    ("cost", "held"),
    [(0.0002, 8), (0.0004, 4), (0.001, 2), (0.0015, 2), (0.0016, 1), (0.01, 1)],
)
def test_a_worker_of_short_calls_does_not_run_dry(cost, held):
    """Single calls are sent ahead while half a quantum is held, and none longer than that."""
    cost = estimate(cost)
    jobs = [single(cost=cost) for _ in range(20)]
    venue = laned(1, *jobs)
    assert len(send(venue)[0].split()) == held
    assert venue.slots[0].outstanding <= QUANTUM or held == 1


def test_nothing_is_sent_ahead_to_a_slot_that_is_late():
    """A slot that should have been done before now is not sent more."""
    venue = laned(1, single("a", cost=SHORT))
    send(venue, 0.0)
    venue.wake(single("b", cost=SHORT))
    assert send(venue, 2 * SHORT) == [""]


def test_nothing_is_sent_ahead_of_a_limited_workload():
    """A workload with a limit waits for idle slots."""
    venue = laned(1, single("a", cost=SHORT))
    send(venue)
    venue.wake(single("b", cost=SHORT, limit=5))
    assert send(venue) == [""]


def test_a_limit_counts_batches():
    """A workload's limit is on the slots that work for it at once, batches and all."""
    job = many("m", 1000, cost=SHORT, limit=2)
    venue = laned(4, job)
    sent = [each for each in send(venue) if each]
    assert len(sent) == 2
    assert not any(each.endswith("*1") for each in sent)


def test_nothing_goes_to_a_shut_slot():
    """A slot that is not open is sent nothing, idle or not."""
    venue = laned(2, many("m", 5))
    venue.slots[0].open = False
    assert send(venue) == ["", "m*1"]


def test_nothing_goes_where_there_is_no_slot():
    """Without slots calls wait, and that is valid."""
    venue = laned(0, single())
    assert send(venue) == []
    assert len(venue.queue) == 1


def test_an_allowance_is_never_passed():
    """A slot is handed as many calls as it is allowed, and shut then."""
    venue = laned(2, many("m", 1000, cost=SHORT), allowance=3)
    assert send(venue) == ["m*3", "m*3"]
    assert [(slot.allowance, slot.open) for slot in venue.slots] == [(0, False)] * 2


def test_progress_empties_a_slot():
    """A slot whose calls have all left has nothing outstanding, whatever was estimated."""
    venue = laned(1, many("m", 10, known=False, cost=SHORT))
    [(slot, batch)] = list(venue.assign(0.0))[:1]
    venue.progress(slot, 4, 4 * SHORT)
    assert slot.load == len(batch) - 4
    assert slot.outstanding == pytest.approx((len(batch) - 4) * SHORT)
    venue.progress(slot, len(batch) - 4, 0.0)
    assert (slot.load, slot.outstanding) == (0, 0.0)


def test_what_was_not_started_is_not_used_up():
    """Calls given back unstarted count for a slot's allowance no more, and it opens again."""
    venue = laned(1, many("m", 10, known=False, cost=SHORT), allowance=3)
    [(slot, batch)] = venue.assign(0.0)
    assert not slot.open
    venue.unload(slot, 2, SHORT)
    assert (slot.load, slot.allowance, slot.open) == (1, 2, True)
    assert slot.outstanding == pytest.approx(SHORT)
    venue.unload(slot, 1, SHORT)
    assert (slot.load, slot.allowance, slot.outstanding) == (0, 3, 0.0)
    assert len(batch) == 3


@pytest.mark.parametrize("allowance", [None, 3])
def test_unloading_does_not_open_a_slot_that_was_shut(allowance):
    """A slot that was shut while it was allowed more stays shut when calls come back."""
    venue = laned(1, single(), allowance=allowance)
    [(slot, _)] = venue.assign(0.0)
    slot.open = False
    venue.unload(slot, 1, 0.0)
    assert (slot.load, slot.allowance, slot.open) == (0, allowance, False)


def test_progress_never_owes():
    """What was underestimated does not make a slot's outstanding work negative."""
    venue = laned(1, many("m", 10, known=False, cost=SHORT))
    [(slot, _)] = list(venue.assign(0.0))[:1]
    venue.progress(slot, 1, 99.0)
    assert slot.outstanding == 0.0


def test_a_slot_that_was_done_early_is_due_from_now():
    """What an idle slot is sent is due after its own estimate, however early the last ended."""
    venue = laned(1, single("long", cost=LONG))
    [(slot, batch)] = venue.assign(0.0)
    finish(venue, slot, batch)
    venue.wake(single("short", cost=SHORT))
    send(venue, SHORT)
    assert slot.due == pytest.approx(2 * SHORT)


def test_calls_sent_ahead_are_due_one_after_the_other():
    """A slot is due when all it was sent should be done."""
    venue = laned(1, single(cost=SHORT), single(cost=2 * SHORT))
    send(venue, 5.0)
    assert venue.slots[0].due == pytest.approx(5.0 + 3 * SHORT)


@pytest.mark.parametrize(("known", "enough", "counted_up"), [(1, 9, 4), (1, 2, 2), (0, 9, 9)])
def test_the_backlog_is_counted_up_to_enough(known, enough, counted_up):
    """The backlog is the number of queued calls as far as it matters, unknown being enough."""
    venue = laned(0, many("m", 3, known=bool(known)), single())
    assert venue.backlog(enough) == counted_up


def test_no_backlog():
    """A venue with nothing queued has no backlog."""
    assert laned(2).backlog(5) == 0


def test_an_idle_slot_beside_waiting_calls_is_not_valid():
    """A laned venue that was not asked what to send is found out."""
    with pytest.raises(AssertionError, match="a worker is idle while calls wait"):
        laned(1, single()).validate()


@pytest.mark.parametrize(("load", "outstanding"), [(-1, 0.0), (0, 1.0)])
def test_a_slot_that_does_not_add_up_is_not_valid(load, outstanding):
    """A slot with less than no load, or with work but no calls, is found out."""
    venue = laned(1)
    venue.slots[0].load, venue.slots[0].outstanding = load, outstanding
    with pytest.raises(AssertionError):
        venue.validate()


def test_a_slot_shows_its_state():
    """A slot's repr tells whether it is open and what it holds."""
    slot = Slot()
    assert repr(slot) == "<Slot shut load=0 outstanding=0.000000>"
    slot.open, slot.load = True, 2
    assert repr(slot) == "<Slot open load=2 outstanding=0.000000>"


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([], False),
        ([None], False),
        ([0.0], False),
        ([4e-5], True),
        ([6e-5], False),
        ([None, 4e-5, None], True),
        ([1e-5, 1e-5], False),
        ([4e-5, 0.0], False),
    ],
)
def test_an_answer_is_expected_soon_from_one_busy_worker(loads, expected):
    """That holds while exactly one worker is busy and what it has is known to be short."""
    venue = LanedVenue(1.0)
    for outstanding in loads:
        slot = Slot()
        if outstanding is not None:
            slot.load, slot.outstanding = 1, outstanding
        venue.slots.append(slot)
    assert venue.expects_soon(5e-5) is expected
