"""Bounds, stops and recalls, with a worker that only stores words and a clock set by hand."""

import heapq
from itertools import count
from math import inf
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopool._backends import watch as watch_module
from aiopool._backends.flights import Flights
from aiopool._backends.watch import Watch
from aiopool._core.estimate import Estimate
from aiopool._core.options import Settings
from aiopool._core.scheduler import Slot
from aiopool._core.workload import Batch, Workload
from aiopool._wire.slate import FINISHED, SETTLING, SINCE, SKIP_FROM, SKIP_TO, STARTED, TARGET
from aiopool.errors import TaskTimeout

PATIENCE = watch_module._PATIENCE
GRACE = 1.0
SOON = 0.003  # what a timer may be late by, as timers are not set closer than a millisecond


class Clock:
    """Time that moves when told, and the timers that come due on the way."""

    def __init__(self):
        self.now = 1_000.0
        self._timers = []
        self._numbers = count()

    def call_later(self, delay, callback):
        timer = SimpleNamespace(callback=callback)
        timer.cancel = lambda: setattr(timer, "callback", None)
        heapq.heappush(self._timers, (self.now + delay, next(self._numbers), timer))
        return timer

    @property
    def due(self):
        """When the timers that are set come due."""
        return [when for when, _, timer in sorted(self._timers) if timer.callback]

    def advance(self, seconds):
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now, _, timer = heapq.heappop(self._timers)
            if timer.callback:
                callback, timer.callback = timer.callback, None
                callback()
        self.now = end


class Rig:
    """A watch on a lane whose worker is played by the test."""

    def __init__(self, clock):
        self.clock = clock
        self.words = [0] * 8
        self.flights = Flights()
        self.slot = Slot()
        self.slot.open = True
        self.events = []  # interrupts with their targets, kills
        self.back = {}  # calls taken back, and why they were stopped if they were
        self.watch = Watch(
            process=self,
            flights=self.flights,
            slot=self.slot,
            grace=GRACE,
            taken_back=self._taken_back,
            collect=lambda: None,
        )

    # what Watch asks of the process

    def interrupt(self):
        self.events.append(("interrupt", self.words[TARGET]))

    def kill(self):
        self.events.append("kill")

    def _taken_back(self, cut):
        for flight in cut:
            self.slot.load -= len(flight.batch)
            for seq in range(flight.first, flight.stop):
                assert seq not in self.back
                known = self.watch.was_stopped(seq)
                self.back[seq] = (self.watch.reason(seq),) if known else ()
        self._land()

    # what the lane does

    def send(self, calls=1, *, timeout=None, workload=None, seconds=0.0):
        workload = workload or make_workload(timeout)
        self.flights.add(Batch(workload, range(calls), [()] * calls))
        self.slot.load += calls
        self.slot.due = max(self.slot.due, self.clock.now) + calls * seconds
        self.watch.arm()
        return workload

    def tell(self, seq, calls=1):
        """The worker has told of some calls."""
        call = self.flights.find(seq)
        self.flights.settle(call, calls)
        self.slot.load -= calls
        reasons = [self.watch.reason(n) for n in range(seq, seq + calls)]
        self.watch.forget(seq, calls)
        self._land()
        self.watch.arm()
        return reasons[0]

    def _land(self):
        list(self.flights.sweep())
        if not self.flights:
            self.slot.open = True

    # what the worker does

    def begin(self, seq):
        """Start a call unless it is to be skipped; whether it was started."""
        self.words[SINCE] = int(self.clock.now * 1e9)
        self.words[STARTED] = seq
        return not self.words[SKIP_FROM] <= seq < self.words[SKIP_TO]

    def finish(self, seq):
        self.words[FINISHED] = seq
        return self.tell(seq)


