"""What became of a call, and how the pool stands: frozen facts, for reading.

Durations are seconds. Nothing here is acted upon inside the package.

Prior art: ``outcome`` of https://outcome.readthedocs.io, from which ``unwrap`` has its name.
Not here: the counting itself, which is the scheduler's and the pool's.
"""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import Repr
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast, final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Outcome", "PoolStatistics", "WorkerStatistics"]

T_co = TypeVar("T_co", covariant=True)

_brief: Final = Repr()
_brief.maxother = _brief.maxstring = 40


@final
@dataclass(frozen=True, slots=True, eq=False)
class Outcome(Generic[T_co]):
    """How one call ended: with a value, or with an error.

    It holds the very exception, and that, once raised, the frames it passed, until the outcome
    is dropped. Compared by identity, because values need not be comparable.
    """

    index: int
    """Place of the call in the input, or in the order of submission, from 0."""

    item: object
    """What it was called for: the item of ``map``, the tuple of arguments of ``submit``."""

    value: T_co | None = None
    """What it returned; None also when it failed."""

    error: BaseException | None = None
    """What it failed with in its last attempt, cancellation included; None if it did not."""

    attempts: int = 1
    """Attempts made, the first try included; 0 if none was started."""

    pid: int | None = None
    """The process of the last attempt, None if that was not a worker process."""

    queued_for: float = 0.0
    """Seconds in which it was not running."""

    ran_for: float = 0.0
    """Seconds of its last attempt."""

    @property
    def ok(self) -> bool:
        """Whether it returned."""
        return self.error is None

    def unwrap(self) -> T_co:
        """The value; or raises the error, the same exception at every call."""
        if self.error is None:
            return cast("T_co", self.value)
        try:
            raise self.error
        finally:
            # The error's traceback holds this frame, which held the outcome, which holds it.
            del self

    def __repr__(self) -> str:
        """Such as ``<Outcome 7 ok: 42, attempts=1, ran 0.012 s>``; long values are cut."""
        how = f"ok: {_brief.repr(self.value)}"
        if self.error is not None:
            how = f"failed: {_brief.repr(self.error)}"
        return f"<Outcome {self.index} {how}, attempts={self.attempts}, ran {self.ran_for:.3g} s>"


@final
@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """One worker process at one moment."""

    pid: int | None
    """None until it has said hello."""

    state: str
    """What it is doing, in one word."""

    task: str | None
    """Name of the task it runs, None if it is idle."""

    age: float
    """Seconds since it was started."""


@final
@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment. ``done`` to ``crashed`` count from its opening."""

    queued: Mapping[int, int]
    """Calls waiting to start, by priority; a dict of this snapshot's own."""

    running: int
    """Calls being executed."""

    done: int
    """Calls that returned."""

    failed: int
    """Calls whose final error was raised, cancellation aside."""

    cancelled: int
    """Calls that were cancelled."""

    retried: int
    """Attempts that failed and were followed by another."""

    crashed: int
    """Workers that died while executing a call."""

    workers: tuple[WorkerStatistics, ...]
    """The worker processes, oldest first."""
