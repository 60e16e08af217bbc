import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aiopool._backends.flights import Flights
from aiopool._core.estimate import Estimate
from aiopool._core.options import Settings
from aiopool._core.workload import Batch, Workload


def workload(*, exact=False):
    return Workload(
        None, Settings(), name="", venue="", sink=None, now=0.0, cost=Estimate(), exact=exact
    )


def batch(count, first=0, *, exact=False):
    """A batch of calls that are numbered from `first` in their input."""
    indices = range(first, first + count)
    return Batch(workload(exact=exact), indices, list(indices))


def loaded(*sizes, exact=False):
    """Flights of batches of these sizes; a call's place in the input is its number less one."""
    flights = Flights()
    for size in sizes:
        flights.add(batch(size, flights.next - 1, exact=exact))
    return flights


def numbers(flight):
    """The numbers of a flight's calls, which must be those their batch says."""
    found = list(range(flight.first, flight.stop))
    assert [index + 1 for index in flight.batch.indices] == found
    return found


def all_numbers(flights):
    return [numbers(flight) for flight in flights]


def settle(flights, seq, count=1):
    flights.settle(flights.find(seq), count)


def cut(flights, seq):
    """Take back all that was sent, from a number on."""
    return flights.cut(seq, flights.next)


# --- numbering ------------------------------------------------------------------------------


def test_numbers_start_at_one():
    """Calls are numbered in the order they are sent, from 1, and no number is used again."""
    flights = loaded(2, 1, 3)
    assert all_numbers(flights) == [[1, 2], [3], [4, 5, 6]]
    assert flights.next == 7


def test_no_number_is_used_twice():
    """Numbers go on after calls were settled or taken back."""
    flights = loaded(2, 3)
    settle(flights, 1, 2)
    cut(flights, 4)
    list(flights.sweep())
    assert flights.add(batch(1)).first == 6


def test_a_flight_knows_its_estimate():
    """A flight keeps what one of its calls was estimated at when it was sent."""
    flights = Flights()
    job = workload()
    unknown = flights.add(Batch(job, (0,), "a"))
    job.cost.seconds = 0.5
    known = flights.add(Batch(job, (1, 2), "bc"))
    job.cost.seconds = 9.0
    assert (unknown.seconds, known.seconds) == (0.0, 0.5)
    assert known.piece(1, 2).seconds == 0.5


def test_no_flights():
    """Without flights there is nothing to find, sweep, cut or abandon."""
    flights = Flights()
    assert not flights
    assert flights.find(0) is None
    assert flights.find(1) is None
    assert list(flights.sweep()) == cut(flights, 0) == []
    assert flights.purge() == []
    assert flights.abandon(0, 0) == ([], [])
    assert not flights.unstarted(0)


# --- finding and settling -------------------------------------------------------------------


@pytest.mark.parametrize(("seq", "place"), [(1, 0), (2, 1), (3, 0), (6, 2)])
def test_a_call_is_found_by_its_number(seq, place):
    """A number leads to the call's flight and its place there."""
    call = loaded(2, 1, 3).find(seq)
    assert (call.seq, call.place) == (seq, place)
    assert call.flight.first + place == seq
    assert list(call.alone().indices) == [seq - 1]


@pytest.mark.parametrize("seq", [-1, 0, 7, 100])
def test_other_numbers_are_no_calls(seq):
    """A number that was not given out finds nothing."""
    assert loaded(2, 1, 3).find(seq) is None


def test_settled_calls_are_not_found():
    """What has been told of is not found, what comes after is."""
    flights = loaded(4)
    settle(flights, 1, 2)
    assert [flights.find(seq) is not None for seq in (1, 2, 3, 4)] == [False, False, True, True]


def test_flights_are_swept_in_order():
    """A flight is swept once all of its calls and all flights before it are settled."""
    flights = loaded(2, 1, 2)
    settle(flights, 3)
    assert list(flights.sweep()) == []
    settle(flights, 1)
    assert list(flights.sweep()) == []
    settle(flights, 2)
    assert all_numbers(flights.sweep()) == [[1, 2], [3]]
    assert all_numbers(flights) == [[4, 5]]
    assert list(flights.sweep()) == []