def make_workload(timeout=None):
    return Workload(
        None,
        Settings(timeout=timeout),
        name="crunch",
        venue="process",
        sink=None,
        now=0.0,
        cost=Estimate(),
    )


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(watch_module, "monotonic", lambda: clock.now)
    monkeypatch.setattr(watch_module, "asyncio", SimpleNamespace(get_running_loop=lambda: clock))
    return clock


@pytest.fixture
def rig(clock):
    return Rig(clock)


# --- timeouts -------------------------------------------------------------------------------


def test_a_call_is_interrupted_when_its_time_is_up(rig, clock):
    """The running call is interrupted at its timeout and not before."""
    rig.send(timeout=5)
    assert rig.begin(1)
    clock.advance(4.999)
    assert rig.events == []
    clock.advance(0.001 + SOON)
    assert rig.events == [("interrupt", 1)]
    assert rig.watch.was_stopped(1)
    error = rig.finish(1)
    assert type(error) is TaskTimeout
    assert (error.task, error.seconds, error.bound) == ("crunch", 5, "timeout")
    assert not rig.watch.was_stopped(1)


def test_the_timeout_begins_with_the_call(rig, clock):
    """A call has all of its time, however long it waited behind others."""
    rig.send(3, timeout=5, seconds=5)
    for seq in (1, 2, 3):
        assert rig.begin(seq)
        clock.advance(4.9)
        assert rig.events == []
        rig.finish(seq)
    assert rig.back == {}


def test_a_call_that_begins_late_is_timed_from_then(rig, clock):
    """A worker that takes its time to begin does not shorten the call's time."""
    rig.send(timeout=5)
    clock.advance(20)
    assert rig.begin(1)
    clock.advance(4.9)
    assert rig.events == []
    clock.advance(0.1 + SOON + 5)
    assert rig.events[0] == ("interrupt", 1)


def test_every_call_of_a_batch_has_its_own_timeout(rig, clock):
    """The second call of a batch is interrupted at its own time."""
    rig.send(2, timeout=5, seconds=5)
    rig.begin(1)
    clock.advance(4)
    rig.finish(1)
    rig.begin(2)
    clock.advance(4.9)
    assert rig.events == []
    clock.advance(0.1 + SOON)
    assert rig.events == [("interrupt", 2)]


def test_the_shorter_timeout_of_a_later_call_counts(rig, clock):
    """A call sent later with less time is interrupted in time."""
    rig.send(timeout=50)
    rig.begin(1)
    clock.advance(1)
    rig.finish(1)
    rig.send(timeout=2)
    rig.begin(2)
    clock.advance(2 + SOON)
    assert rig.events == [("interrupt", 2)]


@pytest.mark.parametrize("idle", [0, 10])
def test_an_idle_lane_stays_watchful(rig, clock, idle):
    """A timeout is kept also after the timer of an earlier call has come due on an idle lane."""
    for seq in (1, 2, 3):
        rig.send(timeout=2)
        rig.begin(seq)
        if seq < 3:
            rig.finish(seq)
            clock.advance(idle)
    clock.advance(2 + SOON)
    assert rig.events == [("interrupt", 3)]


def test_without_a_timeout_a_lone_call_runs_unwatched(rig, clock):
    """Nothing is scheduled for a single call that may take as long as it likes."""
    rig.send()
    rig.begin(1)
    assert clock.due == []


def test_one_timer_at_a_time(rig, clock):
    """However often the watch is armed, one timer is set, for the nearest moment."""
    for timeout in (30, 10, 20):
        rig.send(timeout=timeout)
    rig.begin(1)
    for _ in range(5):
        rig.watch.arm()
        rig.watch.look()
    assert len(clock.due) == 1


# --- grace ----------------------------------------------------------------------------------


def test_a_call_that_does_not_let_go_is_killed(rig, clock):
    """After the grace period the worker of an interrupted call is killed, and not before."""
    rig.send(timeout=5)
    rig.begin(1)
    clock.advance(5 + GRACE - 0.001)
    assert rig.events == [("interrupt", 1)]
    clock.advance(SOON)
    assert rig.events[-1] == "kill"


