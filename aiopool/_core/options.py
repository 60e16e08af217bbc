"""What a call may be given besides its arguments: one set of options, checked in one place.

``TaskOptions`` is the form users write and type checkers read, ``Settings`` the form the rest
of the package works with: every option present, in range, or the mistake already raised.
``resolve`` leads from one to the other at every submit, so its price is a rule: nothing for
no options (the defaults themselves come back), about a microsecond for one.

Every message names the option, its value and what to write instead. TypeError is for a wrong
kind of value or an unknown option, ValueError for a value out of range.

Not here: which options a verb takes (``limit`` means nothing to ``submit``), and what they do.
"""

from __future__ import annotations

from collections.abc import Hashable  # noqa: TC003 - get_type_hints needs it
from contextlib import AbstractAsyncContextManager  # noqa: TC003 - as above
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, cast, final

from aiopool._core.quota import Quota
from aiopool._core.retry import Retry, check_count, check_int, check_seconds, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "Priority",
    "Settings",
    "TaskOptions",
    "check_count",
    "check_priority",
    "check_seconds",
    "resolve",
    "with_quota",
]


@final
class Priority(IntEnum):
    """Names for common priorities; any int will do. Lower runs first, as Unix nice has it."""

    URGENT = -20
    HIGH = -10
    NORMAL = 0
    LOW = 10
    IDLE = 19


@final
class TaskOptions(TypedDict, total=False):
    """The options of ``run``, ``submit``, ``map``, ``stream`` and ``start_soon``.

    What is left out comes from the pool; None takes back what the pool says.
    """

    priority: int
    """Lower runs first; with ``aging`` seconds to a step, newer work gains that much at most."""

    retry: int | Retry | None
    """What becomes of a failed attempt; ``3`` is ``Retry(attempts=3)``, the first try included."""

    timeout: float | None
    """Seconds one attempt may run."""

    deadline: float | None
    """Seconds from submission to the end of it all, waiting and retries included."""

    limiter: AbstractAsyncContextManager[object] | None
    """Entered before each attempt takes a worker, left when it ends; so it must be reusable."""

    limit: int | None
    """At most this many calls at once: of one ``map`` or ``stream``, or of all through a view."""

    name: str | None
    """What to call the task in messages and statistics; otherwise the function's name."""

    on: Literal["process", "thread", "loop"] | None
    """Where it runs; otherwise coroutine functions on the loop, all else in a process. ``"loop"``
    is for functions that return an awaitable, ``"thread"`` and ``"process"`` for plain ones."""

    fairness_key: Hashable
    """Whose call it is, such as a tenant's id: all calls of one key take turns with others as if
    they were the items of one ``map``, however many there are. None: the call stands for itself."""


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """Options resolved: each is what it says in ``TaskOptions``, and in range."""

    priority: int = Priority.NORMAL
    retry: Retry | None = None
    timeout: float | None = None
    deadline: float | None = None
    limiter: AbstractAsyncContextManager[object] | None = None
    limit: int | None = None
    name: str | None = None
    on: str | None = None
    fairness_key: Hashable = None
    quota: Quota | None = None  # of the view it came through


def with_quota(settings: Settings) -> Settings:
    """The options of a view: its limit is one of all its calls."""
    quota = None if settings.limit is None else Quota(settings.limit)
    return replace(settings, limit=None, quota=quota)


def resolve(options: Mapping[str, object], defaults: Settings) -> Settings:
    """``options`` over ``defaults``, all of them checked; ``defaults`` itself if there are none.

    Raises TypeError or ValueError at the first option that is unknown or wrong.
    """
    if not options:
        return defaults
    chosen: dict[str, Any] = {}
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            message = unknown_option(name, _CHECKS)
            raise TypeError(f"{message} {_KEYWORDS}")
        chosen[name] = check(value)
    pick = chosen.get
    return Settings(  # by position: half the time of dataclasses.replace
        pick("priority", defaults.priority),
        pick("retry", defaults.retry),
        pick("timeout", defaults.timeout),
        pick("deadline", defaults.deadline),
        pick("limiter", defaults.limiter),
        pick("limit", defaults.limit),
        pick("name", defaults.name),
        pick("on", defaults.on),
        pick("fairness_key", defaults.fairness_key),
        defaults.quota,
    )


def unknown_option(name: str, known: Iterable[str]) -> str:
    """What to say of an option that is none of the known ones."""
    from difflib import get_close_matches  # for a mistake only

    if name == "key":
        return "key is for run alone, where callers that come together share one call."
    near = get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(known)}."
    return f"unknown option {name!r}: {hint}"


_KEYWORDS: Final = "Keyword arguments of the function itself go through functools.partial"

# --- one check an option --------------------------------------------------------------------

_WIDEST: Final = 2**63
_PLACES: Final = ("process", "thread", "loop")


def check_priority(value: object) -> int:
    """An int that a float can stand for, because the queue orders by seconds.

    Floats are refused, since NaN has no order and would take the queue's with it, and bools,
    since True reads as "yes, first" and would run after NORMAL.
    """
    rule = "must be an int, such as Priority.HIGH"
    if isinstance(value, float):
        rule += "; order must not hinge on rounding, and NaN has no order"
    priority = check_int("priority", value, rule)
    if not -_WIDEST <= priority <= _WIDEST:
        raise ValueError(f"priority={shown(value)}: must lie between -2**63 and 2**63")
    return priority


def _timeout(value: object) -> float | None:
    return check_seconds("timeout", value)


def _deadline(value: object) -> float | None:
    return check_seconds("deadline", value)


def _limit(value: object) -> int | None:
    return check_count("limit", value)


def _limiter(value: object) -> AbstractAsyncContextManager[object] | None:
    """Anything ``async with`` takes, which looks for both methods on the type."""
    kind = type(value)
    if value is None or (hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__")):
        return cast("AbstractAsyncContextManager[object] | None", value)
    why = "must be an async context manager, such as anyio.CapacityLimiter(10)"
    if isinstance(value, type):
        why = f"is a class; pass an instance, such as {value.__name__}(10)"
    elif hasattr(kind, "__enter__"):
        why = f"is a context manager for threads; {why.removeprefix('must be ')} is needed"
    raise TypeError(f"limiter={shown(value)}: {why}")


def _name(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"name={shown(value)}: must be a str or None, not {type(value).__name__}")


def _on(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value in _PLACES):
        return value
    error = ValueError if isinstance(value, str) else TypeError
    rule = "must be 'process', 'thread' or 'loop', or None to go by the kind of function"
    raise error(f"on={shown(value)}: {rule}")


def _fairness_key(value: object) -> Hashable:
    try:
        hash(value)
    except TypeError:
        message = f"fairness_key={shown(value)}: must be hashable, such as a str or an int"
        raise TypeError(message) from None
    return value


# A check takes what the user gave and returns what Settings holds, or raises.
_CHECKS: Final[dict[str, Callable[[object], object]]] = {
    "priority": check_priority,
    "retry": Retry.of,
    "timeout": _timeout,
    "deadline": _deadline,
    "limiter": _limiter,
    "limit": _limit,
    "name": _name,
    "on": _on,
    "fairness_key": _fairness_key,
}
