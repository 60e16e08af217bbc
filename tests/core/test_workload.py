import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopool._core.estimate import Estimate
from aiopool._core.options import Settings
from aiopool._core.workload import EMPTY, Batch, Workload


class Items:
    """A source of the items "0", "1" and so on; its length is told or not."""

    def __init__(self, count, *, known=True):
        self.items = [str(number) for number in range(count)]
        self.known = known
        self.asked = []

    def take(self, count, /):
        self.asked.append(count)
        taken, self.items = self.items[:count], self.items[count:]
        return taken

    def remaining(self):
        return len(self.items) if self.known else None


def workload(source=EMPTY, *, now=0.0, **options):
    return Workload(
        None,
        Settings(**options),
        name="job",
        venue="",
        sink=None,
        now=now,
        cost=Estimate(),
        source=source,
    )


def indices(batch):
    return list(batch.indices)


# --- batches --------------------------------------------------------------------------------


def test_a_part_is_some_of_the_calls():
    """A part of a batch has its calls, their places in the input and what is known of both."""
    batch = Batch(workload(), range(10, 15), "abcde", attempt=2, began=3.0)
    batch.started = 4.0
    part = batch.part(1, 3)
    assert (indices(part), part.items, len(part)) == ([11, 12], "bc", 2)
    assert (part.attempt, part.began, part.started) == (2, 3.0, 4.0)
    assert part.workload is batch.workload
    assert part.payloads is None


def test_a_part_keeps_what_was_encoded():
    """What a batch's items were encoded to goes with its parts."""
    batch = Batch(workload(), range(3), "abc")
    batch.payloads = [b"a", b"b", b"c"]
    assert batch.part(1, 3).payloads == [b"b", b"c"]


def test_a_part_may_be_for_another_attempt():
    """A part can be made for the next attempt; the batch itself keeps its own."""
    batch = Batch(workload(), range(3), "abc", attempt=1)
    assert batch.part(0, 1, attempt=2).attempt == 2
    assert batch.attempt == 1


def test_parts_leave_the_batch_alone():
    """Taking parts does not change the batch, and together they are all of it."""
    batch = Batch(workload(), range(4), "abcd")
    assert indices(batch.part(0, 1)) + indices(batch.part(1, 4)) == indices(batch) == [0, 1, 2, 3]
    assert len(batch.part(2, 2)) == 0


def test_reprs_tell_who_it_is():
    """A batch's repr and a workload's tell the name, the priority and the attempt."""
    job = workload(priority=3)
    assert repr(job) == "<Workload job priority=3 running=0>"
    assert repr(Batch(job, range(9), "abcdefghi", attempt=2)) == (
        f"<Batch [0, 1, 2]… of {job!r}, attempt 2>"
    )


# --- taking ---------------------------------------------------------------------------------


def test_calls_are_numbered_as_they_are_taken():
    """Calls are taken in input order and numbered from 0, each in its first attempt."""
    job = workload(Items(5))
    taken = [job.take(2), job.take(2), job.take(2)]
    assert [indices(batch) for batch in taken] == [[0, 1], [2, 3], [4]]
    assert ["".join(batch.items) for batch in taken] == ["01", "23", "4"]
    assert {(batch.attempt, batch.began) for batch in taken} == {(1, None)}
    assert job.take(2) is None


def test_a_dry_source_may_flow_again():
    """Nothing to take now does not mean never, and the numbers go on."""
    source = Items(1, known=False)
    job = workload(source)
    job.take(4)
    assert job.take(4) is None
    source.items.append("late")
    batch = job.take(4)
    assert (indices(batch), list(batch.items)) == ([1], ["late"])


def test_no_more_is_pulled_than_is_taken():
    """A source is asked for just as many items as are wanted."""
    source = Items(100)
    workload(source).take(7)
    assert source.asked == [7]


def test_a_workload_without_a_source_has_no_calls():
    """The empty source has nothing left and nothing to take."""
    assert EMPTY.remaining() == 0
    assert EMPTY.take(5) == ()
    assert workload().take(5) is None


# --- coming back ----------------------------------------------------------------------------


def test_what_is_put_back_comes_first():
    """Calls put back are taken before new input, the last put back first."""
    job = workload(Items(6))
    first, second = job.take(2), job.take(2)
    job.put_back(second)
    job.put_back(first)
    assert [indices(job.take(9)) for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]


