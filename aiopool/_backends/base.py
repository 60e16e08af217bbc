"""What a backend and the engine that uses it say to each other.

A backend is told to start batches and to stop workloads; it answers through ``Client``. Every
call of every batch it was handed is told of exactly once, by ``succeeded``, ``failed``, ``stopped``
or ``returned``, and every batch by ``settled`` once its place is free again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiopool._core.estimate import Estimate
    from aiopool._core.workload import Batch, Workload


class Client(Protocol):
    """Who is told what became of calls. All of it on the event loop's thread."""

    def succeeded(
        self, batch: Batch, values: Sequence[Any], seconds: float, pid: int | None
    ) -> None:
        """The calls of this (part of a) batch returned; ``seconds`` they took together."""

    def failed(self, batch: Batch, error: Exception, seconds: float, pid: int | None) -> None:
        """The one call of this batch raised, crashed or ran out of time."""

    def stopped(self, batch: Batch, *, started: bool) -> None:
        """The calls of this batch were stopped as asked, some before they had ``started``."""

    def returned(self, batch: Batch) -> None:
        """The calls of this batch were not started; they wait for another turn."""

    def settled(self, batch: Batch) -> None:
        """A batch has left its place."""

    def refused(self, error: Exception) -> None:
        """No worker can be started: fail the calls that wait for one."""

    def packed(self, workload: Workload) -> None:
        """The job that pickles a single call's argument is done."""

    def worker_started(self, pid: int | None) -> None:
        """A worker process is ready."""

    def worker_ended(self, pid: int | None, *, crashed: bool) -> None:
        """A worker process is gone."""

    def changed(self) -> None:
        """Places may have become free: ask what to start."""

    def soon(self) -> None:
        """As ``changed``, once the event loop has had its turn."""


@final
class Function:
    """A callable as backends know it: the object, its name, what it costs, and its pickle."""

    __slots__ = ("call", "code", "cost", "name")

    def __init__(
        self, call: Callable[..., Any], name: str, cost: Estimate, code: bytes = b""
    ) -> None:
        self.call = call
        self.name = name
        self.cost = cost
        self.code = code  # empty where it needs none
