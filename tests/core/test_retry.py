import asyncio
import gc
import math
import pickle
import re
import subprocess
import sys
import weakref
from dataclasses import FrozenInstanceError, dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from aiopool._core import backoff
from aiopool._core.retry import Retry, verdict

ROOT = Path(__file__).parents[2]
START = 1_000_000.0  # far from any real clock: time here is what the tests say it is


def ask(retry, error=None, *, attempts=1, elapsed=0.0):
    """The verdict on a failure `elapsed` seconds after the first attempt started."""
    error = OSError("down") if error is None else error
    return verdict(retry, error, attempts=attempts, started=START, now=START + elapsed)


def steady(**changes):
    """A policy whose delays are exact: no jitter."""
    return Retry(**({"attempts": None, "wait_jitter": 0} | changes))


def delays(retry, *, run=0.0, stop_at=50):
    """The delays granted to a call that always fails, `run` seconds into each attempt."""
    granted, elapsed = [], 0.0
    for attempts in range(1, stop_at + 1):
        elapsed += run
        delay = ask(retry, attempts=attempts, elapsed=elapsed)
        if delay is None:
            break
        granted.append(delay)
        elapsed += delay
    return granted


# --- the policy -----------------------------------------------------------------------------


def test_a_policy_is_frozen():
    """A policy cannot be changed, so one may be shared by any number of calls."""
    with pytest.raises(FrozenInstanceError):
        Retry().attempts = 5


def test_attempts_alone_are_positional():
    """Only the number of attempts may be given by position."""
    assert Retry(5).attempts == 5
    with pytest.raises(TypeError):
        Retry(5, OSError)


def test_equal_policies_are_one():
    """Policies compare, hash, copy and pickle by what they say."""
    retry = Retry(5, on=(OSError, EOFError), timeout=9)
    assert retry == replace(Retry(5, on=(OSError, EOFError)), timeout=9)
    assert {retry, pickle.loads(pickle.dumps(retry))} == {retry}


@pytest.mark.parametrize("value", [None, Retry(2)])
def test_none_and_a_policy_are_themselves(value):
    """Coercion leaves None and a policy as they are."""
    assert Retry.of(value) is value


def test_an_int_is_short_for_a_policy():
    """Coercion makes an int that many attempts, always by the same policy object."""
    assert Retry.of(3) == Retry(attempts=3)
    assert Retry.of(3) is Retry.of(3)


CLASS = "is a class; pass an instance, such as tenacity"


