"""From a pool's parameters to the machinery that runs it: checked when given, built when opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, final

from aiopool._backends.fleet import Fleet
from aiopool._backends.launch import default_context
from aiopool._backends.parcels import pack_function
from aiopool._backends.seats import current_seat
from aiopool._backends.tasks import TaskBackend
from aiopool._backends.threads import ExecutorBackend, InlineExecutor
from aiopool._core.options import Settings
from aiopool._core.retry import Retry, check_count, check_seconds, shown
from aiopool._core.scheduler import CountedVenue, LanedVenue
from aiopool._run.backlog import Backlog
from aiopool._run.closing import Closer
from aiopool._run.engine import Engine
from aiopool._run.functions import Functions
from aiopool._run.gate import Gate
from aiopool._run.news import News
from aiopool._wire.variables import declare

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from multiprocessing.context import BaseContext

    from aiopool._run.calls import Plan
    from aiopool._run.news import Observer

LIMIT: Final = 100
"""Coroutine calls that a pool runs at once, unless it is told otherwise."""

GRACE: Final = 1.0
"""Seconds a stopped call has for its clean-up."""

AGING: Final = 1.0
"""Seconds of waiting that make up for one step of priority."""

_MOST_WORKERS: Final = 61 if sys.platform == "win32" else 4096
"""What the executor's own waiting can watch on Windows; elsewhere, a slip of the finger."""

_THREADS_EACH: Final = 4
"""Threads for each CPU, at least 16: they are for calls that mostly wait."""


@final
class PoolOptions(TypedDict, total=False):
    """The keyword parameters of ``Pool``, for whoever passes them on."""

    limit: int
    max_pending: int | None
    retry: int | Retry | None
    timeout: float | None
    grace_period: float
    aging: float
    backend: Executor | str | None
    mp_context: BaseContext | str | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    max_tasks_per_worker: int | None
    max_worker_memory: int | None
    observers: Iterable[Observer]


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
    max_tasks: int | None
    max_memory: int | None
    forward_output: bool
    variables: tuple[ContextVar[Any], ...]
    news: News


def available_cpus() -> int:
    """CPUs this process may really use: its affinity, and its control group's quota."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, count if quota is None else min(count, quota))


def check_settings(  # noqa: PLR0913 - the pool's own parameters
    *,
    max_workers: int | None = None,
    limit: int = LIMIT,
    max_pending: int | None = None,
    retry: int | Retry | None = None,
    timeout: float | None = None,
    grace_period: float = GRACE,
    aging: float = AGING,
    backend: object = None,
    mp_context: BaseContext | str | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    max_tasks_per_worker: int | None = None,
    max_worker_memory: int | None = None,
    forward_output: bool = True,
    contextvars: Iterable[ContextVar[Any]] = (),
    observers: Iterable[Any] = (),
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
        max_tasks=check_count("max_tasks_per_worker", max_tasks_per_worker),
        max_memory=check_count("max_worker_memory", max_worker_memory),
        forward_output=_flag("forward_output", forward_output),
        variables=_variables(contextvars),
        news=News(observers),
    )


@final
class Machinery:
    """An open pool's parts, put together."""

    def __init__(self, settings: PoolSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self.engine = engine = Engine(loop, settings.news)
        self.functions = Functions()
        self.variables = settings.variables  # that travel to worker processes
        self.plans: dict[int, Plan] = {}  # by id of the function, where there are no options
        self.backlog = Backlog(engine, settings.max_pending)
        aging = settings.aging
        tasks_venue = CountedVenue(settings.limit, aging)
        self.tasks = TaskBackend(engine, tasks_venue, loop)
        engine.install("loop", tasks_venue, self.tasks)
        threads = self._install_threads(aging)
        self.fleet: Fleet | None = None
        if settings.backend is None:
            self.fleet = self._install_fleet(aging)
        else:
            self._install_executor(settings.backend, aging)
        self.closer = Closer(
            engine=engine,
            backlog=self.backlog,
            tasks=self.tasks,
            fleet=self.fleet,
            threads=threads,
            grace=settings.grace_period,
        )

    def gate(self, limiter: AbstractAsyncContextManager[object], beyond: str) -> Any:  # noqa: ANN401 - a venue's name
        """The venue of calls that go through a limiter first."""
        most = self._settings.limit if beyond == "loop" else 2 * self._settings.max_workers
        return Gate.find(self.engine, limiter, beyond, most=most, aging=self._settings.aging)

    def narrowest(self, place: str) -> int:
        """Items a stream has to have in hand to keep that place busy."""
        return 2 * self._settings.limit if place == "loop" else 4 * self._settings.max_workers

    @property
    def defaults(self) -> Settings:
        """The options of a call that says nothing else."""
        return self._settings.defaults

    @property
    def aging(self) -> float:
        """Seconds of waiting that make up for one step of priority."""
        return self._settings.aging

    @property
    def inside(self) -> bool:
        """Whether this is running in a call of this pool's own."""
        seat = current_seat()
        return seat is not None and seat.belongs_to(self.engine)

    def _install_threads(self, aging: float) -> ThreadPoolExecutor:
        count = max(16, _THREADS_EACH * available_cpus())
        threads = ThreadPoolExecutor(count, thread_name_prefix="aiopool thread")
        venue = CountedVenue(count, aging)
        self.engine.install(
            "thread", venue, ExecutorBackend(self.engine, venue, threads, local=True)
        )
        return threads

    def _install_executor(self, executor: Executor, aging: float) -> None:
        venue = CountedVenue(self._settings.max_workers, aging)
        local = self._settings.inline or isinstance(executor, ThreadPoolExecutor)
        self.engine.install(
            "process", venue, ExecutorBackend(self.engine, venue, executor, local=local)
        )

    def _install_fleet(self, aging: float) -> Fleet:
        settings = self._settings
        venue = LanedVenue(aging)
        fleet = Fleet(
            self.engine,
            venue,
            size=settings.max_workers,
            context=settings.context,
            grace=settings.grace_period,
            initializer=settings.initializer,
            max_tasks=settings.max_tasks,
            max_memory=settings.max_memory,
            vigilant=available_cpus() > 1,
            forward_output=settings.forward_output,
        )
        self.engine.install("process", venue, fleet)
        return fleet


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
