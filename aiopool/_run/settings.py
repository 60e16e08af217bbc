"""A pool's parameters: their names, defaults, and checks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from concurrent.futures import Executor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, final

from aiopool._backends.launch import default_context
from aiopool._backends.parcels import pack_function
from aiopool._backends.threads import InlineExecutor
from aiopool._core.options import Settings, unknown_option
from aiopool._core.retry import Retry, check_count, check_seconds, shown
from aiopool._run.news import News
from aiopool._wire.variables import declare

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

    from aiopool._run.news import Observer


AGING: Final = 1.0
"""Seconds of waiting that make up for one step of priority."""

_MOST_WORKERS: Final = 61 if sys.platform == "win32" else 4096
"""What the executor's own waiting can watch on Windows; elsewhere, a slip of the finger."""


@final
class PoolOptions(TypedDict, total=False):
    """The keyword parameters of a pool; times are in seconds, memory in bytes."""

    limit: int
    """Coroutine calls running at once; 100."""

    max_pending: int | None
    """Calls that may wait; beyond it ``run``, ``map`` and ``stream`` wait for room and ``submit``
    raises ``PoolFull``. Unbounded."""

    retry: int | Retry | None
    """Default for every call: none."""

    timeout: float | None
    """Default for every call, of one attempt: none."""

    grace_period: float
    """What a stopped call has for its clean-up before its process is killed; 1."""

    aging: float
    """Waiting that makes up for one step of priority; 1. ``math.inf`` for strict priority."""

    backend: Executor | str | None
    """None for worker processes, ``"inline"`` to run plain callables at once in this thread, or
    any ``concurrent.futures.Executor``."""

    mp_context: BaseContext | str | None
    """A multiprocessing context or start method; forkserver where there is one, else spawn."""

    initializer: Callable[..., object] | None
    """Runs in each new worker."""

    initargs: tuple[Any, ...]
    """The initializer's arguments."""

    start_timeout: float
    """What a worker may take to get ready, its initializer included; 60."""

    max_tasks_per_worker: int | None
    """Calls after which a worker is replaced."""

    max_worker_memory: int | None
    """A worker that holds more between calls is replaced; a call in which it holds twice as much
    is killed, on Linux."""

    forward_output: bool
    """Whether what workers print, log and warn of arrives here; True."""

    contextvars: Iterable[ContextVar[Any]]
    """Context variables whose values go to worker processes with the calls; none."""

    observers: Iterable[Observer]
    """Called with the events of ``aiopool.events``."""


@final
@dataclass(frozen=True, slots=True)
class PoolSettings:
    """A pool's parameters, checked."""

    max_workers: int
    limit: int
    max_pending: int | None
    defaults: Settings
    grace_period: float
    aging: float
    backend: Executor | None
    inline: bool
    context: BaseContext
    initializer: bytes | None
    start_timeout: float
    max_tasks: int | None
    max_memory: int | None
    forward_output: bool
    variables: tuple[ContextVar[Any], ...]
    news: News


def available_cpus() -> int:
    """CPUs this process may really use: its affinity, and its control group's quota."""
    if sys.version_info >= (3, 13):  # which has an option for it, PYTHON_CPU_COUNT
        count = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, count if quota is None else min(count, quota))


def settings_from(max_workers: int | None, options: PoolOptions) -> PoolSettings:
    """As ``check_settings``, of options that may be unknown."""
    known = PoolOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(unknown_option(name, known))
    return check_settings(max_workers, **options)


def check_settings(  # noqa: PLR0913 - the pool's own parameters
    max_workers: int | None = None,
    *,
    limit: int = 100,
    max_pending: int | None = None,
    retry: int | Retry | None = None,
    timeout: float | None = None,
    grace_period: float = 1.0,
    aging: float = AGING,
    backend: Executor | str | None = None,
    mp_context: BaseContext | str | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    start_timeout: float = 60.0,
    max_tasks_per_worker: int | None = None,
    max_worker_memory: int | None = None,
    forward_output: bool = True,
    contextvars: Iterable[ContextVar[Any]] = (),
    observers: Iterable[Observer] = (),
) -> PoolSettings:
    """The parameters in range; raises TypeError or ValueError naming the one that is not."""
    executor, inline = _backend(backend)
    return PoolSettings(
        max_workers=_workers(max_workers),
        limit=check_count("limit", limit, optional=False),
        max_pending=check_count("max_pending", max_pending),
        defaults=Settings(retry=Retry.of(retry), timeout=check_seconds("timeout", timeout)),
        grace_period=check_seconds("grace_period", grace_period, zero=True, optional=False),
        aging=check_seconds("aging", aging, zero=True, infinite=True, optional=False),
        backend=executor,
        inline=inline,
        context=_context(mp_context),
        initializer=_initializer(initializer, initargs),
        start_timeout=check_seconds("start_timeout", start_timeout, optional=False),
        max_tasks=check_count("max_tasks_per_worker", max_tasks_per_worker),
        max_memory=check_count("max_worker_memory", max_worker_memory),
        forward_output=_flag("forward_output", forward_output),
        variables=_variables(contextvars),
        news=News(observers),
    )


def _workers(value: int | None) -> int:
    count = check_count("max_workers", value)
    if count is None:
        return min(available_cpus(), _MOST_WORKERS)
    if count > _MOST_WORKERS:
        message = f"max_workers={count}: at most {_MOST_WORKERS} on this platform"
        raise ValueError(message)
    return count


def _backend(value: object) -> tuple[Executor | None, bool]:
    if value is None or value == "process":
        return None, False
    if value == "inline":
        return InlineExecutor(), True
    if isinstance(value, Executor):
        return value, False
    message = (
        f"backend={shown(value)}: must be None or 'process' for worker processes, 'inline' to run "
        "calls at once, or a concurrent.futures.Executor"
    )
    raise TypeError(message)


def _context(value: BaseContext | str | None) -> BaseContext:
    import multiprocessing

    if value is None:
        return default_context()
    if isinstance(value, str):
        return multiprocessing.get_context(value)
    if not hasattr(value, "Process"):
        message = (
            f"mp_context={shown(value)}: must be a multiprocessing context or the name of a start "
            "method, such as multiprocessing.get_context('spawn')"
        )
        raise TypeError(message)
    return value


def _initializer(call: object, args: object) -> bytes | None:
    if not isinstance(args, (tuple, list)):
        message = f"initargs={shown(args)}: must be the tuple of the initializer's arguments"
        raise TypeError(message)
    if call is None:
        if args:
            message = f"initargs={shown(args)}: there is no initializer to take them"
            raise ValueError(message)
        return None
    if not callable(call):
        message = f"initializer={shown(call)}: must be a function"
        raise TypeError(message)
    return pack_function((call, tuple(args)), "initializer")


def _flag(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    message = f"{name}={shown(value)}: must be True or False"
    raise TypeError(message)


def _variables(value: object) -> tuple[ContextVar[Any], ...]:
    rule = "must be the contextvars.ContextVar objects whose values travel with calls"
    if not isinstance(value, Iterable) or isinstance(value, str):
        message = f"contextvars={shown(value)}: {rule}"
        raise TypeError(message)
    variables = tuple(value)
    for variable in variables:
        if not isinstance(variable, ContextVar):
            message = f"contextvars: {shown(variable)} is none; they {rule}"
            raise TypeError(message)
    declare(variables)
    return variables


def _cgroup_quota() -> int | None:
    """Whole CPUs this control group may use at once, None if unbounded or unknown."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, -(-int(quota) // int(period)))
