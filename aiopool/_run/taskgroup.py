"""A structured scope over a pool: the block waits for every child, a failure stops them all.

It is ``asyncio.TaskGroup`` with children that may run anywhere the pool runs calls. A child made by
``start_soon`` is a call of the pool, watched by a task of the group, so that a failing sibling
cancels it and its own failure is the group's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVarTuple, Unpack

    from aiopool._core.options import TaskOptions
    from aiopool._run.handle import TaskHandle

    Ts = TypeVarTuple("Ts")

T = TypeVar("T")


@final
class TaskGroup(asyncio.TaskGroup):
    """A group of tasks that ends together; made by ``pool.task_group()``."""

    def __init__(self, start: Callable[..., TaskHandle[Any]]) -> None:
        super().__init__()
        self._start = start  # submits a call to the pool

    @overload
    def start_soon(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle[T]: ...
    @overload
    def start_soon(
        self, fn: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[TaskOptions]
    ) -> TaskHandle[T]: ...
    def start_soon(
        self, fn: Callable[[*Ts], Any], /, *args: *Ts, **options: Unpack[TaskOptions]
    ) -> TaskHandle[Any]:
        """Have the pool call ``fn(*args)`` as a child of this group; its handle.

        Options and errors are those of ``pool.submit``.
        """
        handle = self._start(fn, args, options)
        watching = _watch(handle)
        try:
            self.create_task(watching, name=handle.name)
        except RuntimeError:  # the group takes no more children
            watching.close()
            handle.cancel()
            raise
        return handle


async def _watch(handle: TaskHandle[Any]) -> None:
    """Wait for a child; one that was cancelled by itself is no failure of the group."""
    await handle
