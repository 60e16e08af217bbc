"""``aiopool.run``: ``asyncio.run``, on uvloop where that is installed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine in a new event loop and return its result.

    The loop is uvloop's where uvloop is installed, else asyncio's own. Otherwise it is
    ``asyncio.run``: it cannot be called while a loop runs in this thread.
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - it does not raise where there is none
        main.close()
        message = "aiopool.run() cannot be called where an event loop runs; await its argument"
        raise RuntimeError(message)
    with asyncio.Runner(debug=debug, loop_factory=loop_factory()) as runner:
        return runner.run(main)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes uvloop's loops, None where it is not installed."""
    try:
        import uvloop
    except ImportError:  # it is an extra
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