async def coroutine_predicate(error):
    return True


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"attempts": 0}, ValueError, "attempts=0: must be an int of at least 1, or None for no b"),
        ({"attempts": -3}, ValueError, "attempts=-3: must be an int of at least 1, or None"),
        ({"attempts": True}, TypeError, "attempts=True: must be an int of at least 1, or None"),
        ({"attempts": 2.5}, TypeError, "attempts=2.5: must be an int of at least 1, or None"),
        ({"timeout": 0}, ValueError, "timeout=0: must be a finite number of seconds above 0; use"),
        ({"timeout": math.inf}, ValueError, "timeout=inf: must be a finite number"),
        ({"wait_initial": -1}, ValueError, "wait_initial=-1: must be a finite number of seconds"),
        ({"wait_initial": math.nan}, ValueError, "wait_initial=nan: must be a finite number"),
        ({"wait_initial": 6}, ValueError, "wait_initial=6: is above wait_max=5.0, which caps it"),
        ({"wait_max": math.inf}, ValueError, "wait_max=inf: must be a finite number of seconds"),
        ({"wait_jitter": "1"}, TypeError, "wait_jitter='1': must be a finite number of seconds"),
        ({"wait_exp_base": 0.5}, ValueError, "wait_exp_base=0.5: must be at least 1, or the del"),
        ({"wait_exp_base": None}, TypeError, "wait_exp_base=None: must be a finite number"),
        ({"on": ()}, ValueError, "on=(): matches nothing; name the exceptions to retry"),
        ({"on": [OSError]}, TypeError, "must be an exception type, a tuple of them, or a predic"),
        ({"on": OSError("x")}, TypeError, "on=OSError('x'): must be an exception type, a tuple"),
        ({"on": dict}, TypeError, "on=<class 'dict'>: must be an exception type, a tuple of them"),
        ({"on": (OSError, 1)}, TypeError, "on=(<class 'OSError'>, 1): must be an exception type"),
        ({"on": BaseException}, TypeError, "BaseException is never retried; name subclasses of"),
        ({"on": asyncio.CancelledError}, TypeError, "CancelledError is never retried; name subcl"),
        ({"on": coroutine_predicate}, TypeError, "must be a plain function, not a coroutine func"),
        ({"wait": 2}, TypeError, "wait=2: is no strategy, such as tenacity.wait_fixed(1.5)"),
        ({"wait": tenacity.wait_fixed}, TypeError, f"{CLASS}.wait_fixed(1.5)"),
        ({"stop": 30}, TypeError, "stop=30: is no strategy, such as tenacity.stop_after_delay(30)"),
        ({"stop": tenacity.stop_after_delay}, TypeError, f"{CLASS}.stop_after_delay(30)"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(parameters, error, message):
    """A mistake in a policy is raised where it is written, with the parameter and the fix."""
    with pytest.raises(error, match=re.escape(message)) as caught:
        Retry(**parameters)
    assert str(caught.value).startswith(f"{next(iter(parameters))}=")


# --- which errors ---------------------------------------------------------------------------


def has_errno(number, error):
    return error.errno == number


def test_without_a_policy_every_error_is_final():
    """Without a policy there is one attempt."""
    assert ask(None) is None


@pytest.mark.parametrize(
    ("on", "error", "retried"),
    [
        (Exception, OSError(), True),
        (OSError, ConnectionError(), True),
        (ConnectionError, OSError(), False),
        ((KeyError, OSError), ConnectionError(), True),
        ((KeyError, ValueError), OSError(), False),
        (lambda error: error.errno == 5, OSError(5, "io"), True),
        (lambda error: error.errno == 5, OSError(6, "io"), False),
        (OSError, ExceptionGroup("several", [OSError()]), False),
        (partial(has_errno, 5), OSError(5, "io"), True),
    ],
)
def test_the_policy_says_which_errors_are_retried(on, error, retried):
    """An error is retried if it matches the type, one of the tuple, or the predicate."""
    assert (
        (ask(Retry(on=on), error) is not None) is retried if isinstance(error, Exception) else True
    )


@pytest.mark.parametrize("on", [Exception, lambda _: True])
@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, SystemExit])
def test_cancellation_is_never_retried(on, kind):
    """What is not an Exception is final whatever the policy says."""
    assert ask(Retry(on=on), kind()) is None


# --- how often ------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 7])
def test_attempts_count_the_first_try(attempts):
    """So many attempts are one fewer retries."""
    assert len(delays(Retry(attempts))) == attempts - 1


def test_attempts_may_be_unbounded():
    """With attempts=None the count never makes an error final."""
    assert ask(Retry(None), attempts=10**9) is not None


@pytest.mark.parametrize(("elapsed", "delay"), [(0, 2.0), (8.0, 2.0), (8.001, None), (50, None)])
def test_no_attempt_starts_after_the_timeout(elapsed, delay):
    """An error is final if its retry would start more than `timeout` after the first attempt."""
    assert ask(steady(wait_initial=2, timeout=10), elapsed=elapsed) == delay


def test_the_timeout_bounds_a_delay_the_predicate_asks_for():
    """A Retry-After beyond the timeout makes the error final."""
    retry = Retry(on=lambda _: 30.0, timeout=40)
    assert ask(retry, elapsed=10) == 30.0
    assert ask(retry, elapsed=11) is None


# --- how long -------------------------------------------------------------------------------


def test_delays_grow_to_their_maximum():
    """Delays double from wait_initial and stay at wait_max."""
    assert delays(steady(), stop_at=8) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5])


