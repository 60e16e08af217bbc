"""One submitted call: its future, and what is known of how it fares."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from aiopool._core.options import check_priority
from aiopool._core.outcome import Outcome
from aiopool._run.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiopool._core.options import Settings
    from aiopool._core.workload import Batch, Workload
    from aiopool._run.engine import Engine

T = TypeVar("T")


@final
class Past:
    """What a handle keeps of its workload when the call has ended: a quarter of it."""

    __slots__ = ("name", "priority", "settings", "since")

    door = None
    is_running = False
    resting = None

    def __init__(self, workload: Workload) -> None:
        self.name = workload.name
        self.priority = workload.priority
        self.settings = workload.settings
        self.since = workload.since


class TaskHandle(Ticket[T], Generic[T]):
    """A submitted call as an ``asyncio.Future``: await it, wait for it, gather it, shield it.

    ``cancel()`` is a request: the handle is done when the work has stopped. The result is the
    value of the call; its exception is the final one, after all retries.
    """

    __slots__ = (
        "_attempts",
        "_ended",
        "_engine",
        "_item",
        "_pid",
        "_ran",
        "_ran_in_all",
        "_workload",
    )

    def __init__(self, engine: Engine, workload: Workload, item: object) -> None:
        super().__init__(engine.loop)
        self._engine = engine
        self._workload = workload
        self._item = item
        self._attempts = 0
        self._pid: int | None = None
        self._ended = 0.0
        self._ran = 0.0
        self._ran_in_all = 0.0

    def begin(self) -> None:
        """Put the call in line."""
        self._engine.add(self._workload)

    @property
    def name(self) -> str:
        """The ``name`` option, else the name of the function."""
        return self._workload.name

    @property
    def settings(self) -> Settings:
        """The options of the call, resolved."""
        return self._workload.settings

    @property
    def priority(self) -> int:
        """Lower runs first. May be set while the call is queued; later it changes nothing."""
        return self._workload.priority

    @priority.setter
    def priority(self, value: int) -> None:
        self._workload.priority = check_priority(value)
        if not self.done():
            self._engine.moved(self._workload)

    @property
    def state(self) -> str:
        """How it fares, in one word.

        ``queued``, ``running``, ``waiting`` for its next attempt; ``done``, ``failed`` or
        ``cancelled``.
        """
        if self.cancelled():
            return "cancelled"
        if self.done():
            return "done" if super().exception() is None else "failed"
        if self._workload.resting:
            return "waiting"
        return "running" if self._workload.is_running else "queued"

    @property
    def attempts(self) -> int:
        """Attempts that have ended, or are running."""
        return self._attempts + (1 if self._workload.is_running and not self.done() else 0)

    @property
    def pid(self) -> int | None:
        """Process of the last attempt that ended, None if that was not a worker process."""
        return self._pid

    @property
    def queued_for(self) -> float:
        """Seconds in which it has waited: for its turn, and between attempts."""
        workload = self._workload
        until = self._ended
        if not self.done():
            until = workload.turn if workload.is_running else monotonic()
        return max(0.0, until - workload.since - self._ran_in_all)

    @property
    def ran_for(self) -> float:
        """Seconds of the last attempt that ended."""
        return self._ran

    def outcome(self, index: int) -> Outcome[T]:
        """How it ended, under the given index. Only for a handle that is done."""
        error: BaseException | None
        if self.cancelled():
            value, error = None, asyncio.CancelledError()
        else:
            error = super().exception()
            value = None if error is not None else self.result()
        return Outcome(
            index,
            self._item,
            value,
            error,
            self._attempts,
            self._pid,
            self.queued_for,
            self._ran,
        )

    def values(self, batch: Batch, values: Sequence[Any], seconds: float, pid: int | None) -> None:
        """The call returned."""
        self._note(batch, seconds, pid)
        self.conclude(values[0])
        self._let_go()

    def error(self, batch: Batch, error: Exception, seconds: float, pid: int | None) -> None:
        """The call failed for good."""
        self._note(batch, seconds, pid)
        self.fail(error)
        self._let_go()

    def attempted(self, batch: Batch, seconds: float, pid: int | None) -> None:
        """An attempt failed and another is to follow."""
        self._note(batch, seconds, pid)

    def stopped(self, batch: Batch) -> None:
        """The call was stopped, or will not start."""
        self._attempts = batch.attempt
        self._ended = self._workload.turn if self._workload.running else monotonic()
        self.conclude_stopped()
        self._let_go()

    def ended(self) -> None:
        """Its workload takes no more calls; it had only this one."""

    def _let_go(self) -> None:
        """There is nothing more to come: a pool keeps handles for long, and not their workloads."""
        workload = self._workload
        self._engine.concluded(workload)
        if workload.door is None:
            self._workload = Past(workload)  # type: ignore[assignment]

    def _ask(self) -> None:
        self._engine.stop(self._workload)

    def _note(self, batch: Batch, seconds: float, pid: int | None) -> None:
        self._attempts = batch.attempt
        self._pid = pid
        self._ran = seconds
        self._ran_in_all += seconds
        self._ended = monotonic()

    def __repr__(self) -> str:
        return f"<TaskHandle {self.name} {self.state} attempts={self.attempts}>"
