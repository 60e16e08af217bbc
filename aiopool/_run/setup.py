"""The machinery of an open pool, put together from its parameters."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._backends.fleet import Fleet
from aiopool._backends.seats import current_seat
from aiopool._backends.tasks import TaskBackend
from aiopool._backends.threads import ExecutorBackend
from aiopool._core.scheduler import CountedVenue, LanedVenue
from aiopool._run.backlog import Backlog
from aiopool._run.closing import Closer
from aiopool._run.engine import Engine
from aiopool._run.functions import Functions
from aiopool._run.gate import Gate
from aiopool._run.settings import available_cpus

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable
    from contextlib import AbstractAsyncContextManager

    from aiopool._core.options import Settings
    from aiopool._run.calls import Plan
    from aiopool._run.handle import TaskHandle
    from aiopool._run.joint import Joint
    from aiopool._run.settings import PoolSettings

_THREADS_EACH: Final = 4
"""Threads for each CPU, at least 16: they are for calls that mostly wait."""


@final
class Machinery:
    """An open pool's parts, put together."""

    def __init__(self, settings: PoolSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self._cpus = available_cpus()
        self.engine = engine = Engine(loop, settings.news)
        engine.gate = partial(_gate, engine, settings)
        self.functions = Functions()
        self.variables = settings.variables  # that travel to worker processes
        self.plans: dict[int, Plan] = {}  # by id of the function, where there are no options
        self.defaults = settings.defaults  # the options of a call that says nothing else
        self.submitted: list[TaskHandle[Any]] = []  # for collect
        self.joints: dict[Hashable, Joint] = {}  # calls that others may join, by what they are
        self.backlog = Backlog(engine, settings.max_pending, settings.aging)
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

    def narrowest(self, place: str) -> int:
        """Items a stream has to have in hand to keep that place busy."""
        return 2 * self._settings.limit if place == "loop" else 4 * self._settings.max_workers

    def under(self, defaults: Settings) -> Machinery:
        """The same parts for calls with other defaults."""
        parts = copy(self)
        parts.defaults = defaults
        parts.plans = {}
        return parts

    @property
    def inside(self) -> bool:
        """Whether this is running in a call of this pool's own."""
        seat = current_seat()
        return seat is not None and seat.belongs_to(self.engine)

    def _install_threads(self, aging: float) -> ThreadPoolExecutor:
        count = max(16, _THREADS_EACH * self._cpus)
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
            vigilant=self._cpus > 1,
            forward_output=settings.forward_output,
            start_timeout=settings.start_timeout,
        )
        self.engine.install("process", venue, fleet)
        self.engine.on_burst = fleet.catch_up
        return fleet


def _gate(
    engine: Engine,
    settings: PoolSettings,
    limiter: AbstractAsyncContextManager[object],
    beyond: str,
) -> tuple[object, ...]:
    """The venue of calls that go through a limiter first."""
    most = settings.limit if beyond == "loop" else 2 * settings.max_workers
    return Gate.find(engine, limiter, beyond, most=most, aging=settings.aging)