def test_a_swept_flight_has_left_before_it_is_told_of():
    """Whoever is given a swept flight does not find it among the flights any more."""
    flights = loaded(1, 1)
    settle(flights, 1)
    settle(flights, 2)
    assert [len(list(flights)) for _ in flights.sweep()] == [1, 0]
    assert not flights


# --- taking back ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seq", "taken", "left"),
    [
        (1, [[1, 2], [3], [4, 5, 6]], [[], [], []]),
        (2, [[2], [3], [4, 5, 6]], [[1], [], []]),
        (3, [[3], [4, 5, 6]], [[1, 2], [], []]),
        (5, [[5, 6]], [[1, 2], [3], [4]]),
        (7, [], [[1, 2], [3], [4, 5, 6]]),
    ],
)
def test_a_cut_takes_back_all_from_a_number_on(seq, taken, left):
    """A cut takes the calls from a number on, and only those, off their flights."""
    flights = loaded(2, 1, 3)
    assert all_numbers(cut(flights, seq)) == taken
    assert all_numbers(flights) == left
    assert [flights.find(each) is not None for each in range(1, 7)] == [
        each < seq for each in range(1, 7)
    ]


def test_a_cut_leaves_settled_calls_alone():
    """What has been told of is not taken back, wherever the cut is."""
    flights = loaded(3, 2)
    settle(flights, 1, 2)
    assert all_numbers(cut(flights, 1)) == [[3], [4, 5]]
    assert [len(flight.batch) for flight in flights.sweep()] == [2, 0]


def test_a_cut_spares_what_was_sent_later():
    """Flights sent after those that are taken back stay."""
    flights = loaded(2, 2, 2)
    assert all_numbers(flights.cut(2, 5)) == [[2], [3, 4]]
    assert all_numbers(flights) == [[1], [], [5, 6]]
    assert flights.unstarted(1)
    assert flights.find(5).place == 0


def test_empty_flights_are_purged_wherever_they_stand():
    """Flights that are settled or cut empty are removed also from behind others."""
    flights = loaded(1, 2, 1, 1)
    settle(flights, 2, 2)
    flights.cut(4, 5)
    assert [each.first for each in flights.purge()] == [2, 4]
    assert all_numbers(flights) == [[1], [5]]
    assert flights.purge() == []


def test_a_second_cut_finds_nothing():
    """What was taken back is not taken back again."""
    flights = loaded(2, 2)
    cut(flights, 2)
    assert cut(flights, 2) == cut(flights, 3) == []


def test_a_cut_flight_is_swept_when_the_rest_has_settled():
    """A flight that was cut needs only what was left of it settled."""
    flights = loaded(3)
    cut(flights, 2)
    assert list(flights.sweep()) == []
    settle(flights, 1)
    assert [numbers(flight) for flight in flights.sweep()] == [[1]]


@pytest.mark.parametrize(
    ("exact", "started", "finished", "lost", "left"),
    [
        (False, 0, 0, [], [[2], [3], [4, 5, 6]]),
        (False, 2, 1, [2], [[3], [4, 5, 6]]),
        (False, 5, 1, [5], [[2], [3], [4], [6]]),
        (False, 5, 3, [2, 3, 5], [[4], [6]]),
        (False, 5, 5, [2, 3, 4, 5], [[6]]),
        (False, 6, 5, [2, 3, 4, 5, 6], []),
        (True, 0, 0, [], [[2], [3], [4, 5, 6]]),
        (True, 2, 1, [2], [[3], [4, 5, 6]]),
        (True, 5, 1, [2, 3, 4, 5], [[6]]),
        (True, 5, 5, [2, 3, 4, 5], [[6]]),
    ],
)
def test_a_dead_worker_loses_what_it_may_not_run_again(exact, started, finished, lost, left):
    """Lost are the running call, those whose results were sent, and exact ones that ran."""
    flights = loaded(2, 1, 3, exact=exact)
    settle(flights, 1)
    gone, others = flights.abandon(started, finished)
    assert [call.seq for call in gone] == lost
    assert [list(call.alone().indices) for call in gone] == [[seq - 1] for seq in lost]
    assert all_numbers(others) == left
    assert flights.abandon(started, finished) == ([], [])
    assert all_numbers(flights.sweep()) == [[1, 2], [3], [4, 5, 6]]


# --- what is waiting ------------------------------------------------------------------------


