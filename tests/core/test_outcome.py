import contextlib
import gc
import pickle
import weakref
from dataclasses import FrozenInstanceError, asdict

import pytest

from aiopool._core.outcome import Outcome, PoolStatistics, WorkerStatistics


class FalsyError(Exception):
    """An exception that is false, which some take for none."""

    def __bool__(self):
        return False


def failed(error):
    return Outcome(7, "item", error=error, attempts=3)


# --- an outcome -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [42, None, 0, ValueError("returned, not raised")])
def test_unwrap_gives_the_value(value):
    """The outcome of a call that returned is ok and unwraps to what it returned."""
    outcome = Outcome(0, "item", value)
    assert outcome.ok
    assert outcome.unwrap() is value


@pytest.mark.parametrize("kind", [ValueError, FalsyError, KeyboardInterrupt, ExceptionGroup])
def test_unwrap_raises_the_very_error(kind):
    """The outcome of a call that failed is not ok and raises the same exception each time."""
    error = kind("several", [ValueError()]) if kind is ExceptionGroup else kind("x")
    outcome = failed(error)
    assert not outcome.ok
    for _ in range(2):
        with pytest.raises(kind) as caught:
            outcome.unwrap()
        assert caught.value is error


def raise_and_handle(outcomes):
    """Leave nothing in this frame, which the traceback keeps, that leads to the error."""
    with contextlib.suppress(FalsyError):
        outcomes.pop().unwrap()


def test_unwrap_leaves_no_cycle():
    """An error that was raised by unwrap and handled is freed as soon as it is dropped."""
    gc.disable()
    try:
        error = FalsyError()
        raise_and_handle([failed(error)])
        assert error.__traceback__ is not None
        gone = weakref.ref(error)
        del error
        assert gone() is None
    finally:
        gc.enable()


def test_an_outcome_is_frozen():
    """An outcome cannot be changed."""
    with pytest.raises(FrozenInstanceError):
        Outcome(0, 1).value = 2


def test_an_outcome_is_compared_by_identity():
    """Outcomes of values that neither compare nor hash can be put in a set."""
    first, second = Outcome(0, 1, []), Outcome(0, 1, [])
    assert len({first, second, first}) == 2


def test_an_outcome_can_be_stored():
    """An outcome survives pickling, its error with it."""
    outcome = pickle.loads(pickle.dumps(failed(ValueError("x"))))
    assert (outcome.index, outcome.item, outcome.attempts) == (7, "item", 3)
    assert repr(outcome.error) == "ValueError('x')"


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Outcome(7, "in", 42, ran_for=0.01234), "<Outcome 7 ok: 42, attempts=1, ran 0.0123 s>"),
        (
            failed(ValueError("x")),
            "<Outcome 7 failed: ValueError('x'), attempts=3, ran 0 s>",
        ),
        (failed(FalsyError()), "<Outcome 7 failed: FalsyError(), attempts=3, ran 0 s>"),
    ],
)
def test_the_repr_tells_how_it_ended(outcome, shown):
    """The repr of an outcome says which call it was, how it ended, and what it took."""
    assert repr(outcome) == shown


@pytest.mark.parametrize("value", ["x" * 10_000, list(range(10_000)), [[[[[[[["deep"] * 99]]]]]]]])
def test_the_repr_is_short(value):
    """The repr of an outcome stays short however large the value is."""
    assert len(repr(Outcome(0, 1, value))) < 120
    assert len(repr(failed(ValueError(value)))) < 120


def test_the_repr_survives_a_value_that_has_none():
    """A value whose repr raises does not break the repr of its outcome."""

    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert "Broken instance" in repr(Outcome(0, 1, Broken()))


# --- statistics -----------------------------------------------------------------------------


def test_statistics_are_a_frozen_snapshot():
    """Statistics cannot be changed, compare by what they say, and turn into plain data."""
    worker = WorkerStatistics(pid=4, state="busy", task="crunch", age=1.5)
    pool = PoolStatistics({0: 3, -10: 1}, 2, 10, 1, 0, 4, 1, (worker,))
    assert pool == PoolStatistics(
        queued={-10: 1, 0: 3},
        running=2,
        done=10,
        failed=1,
        cancelled=0,
        retried=4,
        crashed=1,
        workers=(WorkerStatistics(4, "busy", "crunch", 1.5),),
    )
    assert asdict(pool)["workers"] == ({"pid": 4, "state": "busy", "task": "crunch", "age": 1.5},)
    for statistics, name in ((pool, "running"), (worker, "state")):
        with pytest.raises(FrozenInstanceError):
            setattr(statistics, name, None)
