"""Whether a failed call is tried again, and when: a policy, and the verdict on one failure.

``Retry`` is the policy, checked when it is made, so a mistake in it shows where it was written
and not at the first failure. ``verdict`` applies it and answers with the delay in seconds, or
None when the error is final. It is asked once for each failed attempt.

Rules: only an ``Exception`` is ever retried, so cancellation, SystemExit and KeyboardInterrupt
are final whatever the policy. ``attempts`` counts the first try. ``now`` and ``started`` are
seconds on one monotonic clock. A policy that fails itself makes the error final and leaves a
note on it; nothing else is disturbed.

The parameters are named as in stamina, https://stamina.hynek.me, and the strategies are
tenacity's, https://tenacity.readthedocs.io; ``backoff.py`` is the door to them.
The checks of numbers a user gives are at the top, the lowest place in this room that needs them.

Not here: waiting. The call leaves its worker, slot and limiter for the delay, and the shell
brings it back. Nor are cancellation, closing and ``deadline`` looked at, which the shell knows.
"""

from __future__ import annotations

import sys
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from inspect import iscoroutinefunction
from math import inf
from operator import index
from typing import (
    TYPE_CHECKING,
    Final,
    Literal,
    SupportsIndex,
    TypeAlias,
    TypeGuard,
    final,
    overload,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiopool._core.backoff import Stop, Wait

    On: TypeAlias = (
        type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool | float]
    )

__all__ = ["Retry", "check_count", "check_int", "check_seconds", "shown", "verdict"]

_LARGEST: Final = sys.float_info.max
_OR_NONE: Final = " for no bound; attempts counts the first try"
_OR_RETRY: Final = ", a Retry or None; attempts counts the first try"


# --- what a user gave -----------------------------------------------------------------------


def shown(value: object, width: int = 80) -> str:
    """``repr(value)`` for a message: at most ``width`` characters, and it never raises."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken repr must not hide the message it is for
        text = f"<{type(value).__name__}>"
    return text if len(text) <= width else f"{text[: width - 1]}…"


@overload
def check_count(name: str, value: object, *, optional: Literal[False], hint: str = ...) -> int: ...
@overload
def check_count(
    name: str, value: object, *, optional: bool = ..., hint: str = ...
) -> int | None: ...
def check_count(name: str, value: object, *, optional: bool = True, hint: str = "") -> int | None:
    """An int of at least 1, or None if that is ``optional``; ``hint`` ends the message."""
    if type(value) is int and value >= 1:  # the usual case, at every submit
        return value
    if value is None and optional:
        return None
    rule = f"must be an int of at least 1{', or None' if optional else ''}{hint}"
    count = check_int(name, value, rule)
    if count < 1:
        raise ValueError(f"{name}={shown(value)}: {rule}")
    return count


def check_int(name: str, value: object, rule: str) -> int:
    """An int, or what stands for one, as numpy's do; a bool does not, whatever Python says.

    The message is ``rule``.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return index(value)
    raise TypeError(f"{name}={shown(value)}: {rule}")