def test_delays_grow_by_the_base():
    """Delays grow by wait_exp_base, and not at all if that is 1."""
    assert delays(steady(wait_exp_base=3), stop_at=4) == pytest.approx([0.1, 0.3, 0.9, 2.7])
    assert delays(steady(wait_exp_base=1), stop_at=3) == pytest.approx([0.1, 0.1, 0.1])


def test_jitter_spreads_the_delays():
    """Jitter adds a random part of itself to each delay."""
    found = [ask(Retry(wait_initial=1, wait_jitter=0.5)) for _ in range(50)]
    assert all(1 <= delay <= 1.5 for delay in found)
    assert len(set(found)) > 1


@pytest.mark.parametrize("attempts", [1, 1025, 10**7])
def test_a_policy_may_retry_at_once_for_ever(attempts):
    """With wait_max=0, or nothing that grows, no retry ever waits."""
    assert ask(steady(wait_max=0), attempts=attempts) == 0
    assert ask(steady(wait_initial=0), attempts=attempts) == 0


def test_many_attempts_do_not_overflow():
    """The delay stays at wait_max however often the call was tried."""
    assert ask(steady(wait_exp_base=2), attempts=10**7) == 5


@pytest.mark.parametrize("delay", [0, 0.0, 2.5, 3, 3600.0])
def test_a_predicate_may_give_the_delay(delay):
    """A number from the predicate is the delay, 0.0 and more than wait_max included."""
    assert ask(Retry(on=lambda _: delay)) == delay


def test_a_predicate_that_says_true_means_the_usual_delay():
    """True from the predicate is not the number 1."""
    assert ask(steady(wait_initial=0.25, on=lambda _: True)) == 0.25


# --- tenacity's strategies ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (tenacity.wait_fixed(1.5), [1.5] * 4),
        (tenacity.wait_none(), [0, 0, 0, 0]),
        (tenacity.wait_incrementing(1, 2), [1, 3, 5, 7]),
        (tenacity.wait_exponential(multiplier=1, max=6), [1, 2, 4, 6]),
        (tenacity.wait_chain(*map(tenacity.wait_fixed, (3, 1, 2))), [3, 1, 2, 2]),
        (tenacity.wait_fixed(1) + tenacity.wait_incrementing(0, 1), [1, 2, 3, 4]),
        (lambda state: state.attempt_number / 2, [0.5, 1, 1.5, 2]),
        (lambda state: state.outcome.exception().errno, [5, 5, 5, 5]),
        (lambda state: state.seconds_since_start, [1, 3, 7, 15]),
    ],
)
def test_any_wait_strategy_gives_the_delays(wait, expected):
    """A tenacity wait strategy replaces the backoff, and reads attempts, error and time."""
    retry, found, elapsed = Retry(None, wait=wait), [], 0.0
    for attempts in range(1, 5):
        elapsed += 1
        found.append(ask(retry, OSError(5, "io"), attempts=attempts, elapsed=elapsed))
        elapsed += found[-1]
    assert found == expected


def test_random_waits_stay_in_their_range():
    """tenacity's random strategies work, alone and added."""
    wait = tenacity.wait_random(1, 2) + tenacity.wait_fixed(10)
    assert all(11 <= delay <= 12 for delay in delays(Retry(20, wait=wait)))


AFTER_3, AFTER_10_S = tenacity.stop_after_attempt(3), tenacity.stop_after_delay(10)