def test_what_is_put_back_may_be_taken_in_pieces():
    """A batch put back that is too large is taken from its head, and the rest stays first."""
    job = workload(Items(9))
    batch = job.take(5)
    job.put_back(batch)
    assert [indices(job.take(2)) for _ in range(4)] == [[0, 1], [2, 3], [4], [5, 6]]


def test_put_back_calls_keep_their_attempt():
    """Calls of different attempts are never taken as one batch."""
    job = workload(Items(4))
    again = job.take(2).part(0, 1, attempt=2)
    job.put_back(again)
    taken = [job.take(9), job.take(9)]
    assert [(indices(batch), batch.attempt) for batch in taken] == [([0], 2), ([2, 3], 1)]


def test_putting_back_restores_the_age():
    """A workload that has calls put back is as old as when it was made."""
    job = workload(Items(2), now=5.0)
    batch = job.take(1)
    job.turn = 9.0
    job.put_back(batch)
    assert job.turn == 5.0


@pytest.mark.parametrize("known", [True, False])
def test_remaining_counts_what_was_put_back(known):
    """What remains is the input left and the calls put back, unknown if the input's length is."""
    job = workload(Items(5, known=known))
    assert job.remaining() == (5 if known else None)
    job.put_back(job.take(2))
    assert job.remaining() == (5 if known else None)
    job.take(1)
    assert job.remaining() == (4 if known else None)
    job.take(1)
    job.put_back(job.take(3))
    job.take(2)
    assert job.remaining() == (1 if known else None)


@pytest.mark.parametrize(("known", "more"), [(True, False), (False, True)])
def test_more_may_come_unless_it_is_known_not_to(known, more):
    """A workload may have more while calls wait or its input is not known to have ended."""
    job = workload(Items(1, known=known))
    assert job.has_more()
    batch = job.take(1)
    assert job.has_more() is more
    job.put_back(batch)
    assert job.has_more()


def test_a_first_attempt_begins_anew():
    """A call put back before its first attempt has not begun, one put back for another has."""
    job = workload(Items(2))
    for attempt, began in [(1, None), (2, 3.0)]:
        batch = job.take(1).part(0, 1, attempt=attempt)
        batch.began = 3.0
        job.put_back(batch)
        assert job.take(1).began == began


class Stopping(Items):
    """An input that stops its own workload when it is pulled."""

    def take(self, count, /):
        self.job.stop(None)
        return super().take(count)


@pytest.mark.parametrize("pull", [lambda job: job.take(2), lambda job: job.probe()])
def test_an_input_may_stop_its_own_workload(pull):
    """What is pulled while the workload is being stopped is no call of it."""
    source = Stopping(3)
    source.job = job = workload(source)
    assert pull(job) is None
    assert (job.next_index, job.here) == (0, 0)


# --- probing --------------------------------------------------------------------------------


def test_probing_loses_nothing():
    """A probed workload hands out the same calls in the same order."""
    job = workload(Items(3, known=False))
    job.probe()
    assert [indices(job.take(2)) for _ in range(2)] == [[0], [1, 2]]


def test_probing_asks_the_source_once():
    """Probing pulls one item at most, and none while calls wait that were put back."""
    source = Items(3)
    job = workload(source)
    job.probe()
    job.probe()
    assert source.asked == [1]


def test_probing_leaves_what_waits_as_it_is():
    """Calls that were put back are not touched by a probe."""
    job = workload(Items(5))
    batch = job.take(3)
    job.put_back(batch)
    job.probe()
    assert job.take(9) is batch


def test_probing_keeps_the_turn():
    """Probing does not make a workload older or younger."""
    job = workload(Items(3), now=1.0)
    job.turn = 7.0
    job.probe()
    assert job.turn == 7.0


def test_probing_a_dry_or_stopped_workload_does_nothing():
    """A probe of a dry source queues nothing, and a stopped workload's source is not asked."""
    job = workload(Items(0))
    job.probe()
    assert job.here == 0
    source = Items(3)
    stopped = workload(source)
    stopped.stop(None)
    stopped.probe()
    assert source.asked == []


# --- resting and stopping -------------------------------------------------------------------


def test_a_rested_call_wakes_once():
    """A backoff that ends wakes its call once."""
    job = workload(Items(2))
    batch = job.take(1)
    assert job.wake(batch) is False
    job.rest(batch)
    assert job.wake(batch) is True
    assert job.wake(batch) is False


