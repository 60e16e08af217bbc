"""Shows all that a pool does while it does it: ``with track(pool): ...``.

For one ``map`` or ``stream`` there is ``progress=True``, for counts of your own ``aiopool.Meter``,
which this is made of. Counts are the pool's own, read a few times a second; no event is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aiopool import Meter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiopool import Pool, PoolStatistics

__all__ = ["track"]


def track(pool: Pool, name: str = "pool") -> Meter:
    """A context manager that shows on stderr what an open pool does, under that name.

    Calls that have ended, however, of those there are so far; calls a second and the time left;
    how many run, failed, were cancelled, tried again, and workers that crashed, all counted from
    its entering; and in a terminal or a notebook below that each worker with its pid, the name of
    the call it runs, and its age. Inputs of unknown length count as far as they were pulled.
    """
    return Meter(name, _Tracking(pool).counts)


@final
class _Tracking:
    """A pool's counts since they were first asked for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._before: dict[str, int] | None = None

    def counts(self) -> tuple[int, int, str, *tuple[str, ...]]:
        """Calls that have ended, calls in all, and what else there is to say."""
        now = self._pool.statistics()
        sums = {name: getattr(now, name) for name in _SUMS}
        before = self._before = self._before or sums
        since = {name: count - before[name] for name, count in sums.items()}
        ended = sum(since[name] for name in _ENDS)
        total = ended + now.running + sum(now.queued.values())
        notable = {"running": now.running, **since, "done": 0}
        beside = ", ".join(f"{count:,} {name}" for name, count in notable.items() if count)
        return ended, total, beside, *_workers(now)


_ENDS = ("done", "failed", "cancelled")
_SUMS = (*_ENDS, "retried", "crashed")


def _workers(now: PoolStatistics) -> Iterator[str]:
    for worker in now.workers:
        what = worker.task or worker.state
        yield f"worker {worker.pid or '…'}: {what}, {worker.age:.0f} s old"
