import asyncio
import math
import re
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import get_type_hints
from unittest import mock

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopool._core import options as module
from aiopool._core.options import (
    Priority,
    Settings,
    TaskOptions,
    check_count,
    check_priority,
    check_seconds,
    resolve,
)
from aiopool._core.retry import Retry

ROOT = Path(__file__).parents[2]
NAMES = [name for name in Settings.__dataclass_fields__ if name != "quota"]  # that is a view's
DEFAULTS = Settings(
    Priority.LOW, Retry(2), 1.0, 2.0, asyncio.Semaphore(1), 3, "task", "thread", "tenant"
)


class Four:
    """Stands for an int the way numpy's do."""

    def __index__(self):
        return 4


@asynccontextmanager
async def context():
    yield


# --- the form -------------------------------------------------------------------------------


def test_there_is_one_set_of_options():
    """TaskOptions, Settings and the checks name the same options in the same order."""
    assert list(get_type_hints(TaskOptions)) == NAMES == list(module._CHECKS)


def test_lower_priorities_run_first():
    """The named priorities are ints in the order in which they run."""
    assert sorted([*Priority, -1]) == [-20, -10, -1, 0, 10, 19]
    assert [p.name for p in sorted(Priority)] == ["URGENT", "HIGH", "NORMAL", "LOW", "IDLE"]


def test_settings_are_normal_and_unbounded_by_default():
    """Without options a call has normal priority, one attempt and no bound."""
    assert Settings() == Settings(0, None, None, None, None, None, None, None)


def test_importing_the_options_is_cheap():
    """The options load neither asyncio nor tenacity nor the heavy half of concurrent.futures."""
    heavy = "{'asyncio', 'tenacity', 'concurrent.futures.process', 'multiprocessing'}"
    code = f"import sys, aiopool._core.options; print({heavy} & set(sys.modules) or 'none')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "none"


# --- resolving ------------------------------------------------------------------------------


def test_no_options_cost_nothing():
    """Without options the defaults themselves come back."""
    assert resolve({}, DEFAULTS) is DEFAULTS


@pytest.mark.parametrize("name", NAMES)
def test_an_option_changes_itself_only(name):
    """One option given replaces that default and leaves the others."""
    given_value = {"priority": -7, "limiter": asyncio.Semaphore(2), "name": "x", "on": "loop"}
    value = given_value.get(name, Retry(7) if name == "retry" else 7)
    settings = resolve({name: value}, DEFAULTS)
    assert getattr(settings, name) == value
    assert [n for n in NAMES if getattr(settings, n) != getattr(DEFAULTS, n)] == [name]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "priority"])
def test_none_takes_back_the_default(name):
    """None given for an option takes back what the pool says for it."""
    assert getattr(resolve({name: None}, DEFAULTS), name) is None


@pytest.mark.parametrize(
    ("name", "value", "resolved"),
    [
        ("priority", Priority.URGENT, -20),
        ("priority", 10_000, 10_000),
        ("priority", -sys.maxsize - 1, -(2**63)),
        ("priority", Four(), 4),
        ("retry", 1, Retry(1)),
        ("retry", Four(), Retry(4)),
        ("retry", Retry(None, on=OSError), Retry(None, on=OSError)),
        ("timeout", 5, 5.0),
        ("timeout", 1e-9, 1e-9),
        ("deadline", 86_400, 86_400.0),
        ("limit", 1, 1),
        ("limit", Four(), 4),
        ("name", "", ""),
        ("on", "process", "process"),
        ("on", "thread", "thread"),
        ("on", "loop", "loop"),
        ("fairness_key", ("tenant", 7), ("tenant", 7)),
    ],
)
def test_what_is_right_is_resolved(name, value, resolved):
    """An option in range is resolved to its one form."""
    found = getattr(resolve({name: value}, Settings()), name)
    assert found == resolved
    assert isinstance(found, type(resolved))


@pytest.mark.parametrize(
    "limiter",
    [
        pytest.param(asyncio.Semaphore(2), id="asyncio"),
        pytest.param(asyncio.Lock(), id="lock"),
        pytest.param(anyio.CapacityLimiter(2), id="anyio"),
        pytest.param(mock.MagicMock(), id="mock"),
    ],
)
def test_any_async_context_manager_limits(limiter):
    """A limiter is whatever `async with` takes, and it is kept as it is."""
    assert resolve({"limiter": limiter}, Settings()).limiter is limiter


