"""Collects what ``map`` returns: one list, filled as batches come in, nothing kept per item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from aiopool._run.sources import in_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from aiopool._core.workload import Batch, Workload
    from aiopool._run.engine import Engine
    from aiopool._run.sources import Input
    from aiopool._run.ticket import Ticket

_FED_AHEAD: Final = 1024


@final
class Gathering:
    """The sink of a ``map``: results in input order, or the first final failure."""

    def __init__(
        self, engine: Engine, ticket: Ticket[list[Any]], *, return_exceptions: bool
    ) -> None:
        self._engine = engine
        self._ticket = ticket
        self._return_exceptions = return_exceptions
        self._results: list[Any] = []
        self._told = 0  # calls that have ended or were stopped
        self._dropped = 0  # those that were stopped
        self._error: BaseException | None = None
        self._input_ended = self._concluded = False
        self._workload: Workload
        self._input: Input

    def counts(self) -> tuple[int, int | None]:
        """Calls that have ended, and how many there are in all, None if that is not known."""
        return self._told - self._dropped, in_all(self._input, self._workload.next_index)

    def begin(self, workload: Workload, source: Input) -> None:
        """Start: from now on the ticket's cancellation stops the workload."""
        self._workload = workload
        self._input = source
        self._ticket.on_cancel(lambda: self._engine.stop(workload))

    def room(self) -> int:
        """Items of an async input that may be pulled ahead of the workers."""
        return _FED_AHEAD

    async def finish(self, meter: AbstractContextManager[None]) -> list[Any]:
        """Wait for all of it, measured by a meter; the results, or the first failure."""
        try:
            with meter:
                return await self._ticket
        finally:
            if self._concluded:
                del self._ticket  # which refers to this, and to the results
            await self._input.aclose()

    def values(self, batch: Batch, values: Sequence[Any], seconds: float, pid: int | None) -> None:
        """These calls returned."""
        del seconds, pid
        first, count = batch.indices[0], len(values)
        results = self._results
        if first == len(results):
            results += values
        else:
            self._reach(first + count)
            results[first : first + count] = values
        self._tell(count)

    def error(self, batch: Batch, error: Exception, seconds: float, pid: int | None) -> None:
        """This one failed for good: all others stop, unless failures are results here."""
        del seconds, pid
        if self._return_exceptions:
            self._reach(batch.indices[0] + 1)
            self._results[batch.indices[0]] = error
        elif self._error is None:
            self._error = error
            self._engine.stop(self._workload)
        self._tell(1)

    def attempted(self, batch: Batch, seconds: float, pid: int | None) -> None:
        """An attempt failed and another is to follow: nothing to collect yet."""

    def stopped(self, batch: Batch) -> None:
        """These were stopped, or will not start."""
        self._dropped += len(batch)
        self._tell(len(batch))

    def ended(self) -> None:
        """No more calls will be taken from the input."""
        self._input_ended = True
        self._tell(0)

    def _tell(self, count: int) -> None:
        self._told += count
        if self._told < self._workload.next_index or self._concluded:
            return
        if self._input_ended:
            self._conclude()
        else:
            self._workload.probe()  # or the end would be found only when a worker is free

    def _conclude(self) -> None:
        self._concluded = True
        workload, ticket = self._workload, self._ticket
        error = self._error or self._input.error or self._overrun()
        if error is not None:
            ticket.fail(error)
        elif workload.stopped and workload.reason is None:
            ticket.conclude_stopped()
        else:
            ticket.conclude(self._results)
        self._results = []  # or what refers to this would keep them until a collection
        self._engine.concluded(workload)

    def _overrun(self) -> Exception | None:
        """What a map fails with that ran out of time; as results, if that was asked for."""
        reason = self._workload.reason
        left = self._input.remaining()
        if reason is None or not self._return_exceptions or left is None:
            return reason
        self._results.extend([reason] * left)
        return None

    def _reach(self, length: int) -> None:
        missing = length - len(self._results)
        if missing > 0:
            self._results.extend([None] * missing)
