"""What a pool tells its observers: public facts, one frozen dataclass each.

An observer is a callable that takes one event; ``Pool(observers=[...])`` calls it on the event
loop, so it must be quick. What it raises is logged and goes no further. Events are built only
when there are observers. ``at`` is seconds of ``time.monotonic``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = [
    "Event",
    "TaskCancelled",
    "TaskFailed",
    "TaskFinished",
    "TaskRetrying",
    "WorkerEnded",
    "WorkerStarted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a pool."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskEvent(Event):
    """Something that happened to one call: ``index`` is its place in its ``map`` or ``stream``."""

    task: str
    index: int
    attempt: int
    pid: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFinished(_TaskEvent):
    """A call returned after running for ``seconds``."""

    seconds: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(_TaskEvent):
    """A call failed for good."""

    seconds: float
    error: BaseException


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRetrying(_TaskEvent):
    """An attempt failed; the next one may start in ``delay`` seconds."""

    error: BaseException
    delay: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancelled(_TaskEvent):
    """A call was stopped, or will not start."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """A worker process takes calls."""

    pid: int | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnded(Event):
    """A worker process is gone; ``crashed`` if nobody asked it to go."""

    pid: int | None
    crashed: bool