@pytest.mark.parametrize(
    ("stop", "attempts", "elapsed", "final"),
    [
        (AFTER_3, 2, 99, False),
        (AFTER_3, 3, 0, True),
        (AFTER_10_S, 99, 9.9, False),
        (AFTER_10_S, 1, 10, True),
        (AFTER_3 | AFTER_10_S, 2, 9.9, False),
        (AFTER_3 | AFTER_10_S, 3, 0, True),
        (AFTER_3 | AFTER_10_S, 1, 10, True),
        (AFTER_3 & AFTER_10_S, 3, 9.9, False),
        (AFTER_3 & AFTER_10_S, 2, 10, False),
        (AFTER_3 & AFTER_10_S, 3, 10, True),
        (tenacity.stop_before_delay(10), 1, 7.9, False),
        (tenacity.stop_before_delay(10), 1, 8, True),
        (tenacity.stop_never, 99, 99, False),
        (lambda state: state.outcome.failed, 1, 0, True),
    ],
)
@pytest.mark.parametrize(
    "policy",
    [
        {"wait": tenacity.wait_fixed(2)},
        {"on": lambda _: 2.0},
        {"wait_initial": 2, "wait_exp_base": 1},
    ],
    ids=["strategy", "predicate", "backoff"],
)
def test_any_stop_strategy_bounds_the_attempts(policy, stop, attempts, elapsed, final):
    """A tenacity stop strategy counts attempts and virtual time, wherever delays come from."""
    delay = ask(steady(stop=stop, **policy), attempts=attempts, elapsed=elapsed)
    assert delay == (None if final else 2)


def test_every_bound_holds():
    """A stop strategy neither lifts the bounds beside it nor spares a retry at once."""
    assert ask(Retry(on=lambda _: 0.0, stop=tenacity.stop_after_attempt(1))) is None
    retry = Retry(2, stop=tenacity.stop_after_attempt(9))
    assert len(delays(retry)) == 1
    assert ask(replace(retry, attempts=None, timeout=5), elapsed=6) is None


def test_the_state_is_one_of_a_failed_call():
    """What a strategy is given is a RetryCallState that can be read and shown."""
    error = OSError("down")
    state = backoff.call_state(error, attempts=4, started=START, now=START + 3)
    assert (state.attempt_number, state.start_time, state.outcome_timestamp) == (
        4,
        START,
        START + 3,
    )
    assert state.outcome.exception() is error
    assert state.outcome.attempt_number == 4
    assert "attempt #4" in repr(state)


# --- a policy that fails itself -------------------------------------------------------------


def broken(error):
    raise KeyError("status")


@pytest.mark.parametrize(
    ("policy", "note"),
    [
        ({"on": broken}, "KeyError('status')"),
        ({"on": lambda _: -1.0}, "on(error)=-1.0: must be a finite number of seconds"),
        ({"on": lambda _: math.nan}, "on(error)=nan: must be a finite number of seconds"),
        ({"on": lambda _: math.inf}, "on(error)=inf: must be a finite number of seconds"),
        ({"on": lambda _: None}, "on(error)=None: must be a bool, or a delay in seconds"),
        ({"on": lambda _: "5"}, "on(error)='5': must be a bool, or a delay in seconds"),
        ({"wait": broken}, "KeyError('status')"),
        ({"wait": lambda _: -1}, "wait(state)=-1: must be a finite number of seconds"),
        ({"stop": broken}, "KeyError('status')"),
    ],
)
def test_a_failing_policy_is_noted_on_the_error(policy, note):
    """When the policy itself fails the error is final and says so in a note."""
    error = OSError("down")
    assert ask(Retry(**policy), error) is None
    assert len(error.__notes__) == 1
    assert error.__notes__[0].startswith("not retried, because its Retry failed: ")
    assert note in error.__notes__[0]


def test_the_note_says_where_the_policy_failed():
    """The note names the file, line and function that raised."""
    error = OSError("down")
    ask(Retry(on=broken), error)
    line = broken.__code__.co_firstlineno + 1
    assert error.__notes__[0].endswith(f"({__file__}:{line}, in broken)")


def test_a_check_of_ours_is_not_where_the_policy_failed():
    """The note on a wrong answer of the predicate does not point into this package."""
    error = OSError("down")
    ask(Retry(on=lambda _: None), error)
    assert "retry.py" not in error.__notes__[0]


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, BaseException])
def test_a_policy_cannot_cancel(kind):
    """A predicate that raises a cancellation ends its call and disturbs nothing else."""

    def cancel(error):
        raise kind

    assert ask(Retry(on=cancel)) is None


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_passes_through_a_policy(kind):
    """What is meant for the program is not taken for a fault of the policy."""

    def leave(error):
        raise kind

    with pytest.raises(kind):
        ask(Retry(on=leave))