@overload
def check_seconds(
    name: str,
    value: object,
    *,
    zero: bool = ...,
    infinite: bool = ...,
    optional: Literal[False],
) -> float: ...
@overload
def check_seconds(
    name: str,
    value: object,
    *,
    zero: bool = ...,
    infinite: bool = ...,
    optional: bool = ...,
) -> float | None: ...
def check_seconds(
    name: str,
    value: object,
    *,
    zero: bool = False,
    infinite: bool = False,
    optional: bool = True,
) -> float | None:
    """Seconds as a float, or None if that is ``optional``; never NaN.

    ``zero`` and ``infinite`` allow those two.
    """
    if value is None and optional:
        return None
    if (
        _is_number(value)
        and (value > 0 or (zero and value == 0))  # neither is true of NaN
        and (value <= _LARGEST or (infinite and value == inf))
    ):
        return float(value)
    rule = f"must be a {'' if infinite else 'finite '}number of seconds"
    least = "of at least 0" if zero else "above 0"
    hints = "; use None for no bound" if optional else ""
    if hasattr(value, "total_seconds"):
        hints += "; use its total_seconds()"
    error = ValueError if _is_number(value) else TypeError
    raise error(f"{name}={shown(value)}: {rule} {least}{hints}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- the policy -----------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Retry:
    """Which failures are tried again, how often, and how long to wait in between.

    Without ``wait`` the delay before the next attempt is ``wait_initial * wait_exp_base**n``
    seconds plus a random ``0..wait_jitter``, never above ``wait_max``; n counts the retries
    made so far. Every bound given holds: the first to be reached makes the error final.
    Raises TypeError or ValueError naming the parameter, its value and the fix.
    """

    attempts: int | None = 3
    """Attempts in all, the first try included; None leaves the count to the other bounds."""

    _: KW_ONLY

    on: On = Exception
    """What to retry: an exception type, a tuple of types, or a predicate of the exception.

    The predicate answers with True (retry after the usual delay), False (final), or the delay
    in seconds, as from a Retry-After header: 0.0 is at once, and ``wait_max`` does not cap it.
    If it raises or answers anything else, the error is final and carries a note that says so.
    """

    wait_initial: float = 0.1
    """Seconds before the first retry, jitter aside."""

    wait_max: float = 5.0
    """Seconds no backoff exceeds, jitter included; 0 retries at once."""

    wait_jitter: float = 1.0
    """Seconds of random extra delay at most, so that callers who failed together part."""

    wait_exp_base: float = 2.0
    """What the delay grows by from each retry to the next; at least 1."""

    timeout: float | None = None
    """Seconds from the start of the first attempt within which further ones may start."""

    wait: Wait | None = None
    """Any tenacity wait strategy, in place of the four ``wait_`` parameters."""

    stop: Stop | None = None
    """Any tenacity stop strategy, as one more bound: ``attempts=None`` leaves it the count."""

    def __post_init__(self) -> None:
        """Refuse what could never work."""
        check_count("attempts", self.attempts, hint=_OR_NONE)
        check_seconds("timeout", self.timeout)
        for name in ("wait_initial", "wait_max", "wait_jitter"):
            check_seconds(name, getattr(self, name), zero=True, optional=False)
        _check_growth(self)
        _check_on(self.on)
        _check_strategy("wait", self.wait, "tenacity.wait_fixed(1.5)")
        _check_strategy("stop", self.stop, "tenacity.stop_after_delay(30)")

    @classmethod
    def of(cls, value: object) -> Retry | None:
        """What ``retry=value`` means: ``3`` is ``Retry(attempts=3)``, None is no retry."""
        if value is None or isinstance(value, cls):
            return value
        return _of_count(check_count("retry", value, optional=False, hint=_OR_RETRY))


@lru_cache(maxsize=64)
def _of_count(attempts: int) -> Retry:
    return Retry(attempts)


def _check_growth(retry: Retry) -> None:
    base, first, most = retry.wait_exp_base, retry.wait_initial, retry.wait_max
    check_seconds("wait_exp_base", base, optional=False)
    if base < 1:
        raise ValueError(f"wait_exp_base={base!r}: must be at least 1, or the delays would shrink")
    if 0 < most < first:
        raise ValueError(
            f"wait_initial={first!r}: is above wait_max={most!r}, which caps it; raise wait_max"
        )


def _check_on(on: object) -> None:
    """One exception type, a tuple of some, or a predicate that answers at once."""
    if callable(on) and not isinstance(on, type):
        if iscoroutinefunction(on):
            raise TypeError(f"on={shown(on)}: must be a plain function, not a coroutine function")
        return
    types = on if isinstance(on, tuple) else (on,)
    if not types:
        raise ValueError(
            "on=(): matches nothing; name the exceptions to retry, or leave the policy out"
        )
    for kind in types:
        _check_type(on, kind)


def _check_type(on: object, kind: object) -> None:
    if isinstance(kind, type) and issubclass(kind, Exception):
        return
    rule = "must be an exception type, a tuple of them, or a predicate of the exception"
    if isinstance(kind, type) and issubclass(kind, BaseException):
        rule = f"{kind.__name__} is never retried; name subclasses of Exception"
    raise TypeError(f"on={shown(on)}: {rule}")


def _check_strategy(name: str, strategy: object, example: str) -> None:
    """Callable, and not the class of a strategy: calling that makes one and answers nothing."""
    if strategy is None or (callable(strategy) and not isinstance(strategy, type)):
        return
    rule = "is a class; pass an instance" if isinstance(strategy, type) else "is no strategy"
    raise TypeError(f"{name}={shown(strategy)}: {rule}, such as {example}")


# --- the verdict ----------------------------------------------------------------------------


def verdict(
    retry: Retry | None, error: BaseException, *, attempts: int, started: float, now: float
) -> float | None:
    """Seconds to wait before trying again, or None when ``error`` is final.

    ``attempts`` have been made, the first of them ``started`` then, and the last of them
    failed with ``error`` at ``now``. Does not raise; a policy that does is noted on the error.
    Only KeyboardInterrupt and SystemExit pass, which are for the program and not for the call.
    """
    if retry is None or not isinstance(error, Exception):
        return None
    if retry.attempts is not None and attempts >= retry.attempts:
        return None
    try:
        delay = _delay(retry, error, attempts=attempts, started=started, now=now)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as fault:  # noqa: BLE001 - whatever it raises ends this call only
        _note(error, fault)
        return None
    if delay is None or retry.timeout is None or now + delay - started <= retry.timeout:
        return delay
    return None


def _delay(
    retry: Retry, error: Exception, *, attempts: int, started: float, now: float
) -> float | None:
    """What ``on``, ``wait`` and ``stop`` say together; they may raise."""
    delay = _ask(retry, error)
    if delay is False or (delay is not True and retry.stop is None):
        return None if delay is False else delay
    from aiopool._core import backoff  # imports tenacity, which takes 47 ms

    state = backoff.call_state(error, attempts=attempts, started=started, now=now)
    if delay is True:
        wait = retry.wait
        if wait is None:
            wait = backoff.exponential(
                retry.wait_initial, retry.wait_max, retry.wait_exp_base, retry.wait_jitter
            )
        delay = check_seconds("wait(state)", wait(state), zero=True, optional=False)
    state.upcoming_sleep = delay  # stop_before_delay reads it
    return None if retry.stop is not None and retry.stop(state) else delay


def _ask(retry: Retry, error: Exception) -> bool | float:
    """False if the error is not to be retried, True if it is, or after how many seconds."""
    on = retry.on
    if isinstance(on, (type, tuple)):
        return isinstance(error, on)
    answer = on(error)
    if isinstance(answer, bool):
        return answer
    if not _is_number(answer):
        raise TypeError(f"on(error)={shown(answer)}: must be a bool, or a delay in seconds")
    return check_seconds("on(error)", answer, zero=True, optional=False)


def _note(error: Exception, fault: BaseException) -> None:
    """Say on the error that its policy failed, as text: a reference would make a cycle.

    Not by ``add_note``, which an error that is a frozen dataclass refuses.
    """
    notes = vars(error).setdefault("__notes__", [])
    if isinstance(notes, list):
        text = f"not retried, because its Retry failed: {shown(fault, 200)}{_place(fault)}"
        notes.append(text)


def _place(fault: BaseException) -> str:
    """Where user code raised it; nothing if it was raised by a check in this file."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_code.co_filename == __file__:
        return ""
    code = trace.tb_frame.f_code
    return f" ({code.co_filename}:{trace.tb_lineno}, in {code.co_name})"
