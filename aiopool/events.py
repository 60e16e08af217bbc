"""What a pool, or a spool, tells its observers: public facts, one frozen dataclass each.

An observer is a callable that takes one event; ``Pool(observers=[...])`` calls it on the event
loop, so it must be quick. What it raises is logged and goes no further. Events are built only
when there are observers. ``at`` is seconds of ``time.monotonic``.
``Spool(observers=[...])`` does the same with the events of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Event",
    "FileDone",
    "FileEvent",
    "FileFailed",
    "FileRecovered",
    "FileReturned",
    "FileStarted",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvent(Event):
    """Something that happened to a file of a spool: ``name`` is the one it came with."""

    name: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileStarted(FileEvent):
    """Its call runs, in the worker process ``pid``; None if it runs in this one."""

    pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileEnded(FileEvent):
    """Its call has ended: ``seconds`` are those of the last attempt, ``pid`` its process."""

    path: Path | None  # where the file is now; None if the call has removed it
    pid: int | None
    attempts: int
    seconds: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileDone(_FileEnded):
    """Its call returned."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileFailed(_FileEnded):
    """Its call failed for good."""

    error: BaseException


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileReturned(FileEvent):
    """Its call was stopped, and the file waits again."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecovered(FileEvent):
    """It waits again, because the watcher that had claimed it is dead."""