@dataclass(frozen=True)
class FrozenError(Exception):
    """Cannot be given an attribute, so neither a note by way of add_note."""

    code: int


def test_a_frozen_error_is_noted_too():
    """The note arrives on an exception that refuses attributes."""
    error = FrozenError(4)
    assert ask(Retry(on=broken), error) is None
    assert "KeyError" in error.__notes__[0]


def test_notes_that_are_no_list_are_left_alone():
    """An exception with odd notes keeps them, and nothing is raised."""
    error = OSError("down")
    error.__notes__ = "mine"
    assert ask(Retry(on=broken), error) is None
    assert error.__notes__ == "mine"


class LyingError(Exception):
    """Cannot be shown."""

    def __repr__(self):
        raise RuntimeError


def test_a_fault_that_cannot_be_shown_is_named():
    """A predicate's exception whose repr raises is noted by its type."""

    def lie(error):
        raise LyingError

    error = OSError("down")
    assert ask(Retry(on=lie), error) is None
    assert "its Retry failed: <LyingError> (" in error.__notes__[0]


class WatchedError(Exception):
    """Can be weakly referenced."""


@pytest.mark.parametrize("policy", [{}, {"on": broken}, {"stop": broken}])
def test_a_verdict_keeps_nothing(policy):
    """Neither the error nor what the policy raised is kept alive by a verdict."""
    retry = Retry(**policy)
    gc.disable()
    try:
        error = WatchedError()
        try:
            raise error
        except WatchedError:
            ask(retry, error)
        gone = weakref.ref(error)
        del error
        assert gone() is None
    finally:
        gc.enable()


# --- whatever the policy --------------------------------------------------------------------

seconds = st.floats(0, 1e6)


@st.composite
def policies(draw):
    """Policies of every kind but strategies."""
    first, most = sorted([draw(seconds), draw(seconds)])
    return Retry(
        draw(st.none() | st.integers(1, 20)),
        on=draw(st.sampled_from([Exception, OSError, (OSError,), lambda _: True])),
        wait_initial=first,
        wait_max=most,
        wait_jitter=draw(seconds),
        wait_exp_base=draw(st.floats(1, 1e6) | st.integers(1, 10)),
        timeout=draw(st.none() | st.floats(1e-3, 1e7)),
    )


@given(retry=policies(), run=st.floats(0, 1e3))
def test_a_call_stays_within_its_policy(retry, run):
    """Attempts, each delay and the start of each attempt stay within what the policy allows."""
    granted = delays(retry, run=run)
    assert len(granted) < (retry.attempts or 51)
    assert all(0 <= delay <= retry.wait_max for delay in granted)
    starts = sum(granted) + run * len(granted)
    assert retry.timeout is None or starts <= retry.timeout * (1 + 1e-9) + 1e-6


@given(retry=policies())
def test_only_a_bound_makes_a_retried_error_final(retry):
    """A call whose error matches is tried again until a bound is reached."""
    granted = delays(replace(retry, timeout=None))
    assert len(granted) == (retry.attempts or 51) - 1


# --- what it costs --------------------------------------------------------------------------


def test_tenacity_waits_for_the_first_backoff():
    """tenacity is loaded when a delay is first computed, and not for what needs none."""
    code = """
import sys
from aiopool._core.retry import Retry, verdict
def loaded(retry, attempts):
    verdict(retry, OSError(), attempts=attempts, started=0.0, now=1.0)
    return "tenacity" in sys.modules
print(loaded(Retry(2), 2), loaded(Retry(on=KeyError), 1), loaded(Retry(on=lambda e: 1.0), 1))
print(loaded(Retry(2), 1))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "False", "False", "True"]