# --- refusing -------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf
SECONDS = "must be a finite number of seconds above 0; use None for no bound"
COUNT = "must be an int of at least 1"
ATTEMPTS = f"{COUNT}, a Retry or None; attempts counts the first try"


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("priority", True, TypeError, "priority=True: must be an int, such as Priority.HIGH"),
        ("priority", None, TypeError, "priority=None: must be an int, such as Priority.HIGH"),
        ("priority", "high", TypeError, "priority='high': must be an int, such as"),
        ("priority", 1.5, TypeError, "priority=1.5: must be an int, such as Priority.HIGH; order"),
        ("priority", NAN, TypeError, "NaN has no order"),
        ("priority", 2**63 + 1, ValueError, "must lie between -2**63 and 2**63"),
        pytest.param(
            *("priority", -(10**5000), ValueError, "priority=<int>: must lie between"), id="huge"
        ),
        ("retry", 0, ValueError, f"retry=0: {ATTEMPTS}"),
        ("retry", -1, ValueError, f"retry=-1: {ATTEMPTS}"),
        ("retry", True, TypeError, f"retry=True: {ATTEMPTS}"),
        ("retry", 3.0, TypeError, f"retry=3.0: {ATTEMPTS}"),
        ("retry", Retry, TypeError, "retry=<class 'aiopool._core.retry.Retry'>: must be"),
        ("timeout", 0, ValueError, f"timeout=0: {SECONDS}"),
        ("timeout", -0.5, ValueError, f"timeout=-0.5: {SECONDS}"),
        ("timeout", NAN, ValueError, f"timeout=nan: {SECONDS}"),
        ("timeout", INF, ValueError, f"timeout=inf: {SECONDS}"),
        ("timeout", 10**400, ValueError, "…: must be a finite number of seconds"),
        ("timeout", True, TypeError, f"timeout=True: {SECONDS}"),
        ("timeout", "5", TypeError, f"timeout='5': {SECONDS}"),
        ("timeout", timedelta(0, 5), TypeError, f"{SECONDS}; use its total_seconds()"),
        ("deadline", 0.0, ValueError, f"deadline=0.0: {SECONDS}"),
        ("deadline", INF, ValueError, f"deadline=inf: {SECONDS}"),
        ("limit", 0, ValueError, f"limit=0: {COUNT}, or None"),
        ("limit", 2.0, TypeError, f"limit=2.0: {COUNT}, or None"),
        ("limit", False, TypeError, f"limit=False: {COUNT}, or None"),
        ("name", 7, TypeError, "name=7: must be a str or None, not int"),
        ("on", "threads", ValueError, "on='threads': must be 'process', 'thread' or 'loop'"),
        ("on", ["loop"], TypeError, "on=['loop']: must be 'process', 'thread' or 'loop'"),
        ("limiter", 10, TypeError, "limiter=10: must be an async context manager, such as"),
        ("limiter", asyncio.Semaphore, TypeError, "is a class; pass an instance, such as Semaphor"),
        ("limiter", threading.Lock(), TypeError, "is a context manager for threads; an async"),
        ("limiter", context, TypeError, "must be an async context manager, such as"),
    ],
)
def test_what_is_wrong_is_refused(name, value, error, message):
    """A wrong option is refused by an error with its name, its value and the fix."""
    with pytest.raises(error, match=re.escape(message)) as caught:
        resolve({name: value}, Settings())
    assert str(caught.value).startswith(f"{name}=")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prio", "unknown option 'prio': did you mean 'priority'?"),
        ("retries", "unknown option 'retries': did you mean 'retry'?"),
        ("time_out", "unknown option 'time_out': did you mean 'timeout'?"),
        ("url", "unknown option 'url': the options are priority, retry, timeout, deadline,"),
    ],
)
def test_an_unknown_option_is_refused(name, message):
    """An unknown option is refused by name, with the nearest one and the way for arguments."""
    with pytest.raises(TypeError, match=re.escape(message)) as caught:
        resolve({"timeout": 1, name: 3}, Settings())
    assert "go through functools.partial" in str(caught.value)


