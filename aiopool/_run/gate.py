"""Calls with a ``limiter``: let through it one by one, and only then in line for a worker.

A gate is a backend whose places are passes. A pass is a task that enters the limiter, submits the
call to its real venue, waits for it and leaves the limiter: entered and left by the same task, as
limiters that count borrowers demand. At most one pass waits at the limiter, so priority decides
who is next; and only as many as keep the workers busy are through it and not yet done.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast, final

from aiopool._backends.seats import innermost
from aiopool._core.scheduler import CountedVenue
from aiopool._core.workload import Batch, Workload
from aiopool._run.handle import TaskHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from aiopool._run.engine import Engine


@final
class Gate:
    """The way to one venue through one limiter."""

    def __init__(
        self,
        engine: Engine,
        limiter: AbstractAsyncContextManager[object],
        beyond: str,
        *,
        most: int,
        aging: float,
    ) -> None:
        self.venue = CountedVenue(1, aging)
        self._engine = engine
        self._limiter = limiter
        self._beyond = beyond  # the venue the calls are for
        self._most = most
        self._entering = False
        self._passes: dict[asyncio.Task[None], Workload] = {}
        self._inners: dict[asyncio.Task[None], Workload] = {}  # of those through the limiter

    @classmethod
    def find(
        cls,
        engine: Engine,
        limiter: AbstractAsyncContextManager[object],
        beyond: str,
        *,
        most: int,
        aging: float,
    ) -> tuple[object, ...]:
        """The name of the gate through this limiter, installed if there is none."""
        name = ("gate", id(limiter), beyond)
        if name not in engine.venues:
            gate = cls(engine, limiter, beyond, most=most, aging=aging)
            engine.install(name, gate.venue, gate)
        return name

    def assign(self, now: float) -> None:
        """Let the next call go up to the limiter if nobody stands there."""
        while not self._entering and self._beyond_limiter() < self._most:
            self.venue.capacity = self.venue.running + 1
            batch = next(self.venue.assign(now), None)
            if batch is None:
                return
            self._entering = True
            context = copy_context()  # of whoever has made room, perhaps a call
            context.run(innermost.set, None)  # whose place this is not to lend
            task = self._engine.loop.create_task(self._pass(batch), context=context)
            self._passes[task] = batch.workload
            task.add_done_callback(partial(self._passed, batch))
        self.venue.capacity = self.venue.running

    def standing(self) -> Iterator[Workload]:
        """The workloads of calls that were let go up and have not started."""
        queued = self._queued()
        for task, workload in self._passes.items():
            inner = self._inners.get(task)
            if inner is None or inner in queued:
                yield workload

    def _queued(self) -> list[Workload]:
        """What is through the limiter and waits for a worker."""
        return [inner for inner in self._inners.values() if not inner.running]

    def _beyond_limiter(self) -> int:
        """How many are through the limiter and not with a worker, pickled or not."""
        inners = self._inners.values()
        return sum(inner.packing is not None or not inner.running for inner in inners)

    def stop(self, workload: Workload, error: Exception | None) -> None:
        """Turn back, or stop, the calls of a workload."""
        del error  # the engine knows why
        for task, passing in list(self._passes.items()):
            if passing is workload:
                task.cancel()

    async def _pass(self, batch: Batch) -> None:
        entered = False
        tell: Callable[[], None] = partial(self._engine.stopped, batch, started=False)
        try:
            async with self._limiter:
                entered = True
                self._move_on()
                tell = await self._call(batch)
        except asyncio.CancelledError:
            pass  # turned back
        except Exception as error:  # noqa: BLE001 - the limiter's own
            tell = partial(self._engine.failed, batch, error, 0.0, None)
        if not entered:
            self._move_on()
        # A map whose call has failed stops its others, and this pass has ended.
        del self._passes[cast("asyncio.Task[None]", asyncio.current_task())]
        tell()
        self.venue.settle(batch)  # which the engine may not know any more
        self._engine.changed()

    async def _call(self, batch: Batch) -> Callable[[], None]:
        """Run the call in its real venue; how to tell of its end, once the limiter is left."""
        engine = self._engine
        task = cast("asyncio.Task[None]", asyncio.current_task())
        handle = self._inner(batch, task)
        try:
            value = await handle
        except Exception as error:  # noqa: BLE001 - the call's
            return partial(engine.failed, batch, error, handle.ran_for, handle.pid)
        finally:
            del self._inners[task]
        return partial(engine.succeeded, batch, (value,), handle.ran_for, handle.pid)

    def _inner(self, batch: Batch, task: asyncio.Task[None]) -> TaskHandle[Any]:
        """Submit the call for itself; limiter, retry and deadline stay out here."""
        outer = batch.workload
        settings = replace(
            outer.settings, retry=None, limiter=None, deadline=None, limit=None, quota=None
        )
        inner = Workload(
            outer.function,
            settings,
            name=outer.name,
            venue=self._beyond,
            sink=None,
            now=outer.since,
            cost=outer.cost,
            star=outer.star,
            exact=outer.exact,
        )
        inner.silent = True
        outer.inner = inner
        self._inners[task] = inner
        inner.context = outer.context
        handle: TaskHandle[Any] = TaskHandle(self._engine, inner, batch.items[0])
        inner.sink = handle
        inner.hold(batch.items[0], batch.payloads and batch.payloads[0])
        handle.begin()
        return handle

    def _move_on(self) -> None:
        """Nobody stands at the limiter any more."""
        self._entering = False
        self._engine.soon()

    def _passed(self, batch: Batch, task: asyncio.Task[None]) -> None:
        self._engine.soon()
        if self._passes.pop(task, None) is not None:  # cancelled before it could tell
            self._move_on()
            self._engine.stopped(batch, started=False)
            self.venue.settle(batch)  # which the engine may not know any more