def test_a_call_that_lets_go_is_not_killed(rig, clock):
    """A worker whose call ended within the grace period lives, and so do later calls."""
    rig.send(timeout=5)
    rig.begin(1)
    clock.advance(5 + GRACE / 2)
    rig.finish(1)
    rig.send(timeout=5)
    rig.begin(2)
    clock.advance(4)
    assert rig.events == [("interrupt", 1)]
    rig.finish(2)
    clock.advance(10)
    assert rig.events == [("interrupt", 1)]


def test_each_interrupted_call_has_its_own_grace(rig, clock):
    """The second call that is interrupted is killed a whole grace period after its interrupt."""
    workload = rig.send(timeout=5)
    rig.begin(1)
    clock.advance(5 + GRACE / 2)
    rig.finish(1)
    rig.send(workload=workload)
    rig.begin(2)
    clock.advance(5 + GRACE - 0.01)
    assert rig.events == [("interrupt", 1), ("interrupt", 2)]
    clock.advance(0.01 + SOON)
    assert rig.events[-1] == "kill"


def test_the_innocent_leave_before_the_kill(rig, clock):
    """Calls behind an interrupted one are taken back as soon as they are certain not to start."""
    rig.send(3, timeout=5, seconds=5)
    rig.begin(1)
    clock.advance(5 + SOON)
    assert rig.events == [("interrupt", 1)]
    assert not rig.slot.open
    assert (rig.words[SKIP_FROM], rig.words[SKIP_TO]) == (2, 4)
    clock.advance(SETTLING + SOON)
    assert rig.back == {2: (), 3: ()}
    rig.finish(1)
    assert rig.slot.open


# --- calls that wait behind a late one ------------------------------------------------------


def test_calls_behind_a_late_one_are_recalled(rig, clock):
    """When a batch is late its unstarted calls are taken back, after the worker can know it."""
    rig.send(10, seconds=0.001)
    rig.begin(3)
    clock.advance(0.010 + PATIENCE - 0.001)
    assert rig.words[SKIP_TO] == 0
    clock.advance(0.002)
    assert (rig.words[SKIP_FROM], rig.words[SKIP_TO]) == (4, 11)
    assert rig.back == {}
    assert not rig.slot.open
    clock.advance(SETTLING + SOON)
    assert rig.back == dict.fromkeys(range(4, 11), ())
    assert rig.slot.load == 3


@pytest.mark.parametrize(("finished", "events"), [(0, [("interrupt", 0)]), (2, [])])
def test_results_behind_a_late_call_are_called_in(rig, clock, finished, events):
    """A late worker is asked, once and without a target, for results that it holds back."""
    rig.send(10, seconds=0.001)
    rig.words[FINISHED] = finished
    rig.begin(3)
    clock.advance(60)
    assert rig.events == events


def test_a_call_that_starts_meanwhile_is_not_taken_back(rig, clock):
    """What the worker had started before it could know of the recall stays its own."""
    rig.send(10, seconds=0.001)
    rig.begin(3)
    clock.advance(0.010 + PATIENCE + 0.001)
    rig.words[STARTED] = 5
    clock.advance(SETTLING + SOON)
    assert sorted(rig.back) == [6, 7, 8, 9, 10]


def test_a_batch_on_time_is_left_alone(rig, clock):
    """Calls are not taken back as long as the worker keeps to the estimate."""
    rig.send(10, seconds=0.010)
    for seq in range(1, 11):
        assert rig.begin(seq)
        clock.advance(0.010)
        rig.finish(seq)
    clock.advance(10)
    assert rig.back == {}
    assert rig.events == []


def test_the_last_call_being_late_disturbs_nobody(rig, clock):
    """A long call behind which nothing waits is left alone."""
    rig.send(3, seconds=0.001)
    rig.begin(3)
    clock.advance(60)
    assert rig.back == {}