def test_a_broken_repr_does_not_hide_the_mistake():
    """A value whose repr raises is refused like any other."""

    class Broken:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(TypeError, match=r"limit=<Broken>: must be"):
        resolve({"limit": Broken()}, Settings())


def test_a_long_repr_is_cut():
    """A message stays short however long the value's repr is."""
    with pytest.raises(TypeError) as caught:
        resolve({"limit": list(range(10_000))}, Settings())
    assert len(str(caught.value)) < 200


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 2),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["process", "thread", "loop", 10**400, Retry(4), Retry, Four(), object()]),
    st.sampled_from([asyncio.Semaphore(1), asyncio.Semaphore]),
)


def is_in_range(settings):
    """Say whether every field is what the rest of the package may rely on."""
    bounds = [settings.timeout, settings.deadline]
    return (
        isinstance(settings.priority, int)
        and math.isfinite(settings.priority * 1.0)
        and (settings.retry is None or isinstance(settings.retry, Retry))
        and all(b is None or (type(b) is float and 0 < b < INF) for b in bounds)
        and (settings.limiter is None or isinstance(settings.limiter, asyncio.Semaphore))
        and (settings.limit is None or (type(settings.limit) is int and settings.limit >= 1))
        and (settings.name is None or isinstance(settings.name, str))
        and settings.on in {None, "process", "thread", "loop"}
    )


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, junk)))
def test_settings_are_always_in_range(options):
    """Whatever is given, it is refused by name or resolved to settings in range."""
    settings = refused = None
    try:
        settings = resolve(options, Settings())
    except (TypeError, ValueError) as error:
        refused = str(error).partition("=")[0]
    if refused is not None:
        assert refused in options
    else:
        assert is_in_range(settings)
        assert all(getattr(settings, name) is None for name in NAMES[1:] if name not in options)


# --- the pool's own parameters --------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "resolved"),
    [
        (lambda: check_count("max_pending", None), None),
        (lambda: check_count("max_workers", 4), 4),
        (lambda: check_count("limit", 100, optional=False), 100),
        (lambda: check_seconds("timeout", None), None),
        (lambda: check_seconds("grace_period", 0, zero=True, optional=False), 0.0),
        (lambda: check_seconds("aging", INF, zero=True, infinite=True, optional=False), INF),
        (lambda: check_priority(3), 3),
    ],
)
def test_checks_give_back_what_is_right(check, resolved):
    """The pool's checks return a parameter that is in range."""
    assert check() == resolved


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_count("limit", 0, optional=False), f"limit=0: {COUNT}"),
        (lambda: check_count("limit", None, optional=False), f"limit=None: {COUNT}"),
        (lambda: check_count("max_workers", -1), f"max_workers=-1: {COUNT}, or None"),
        (
            lambda: check_count("max_pending", 0, hint="; leave it out"),
            f"max_pending=0: {COUNT}, or None; leave it out",
        ),
        (
            lambda: check_seconds("grace_period", -1, zero=True, optional=False),
            "grace_period=-1: must be a finite number of seconds of at least 0",
        ),
        (
            lambda: check_seconds("grace_period", None, zero=True, optional=False),
            "grace_period=None: must be a finite number of seconds of at least 0",
        ),
        (
            lambda: check_seconds("grace_period", INF, zero=True, optional=False),
            "grace_period=inf: must be a finite number of seconds of at least 0",
        ),
        (
            lambda: check_seconds("aging", NAN, zero=True, infinite=True, optional=False),
            "aging=nan: must be a number of seconds of at least 0",
        ),
        (
            lambda: check_seconds("aging", 10**400, infinite=True, optional=False),
            f"aging={str(10**400)[:79]}…: must be a number of seconds above 0",
        ),
    ],
)
def test_checks_say_what_is_wrong(check, message):
    """The pool's checks name the parameter, its value and the rule, and nothing else."""
    with pytest.raises((TypeError, ValueError)) as caught:
        check()
    assert str(caught.value) == message
