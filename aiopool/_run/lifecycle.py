"""A pool's life: opened once, used in the loop that opened it, closed once and for all."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from aiopool._backends.launch import leave_if_unguarded
from aiopool._core.retry import check_seconds
from aiopool._run import observe
from aiopool._run.setup import Machinery
from aiopool.errors import PoolClosed

if TYPE_CHECKING:
    from types import TracebackType

    from aiopool._core.options import Settings
    from aiopool._run.settings import PoolSettings


class Access(ABC):
    """The way to an open pool's parts: its own, or through a view of it."""

    _settings: PoolSettings

    @property
    @abstractmethod
    def _defaults(self) -> Settings:
        """The options of a call that says nothing else."""

    @abstractmethod
    def _entered_parts(self) -> Machinery:
        """The parts if the pool was opened, in this loop."""

    @abstractmethod
    def _open_parts(self) -> Machinery:
        """The parts if the pool takes work."""

    @abstractmethod
    def _check_open(self) -> None:
        """As ``_open_parts``, in whatever thread."""


class Lifecycle(Access):
    """What is open, and who may use it."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._parts: Machinery | None = None  # set when opened, and kept when closed
        self._refusing = False  # takes no more work

    async def __aenter__(self) -> Self:
        self._open()
        return self

    def _open(self) -> Machinery:
        """Open it in the loop that runs here; its parts."""
        if self._parts is not None or self._refusing:
            message = "this pool was opened before; make a new one for every 'async with'"
            raise PoolClosed(message)
        leave_if_unguarded()
        self._parts = Machinery(self._settings, asyncio.get_running_loop())
        self._parts.closer.arm()
        return self._parts

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose(drain=exc_type is None)

    async def aclose(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more work, finish or cancel what there is, and let go of every resource.

        With ``drain`` what was submitted is finished, for at most ``timeout`` seconds; then, or
        without, it is stopped. Idempotent; safe to call from several tasks, and a caller that is
        cancelled meanwhile cuts draining short and waits until all is gone.
        """
        check_seconds("timeout", timeout, zero=True)
        if self._parts is None or self._parts.closer.done:
            self._refusing = True
            return
        parts = self._same_loop(self._parts)
        if parts.inside:
            message = "a call of this pool cannot close it: closing waits for the call to end"
            raise RuntimeError(message)
        self._refusing = True
        await parts.closer.close(drain=drain, timeout=timeout)

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until no call is left, for ``timeout`` seconds at most, and welcome nobody new.

        ``admit`` raises ``PoolClosed`` from now on. Calls are still taken: whoever was admitted
        before can end what was begun. For a service that is about to stop; closes nothing.
        """
        check_seconds("timeout", timeout, zero=True)
        parts = self._entered_parts()
        parts.backlog.turn_away()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await parts.engine.until_empty()

    @property
    def _defaults(self) -> Settings:
        return self._settings.defaults

    def _entered_parts(self) -> Machinery:
        if self._parts is None:
            message = "this pool is not open: use it in 'async with Pool() as pool'"
            raise PoolClosed(message)
        return self._same_loop(self._parts)

    def _open_parts(self) -> Machinery:
        parts = self._parts
        # The private getter does not raise where no loop runs, and costs a third.
        if parts is None or asyncio._get_running_loop() is not parts.engine.loop:  # noqa: SLF001
            parts = self._entered_parts()
        if self._refusing or parts.closer.begun:
            message = "this pool is closing or closed and takes no more work"
            raise PoolClosed(message)
        return parts

    def _check_open(self) -> None:
        if self._parts is None or self._refusing or self._parts.closer.begun:
            message = "this pool is not open, or is closing: there are no calls to share with"
            raise PoolClosed(message)

    def _same_loop(self, parts: Machinery) -> Machinery:
        if asyncio._get_running_loop() is not parts.engine.loop:  # noqa: SLF001
            message = (
                "this pool belongs to another event loop or thread; use it in the loop that "
                "entered it, for example through asyncio.run_coroutine_threadsafe"
            )
            raise RuntimeError(message)
        return parts

    def __del__(self) -> None:
        parts = getattr(self, "_parts", None)
        if parts is not None and not parts.closer.begun:
            warnings.warn(f"unclosed pool {self!r}", ResourceWarning, source=self, stacklevel=1)
            parts.closer.forsake()

    def __repr__(self) -> str:
        if self._parts is None:
            return f"<Pool not open, max_workers={self._settings.max_workers}>"
        state = "closing" if self._refusing else "open"
        if self._parts.closer.done:
            state = "closed"
        return f"<Pool {state}, {observe.summary(self._parts)}>"