def test_a_recall_does_not_reach_calls_sent_later(rig, clock):
    """A recall that has been overtaken by events leaves the calls sent afterwards alone."""
    rig.send(4, seconds=0.001)
    rig.begin(2)
    clock.advance(0.004 + PATIENCE + 0.001)
    assert rig.words[SKIP_TO] == 5
    rig.tell(1, 2)
    rig.tell(3, 2)  # skipped, and reported as such before the recall was confirmed
    assert not rig.flights
    clock.advance(1)
    rig.send(4, seconds=0.001)
    assert rig.begin(5)
    rig.watch.look()
    clock.advance(0.004)
    assert rig.back == {}
    assert all(rig.begin(seq) for seq in (6, 7, 8))


# --- stops ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, ValueError("deadline")])
def test_unstarted_calls_are_stopped(rig, clock, error):
    """Calls that have not started are skipped and taken back for the reason given."""
    first = rig.send()
    rig.begin(1)
    workload = rig.send(3)
    rig.watch.stop(workload, error)
    assert (rig.words[SKIP_FROM], rig.words[SKIP_TO]) == (2, 5)
    assert rig.back == {}
    clock.advance(SETTLING + SOON)
    assert rig.back == dict.fromkeys((2, 3, 4), (error,))
    assert rig.events == []
    assert [flight.batch.workload for flight in rig.flights if len(flight.batch)] == [first]


def test_the_running_call_is_stopped(rig, clock):
    """The running call of a stopped workload is interrupted at once and killed after grace."""
    workload = rig.send()
    rig.begin(1)
    rig.watch.stop(workload, None)
    assert rig.events == [("interrupt", 1)]
    clock.advance(GRACE - 0.001)
    assert rig.events == [("interrupt", 1)]
    clock.advance(0.001 + SOON)
    assert rig.events[-1] == "kill"


def test_a_stop_leaves_other_workloads_alone(rig, clock):
    """A call of another workload that runs is not interrupted, nor counted as stopped."""
    rig.send()
    rig.begin(1)
    stopped = rig.send(2)
    other = rig.send(2)
    rig.watch.stop(stopped, None)
    clock.advance(SETTLING + SOON)
    assert rig.events == []
    assert {seq: rig.back[seq] for seq in (2, 3)} == {2: (None,), 3: (None,)}
    assert all(rig.back.get(seq, ()) == () for seq in (4, 5))
    assert not any(rig.watch.was_stopped(seq) for seq in (1, 4, 5))
    assert other.name == "crunch"


def test_a_call_about_to_start_is_stopped_all_the_same(rig, clock):
    """A call that starts just before it could be skipped is interrupted soon after."""
    workload = rig.send()
    rig.watch.stop(workload, None)
    rig.words[SKIP_TO] = 0  # as a worker would see that had looked before
    assert rig.begin(1)
    clock.advance(PATIENCE + SETTLING + SOON)
    assert rig.events == [("interrupt", 1)]
    assert rig.back == {}


def test_the_first_reason_counts(rig, clock):
    """A call whose time was up and that is then cancelled has timed out."""
    workload = rig.send(timeout=5)
    rig.begin(1)
    clock.advance(5 + SOON)
    rig.watch.stop(workload, None)
    assert type(rig.finish(1)) is TaskTimeout
    assert rig.events == [("interrupt", 1)]


def test_stopping_what_is_settled_does_nothing(rig, clock):
    """Calls that have been told of are not stopped, nor those of a workload that is not here."""
    workload = rig.send(2, seconds=1)
    rig.begin(1)
    rig.finish(1)
    rig.watch.stop(make_workload(), None)
    assert not rig.watch.was_stopped(2)
    rig.watch.stop(workload, None)
    assert not rig.watch.was_stopped(1)
    assert rig.watch.was_stopped(2)


