"""An asyncio-native concurrency toolkit: coroutines, threads and worker processes in one pool.

Everything is loaded at its first use, because every spawned process pays for what this imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aiopool._backends.seats import checkpoint
    from aiopool._core.options import Priority, TaskOptions
    from aiopool._core.outcome import Outcome, PoolStatistics
    from aiopool._core.retry import Retry
    from aiopool._run.executor import PoolExecutor
    from aiopool._run.handle import TaskHandle
    from aiopool._run.meter import Meter
    from aiopool._run.pool import Pool
    from aiopool._run.runner import run
    from aiopool._run.settings import PoolOptions, available_cpus
    from aiopool._run.sharing import Shared
    from aiopool._run.stream import Stream
    from aiopool._run.taskgroup import TaskGroup
    from aiopool._run.view import PoolView
    from aiopool._wire.preserve import preserve, restore
    from aiopool.errors import (
        AiopoolError,
        JournalError,
        JournalFull,
        JournalLocked,
        NotTransferable,
        PoolClosed,
        PoolFull,
        RemoteError,
        TaskTimeout,
        WorkerCrashed,
    )

__version__ = "0.1.0"

__all__ = [
    "AiopoolError",
    "JournalError",
    "JournalFull",
    "JournalLocked",
    "Meter",
    "NotTransferable",
    "Outcome",
    "Pool",
    "PoolClosed",
    "PoolExecutor",
    "PoolFull",
    "PoolOptions",
    "PoolStatistics",
    "PoolView",
    "Priority",
    "RemoteError",
    "Retry",
    "Shared",
    "Stream",
    "TaskGroup",
    "TaskHandle",
    "TaskOptions",
    "TaskTimeout",
    "WorkerCrashed",
    "available_cpus",
    "checkpoint",
    "preserve",
    "restore",
    "run",
]

_HOME: Final = {
    "AiopoolError": "errors",
    "JournalError": "errors",
    "JournalFull": "errors",
    "JournalLocked": "errors",
    "Meter": "_run.meter",
    "NotTransferable": "errors",
    "Outcome": "_core.outcome",
    "Pool": "_run.pool",
    "PoolClosed": "errors",
    "PoolExecutor": "_run.executor",
    "PoolFull": "errors",
    "PoolOptions": "_run.settings",
    "PoolStatistics": "_core.outcome",
    "PoolView": "_run.view",
    "Priority": "_core.options",
    "RemoteError": "errors",
    "Retry": "_core.retry",
    "Shared": "_wire.shared",
    "Stream": "_run.stream",
    "TaskGroup": "_run.taskgroup",
    "TaskHandle": "_run.handle",
    "TaskOptions": "_core.options",
    "TaskTimeout": "errors",
    "WorkerCrashed": "errors",
    "available_cpus": "_run.settings",
    "checkpoint": "_backends.seats",
    "preserve": "_wire.preserve",
    "restore": "_wire.preserve",
    "run": "_run.runner",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    home = _HOME.get(name)
    if home is None:
        message = f"module 'aiopool' has no attribute {name!r}"
        raise AttributeError(message)
    value = globals()[name] = getattr(import_module(f"aiopool.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
