"""The pool itself: the verbs over a life of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from aiopool._run import observe
from aiopool._run.lifecycle import Lifecycle
from aiopool._run.settings import settings_from
from aiopool._run.view import Viewed

if TYPE_CHECKING:
    from typing import Unpack

    from aiopool._core.outcome import Outcome
    from aiopool._run.settings import PoolOptions


@final
class Pool(Lifecycle, Viewed):
    """Runs coroutines on the event loop and plain callables in worker processes.

    It belongs to the event loop that enters it. Leaving ``async with`` waits for all submitted
    calls; by an exception or a cancellation, it stops all within ``grace_period`` and a second.

    ``max_workers``: worker processes, default the CPUs this process may use; they start when there
    is work for them. The other parameters are those of ``PoolOptions``. Raises TypeError or
    ValueError naming the one that is out of range.
    """

    def __init__(self, max_workers: int | None = None, **options: Unpack[PoolOptions]) -> None:
        super().__init__(settings_from(max_workers, options))

    async def collect(self) -> list[Outcome[Any]]:
        """Take no more work, wait for all that was submitted, and return how each call ended.

        In the order of submission; calls made through ``run``, ``map`` and ``stream`` are not
        among them. Called again it returns the same.
        """
        parts = self._entered_parts()
        if parts.inside:
            raise RuntimeError("a call of this pool cannot collect it: it would wait for itself")
        self._refusing = True
        await observe.all_done(parts.engine, parts.submitted)
        return [handle.outcome(index) for index, handle in enumerate(parts.submitted)]
