"""Builds events for a pool's observers and hands them out; false when there is nobody to tell."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias, final

from aiopool import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiopool._core.workload import Batch

    Observer: TypeAlias = Callable[[events.Event], object]

_log: Final = logging.getLogger("aiopool")


@final
class News:
    """The observers of one pool."""

    __slots__ = ("_observers", "wanted")

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = _checked(observers)
        self.wanted = bool(self._observers)  # whether there is anybody to tell

    def finished(
        self, batch: Batch, seconds: float, pid: int | None, error: Exception | None
    ) -> None:
        """Calls ended, ``seconds`` being what they took together."""
        task, attempt, at = batch.workload.name, batch.attempt, monotonic()
        each = seconds / len(batch)
        for index in batch.indices:
            if error is None:
                self._tell(
                    events.TaskFinished(
                        at=at, task=task, index=index, attempt=attempt, pid=pid, seconds=each
                    )
                )
            else:
                self._tell(
                    events.TaskFailed(
                        at=at,
                        task=task,
                        index=index,
                        attempt=attempt,
                        pid=pid,
                        seconds=each,
                        error=error,
                    )
                )

    def retrying(self, batch: Batch, error: Exception, delay: float) -> None:
        """A call failed and will be tried again."""
        self._tell(
            events.TaskRetrying(
                at=monotonic(),
                task=batch.workload.name,
                index=batch.indices[0],
                attempt=batch.attempt,
                error=error,
                delay=delay,
            )
        )

    def stopped(self, batch: Batch, reason: Exception | None) -> None:
        """Calls were stopped, or will not start."""
        if reason is not None:
            self.finished(batch, 0.0, None, reason)
            return
        task, attempt, at = batch.workload.name, batch.attempt, monotonic()
        for index in batch.indices:
            self._tell(events.TaskCancelled(at=at, task=task, index=index, attempt=attempt))

    def worker_started(self, pid: int | None) -> None:
        """A worker is ready."""
        self._tell(events.WorkerStarted(at=monotonic(), pid=pid))

    def worker_ended(self, pid: int | None, *, crashed: bool) -> None:
        """A worker is gone."""
        self._tell(events.WorkerEnded(at=monotonic(), pid=pid, crashed=crashed))

    def _tell(self, event: events.Event) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # noqa: BLE001 - an observer's fault is its own
                _log.exception("an observer of a pool raised; the event was %r", event)


def _checked(observers: object) -> tuple[Observer, ...]:
    if not isinstance(observers, Iterable):
        message = f"observers={observers!r}: must be a list of callables, such as [print]"
        raise TypeError(message)
    found = tuple(observers)
    for observer in found:
        if not callable(observer):
            message = f"observers: {observer!r} cannot be called with an event"
            raise TypeError(message)
    return found