@pytest.mark.parametrize(("started", "waiting"), [(0, True), (2, True), (3, False), (4, False)])
def test_calls_after_the_started_one_are_waiting(started, waiting):
    """Calls with higher numbers than the one started last are waiting."""
    assert loaded(2, 1).unstarted(started) is waiting


def test_nothing_waits_in_flights_that_were_cut_empty():
    """Calls that were taken back are not waiting once the flights they came with are gone."""
    flights = loaded(1, 1, 1)
    cut(flights, 2)
    assert all_numbers(flights.purge()) == [[], []]
    assert not flights.unstarted(1)


class Lane(RuleBasedStateMachine):
    """One worker's flights beside a plain list of the calls that are with it."""

    def __init__(self):
        super().__init__()
        self.flights = Flights()
        self.waiting = []  # numbers of unsettled calls
        self.exact = set()  # numbers of calls that never run twice
        self.told = []
        self.landed = 0
        self.sent = 0

    @rule(size=st.integers(1, 5), exact=st.booleans())
    def send(self, size, exact):
        flight = self.flights.add(batch(size, self.flights.next - 1, exact=exact))
        self.waiting += numbers(flight)
        self.exact.update(numbers(flight) if exact else ())
        self.sent += 1

    @precondition(lambda self: self.waiting)
    @rule(count=st.integers(1, 5))
    def tell(self, count):
        """The worker tells of its next calls, as many of one flight as it likes."""
        call = self.flights.find(self.waiting[0])
        count = min(count, len(call.flight.batch) - call.place)
        told = call.flight.batch.part(call.place, call.place + count)
        self.flights.settle(call, count)
        self.account([index + 1 for index in told.indices])

    @precondition(lambda self: self.waiting)
    @rule(place=st.integers(0, 12), later=st.integers(0, 3))
    def cut(self, place, later):
        """Calls are taken back, those of the last flights perhaps excepted."""
        seq = self.waiting[min(place, len(self.waiting) - 1)]
        stops = [flight.stop for flight in self.flights if flight.stop > seq]
        stop = stops[-1 - min(later, len(stops) - 1)]
        taken = [each for flight in self.flights.cut(seq, stop) for each in numbers(flight)]
        assert taken == [each for each in self.waiting if seq <= each < stop]
        self.account(taken)

    @rule()
    def purge(self):
        self.landed += len(self.flights.purge())
        if self.waiting:
            assert self.flights.unstarted(self.waiting[-1] - 1)
            assert not self.flights.unstarted(self.waiting[-1])

    @rule(reached=st.integers(0, 9), unsent=st.integers(0, 5))
    def die(self, reached, unsent):
        """The worker dies somewhere on its way; another one starts empty."""
        finished = min([*self.waiting, self.flights.next]) - 1 + reached
        started = finished + unsent
        lost, left = self.flights.abandon(started, finished)
        again = [number for flight in left for number in numbers(flight)]
        assert again == sorted(again)
        assert [call.seq for call in lost] == [
            seq
            for seq in self.waiting
            if seq <= finished or seq == started or (seq < started and seq in self.exact)
        ]
        self.account([call.alone().indices[0] + 1 for call in lost] + again)
        assert not self.waiting

    @rule()
    def sweep(self):
        self.landed += len(list(self.flights.sweep()))

    @invariant()
    def only_the_unsettled_are_found(self):
        found = [seq for seq in range(self.flights.next + 2) if self.flights.find(seq)]
        assert found == self.waiting

    def account(self, told):
        assert set(told) <= set(self.waiting)
        self.told += told
        self.waiting = [each for each in self.waiting if each not in told]

    def teardown(self):
        """Each call was told of once, and each flight lands."""
        self.account([seq for seq in list(self.waiting) if self.tell_one(seq)])
        self.sweep()
        assert sorted(self.told) == list(range(1, self.flights.next))
        assert self.landed == self.sent
        assert not self.flights

    def tell_one(self, seq):
        self.flights.settle(self.flights.find(seq), 1)
        return True


FEW = settings(max_examples=40, stateful_step_count=25, report_multiple_bugs=False)


def test_every_call_is_accounted_for_once():
    """Each call is told of exactly once, whatever happens to the lane."""
    run_state_machine_as_test(Lane, settings=FEW)
