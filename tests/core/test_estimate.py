from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopool._core.estimate import LARGEST_BATCH, OVERHEAD, QUANTUM, Estimate


def measured(seconds, count=1):
    """An estimate after one measurement."""
    estimate = Estimate()
    estimate.observe(seconds, count)
    return estimate


def test_nothing_is_known_at_first():
    """A function never measured has no estimate, and no budget holds a call of it."""
    assert Estimate().seconds is None
    assert Estimate().fit(1e9) == 0


def test_the_first_measurement_counts_fully():
    """The first measurement is the estimate, as the mean of its calls."""
    assert measured(2.0, 4).seconds == pytest.approx(0.5)


def test_a_call_has_a_least_cost():
    """A call that takes no time is still estimated above zero."""
    estimate = measured(0.0, 1000)
    assert estimate.seconds == OVERHEAD
    assert estimate.fit(QUANTUM) == LARGEST_BATCH


def test_a_later_call_moves_the_estimate_part_of_the_way():
    """One more call moves the estimate a quarter of the way."""
    estimate = measured(1.0)
    estimate.observe(2.0, 1)
    assert estimate.seconds == pytest.approx(1.25)


def test_many_calls_weigh_more_than_one():
    """A batch moves the estimate as far as its calls would one by one."""
    one_by_one, together = measured(1.0), measured(1.0)
    for _ in range(5):
        one_by_one.observe(3.0, 1)
    together.observe(15.0, 5)
    assert together.seconds == pytest.approx(one_by_one.seconds)


def test_a_large_batch_does_not_wipe_out_the_past():
    """However large a batch, a hundredth of the old estimate is left."""
    estimate = measured(1.0)
    estimate.observe(0.0, 100_000)
    assert estimate.seconds == pytest.approx(0.75**16, rel=1e-3)


@pytest.mark.parametrize(
    ("cost", "budget", "count"),
    [(0.001, 0.0035, 3), (0.001, 0.0, 0), (1.0, 0.003, 0), (1e-9, 1.0, LARGEST_BATCH)],
)
def test_a_budget_holds_whole_calls(cost, budget, count):
    """As many calls fit as are done within the budget, and no more than the largest batch."""
    estimate = Estimate()
    estimate.seconds = cost
    assert estimate.fit(budget) == count


def test_it_shows_its_seconds():
    """An estimate's repr tells the seconds."""
    estimate = Estimate()
    assert repr(estimate) == "<Estimate None>"
    estimate.seconds = 0.5
    assert repr(estimate) == "<Estimate 0.5>"


durations = st.floats(0, 1e6)


@settings(max_examples=50)
@given(st.lists(st.tuples(durations, st.integers(1, 5000)), min_size=1, max_size=20))
def test_the_estimate_lies_within_what_was_measured(measurements):
    """The estimate is never below the fastest measurement nor above the slowest."""
    estimate = Estimate()
    low, high = inf, 0.0
    for mean, count in measurements:
        estimate.observe(mean * count, count)
        low, high = min(low, mean), max(high, mean)
        assert low <= estimate.seconds * (1 + 1e-9)
        assert estimate.seconds <= (high + OVERHEAD) * (1 + 1e-9)
        assert 0 <= estimate.fit(QUANTUM) <= LARGEST_BATCH