def test_two_stops_while_the_first_is_unsettled(rig, clock):
    """A second stop before the first is confirmed loses no call of either."""
    rig.send()
    rig.begin(1)
    workloads = [rig.send(2) for _ in range(3)]
    rig.watch.stop(workloads[2], None)
    clock.advance(SETTLING / 2)
    rig.watch.stop(workloads[0], ValueError())
    clock.advance(SETTLING * 4 + SOON)
    assert set(rig.back) == {2, 3, 4, 5, 6, 7}
    assert rig.back[6] == rig.back[7] == (None,)
    assert rig.back[4] == rig.back[5] == ()
    assert type(rig.back[2][0]) is type(rig.back[3][0]) is ValueError
    assert rig.events == []


def test_the_end_of_the_worker_ends_the_watch(rig, clock):
    """Nothing is due any more once the worker is gone."""
    workload = rig.send(3, timeout=5)
    rig.begin(1)
    rig.watch.stop(workload, None)
    rig.watch.end()
    assert clock.due == []
    assert not rig.watch.was_stopped(1)


# --- all of it together ---------------------------------------------------------------------


class Worker:
    """Plays a worker that runs each call for its time, unless interrupted or told to skip."""

    def __init__(self, rig, durations):
        self.rig = rig
        self.durations = durations
        self.waiting = []
        self.running = None
        self.ran = {}  # call: how long
        self.dead = False
        rig.interrupt = self._interrupt
        rig.kill = self._kill

    def send(self, calls, **options):
        first = self.rig.flights.next
        workload = self.rig.send(calls, **options)
        self.waiting += range(first, self.rig.flights.next)
        return workload

    def step(self):
        """Do what a moment of time allows."""
        if self.dead:
            return
        now = self.rig.clock.now
        if self.running is not None and now - self.began >= self.durations(self.running):
            self._end_call()
        while self.running is None and self.waiting:
            seq = self.waiting.pop(0)
            if self.rig.begin(seq):
                assert seq not in self.rig.back, "run although it was taken back"
                assert seq not in self.ran
                self.running, self.began = seq, now
            elif self.rig.flights.find(seq):
                self.rig.finish(seq)
                self.rig.back[seq] = "skipped"

    def _end_call(self):
        self.ran[self.running] = self.rig.clock.now - self.began
        seq, self.running = self.running, None
        self.rig.finish(seq)

    def _interrupt(self):
        if self.rig.words[TARGET] == self.running:
            self.began = -inf  # it ends with the next step

    def _kill(self):
        self.dead = True


CALLS = st.tuples(
    st.integers(1, 6),  # calls of the batch
    st.sampled_from([None, 0.02, 0.1]),  # timeout
    st.sampled_from([0.0, 0.001, 0.01]),  # estimate
    st.sampled_from([0.0, 0.001, 0.02, 0.3]),  # pause before the next batch
    st.booleans(),  # stopped then
)


@given(st.lists(CALLS, max_size=8), st.lists(st.sampled_from([0, 0.001, 0.015, 0.2]), min_size=60))
def test_no_call_is_lost_or_run_twice(batches, durations):
    """Whatever runs late, out of time or is stopped, each call runs, or comes back, once."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(watch_module, "monotonic", lambda: clock.now)
        patch.setattr(watch_module, "asyncio", SimpleNamespace(get_running_loop=lambda: clock))
        rig = Rig(clock)
        worker = Worker(rig, lambda seq: durations[seq])

        def live(seconds):
            for _ in range(max(1, round(seconds * 2_000))):
                clock.advance(0.0005)
                worker.step()

        for calls, timeout, estimate, pause, stopped in batches:
            workload = worker.send(calls, timeout=timeout, seconds=estimate)
            live(pause)
            if stopped:
                rig.watch.stop(workload, None)
        live(0.3 * rig.flights.next)
        assert not worker.dead
        assert not rig.flights
        assert rig.slot.load == 0
        assert rig.slot.open
        told = sorted([*worker.ran, *rig.back])
        assert told == list(range(1, rig.flights.next))