def test_a_resting_call_is_not_taken():
    """A call that waits out its backoff is not there to be taken."""
    job = workload(Items(1))
    job.rest(job.take(1))
    assert job.take(1) is None
    assert job.remaining() == 0


def test_a_stopped_workload_wakes_nobody():
    """A backoff that ends after its workload was stopped has nothing to wake."""
    job = workload(Items(1))
    batch = job.take(1)
    job.rest(batch)
    job.stop(None)
    assert job.wake(batch) is False


def test_stopping_returns_everything_that_waits():
    """Stopping returns the calls put back, first in line first, and those that rest."""
    job = workload(Items(9))
    batches = [job.take(2) for _ in range(4)]
    job.put_back(batches[1])
    job.put_back(batches[0])
    job.rest(batches[2])
    assert job.stop(None) == batches[:3]
    assert job.stopped
    assert job.remaining() == 1


def test_stopping_again_returns_nothing_new():
    """What a stop has returned is not returned by another."""
    job = workload(Items(4))
    job.rest(job.take(1))
    job.put_back(job.take(1))
    assert len(job.stop(None)) == 2
    assert job.stop(None) == []


def test_a_stop_has_a_reason():
    """Why a workload was stopped is kept, None for a cancellation."""
    error = TimeoutError()
    job = workload()
    assert job.reason is None
    job.stop(error)
    assert job.reason is error


def test_a_deadline_counts_from_the_start():
    """The deadline is so many seconds after the workload was made."""
    assert workload(now=10.0, deadline=2.5).deadline == 12.5
    assert workload(now=10.0).deadline is None


changes = st.lists(
    st.tuples(st.sampled_from(["take", "put_back", "rest", "wake", "probe"]), st.integers(1, 4)),
    min_size=10,
    max_size=40,
)


@settings(max_examples=60)
@given(count=st.integers(0, 12), known=st.booleans(), changes=changes)
def test_every_call_is_in_one_place(count, known, changes):
    """Whatever happens, a call is with the taker, in line, at rest or not pulled, and in one."""
    source = Items(count, known=known)
    job = workload(source)
    held, resting = [], []
    for change, number in changes:
        if change == "take" and (batch := job.take(number)) is not None:
            assert 1 <= len(batch) <= number
            assert list(map(str, batch.indices)) == list(batch.items)
            held.append(batch)
        elif change == "put_back" and held:
            job.put_back(held.pop(number % len(held)))
        elif change == "rest" and held:
            resting.append(held.pop(number % len(held)))
            job.rest(resting[-1])
        elif change == "wake" and resting:
            batch = resting.pop(number % len(resting))
            assert job.wake(batch)
            job.put_back(batch)
        elif change == "probe":
            job.probe()
        left = count - sum(map(len, held)) - sum(map(len, resting))
        assert job.remaining() == (left if known else None)
        assert job.has_more() == (not known or left > 0)
    everywhere = [*held, *job.stop(None)]
    places = [index for batch in everywhere for index in batch.indices]
    assert sorted(places) == list(range(count - len(source.items)))


# --- one call -------------------------------------------------------------------------------


def test_a_held_call_is_taken_once():
    """A workload that holds one call hands out that call, and then nothing."""
    job = workload()
    job.hold("item")
    assert (job.remaining(), job.has_more()) == (1, True)
    batch = job.take(5)
    assert (batch.indices, batch.items, batch.payloads) == ((0,), ("item",), None)
    assert (job.remaining(), job.has_more(), job.take(5)) == (0, False, None)


def test_a_held_call_brings_its_encoded_form():
    """What it was given as the encoded item goes with the batch."""
    job = workload()
    job.hold("item", "packed")
    assert job.take(1).payloads == ("packed",)


def test_a_held_call_comes_back():
    """A held call that was put back is handed out as the same batch."""
    job = workload()
    job.hold("item", "packed")
    batch = job.take(1)
    job.put_back(batch)
    assert job.take(1) is batch


def test_a_held_call_is_dropped_by_a_stop():
    """Stopping returns the held call if it was not taken, and nothing otherwise."""
    job, taken = workload(), workload()
    job.hold("item")
    taken.hold("item")
    taken.take(1)
    assert [batch.items for batch in job.stop(None)] == [("item",)]
    assert taken.stop(None) == []
    assert job.take(1) is None
