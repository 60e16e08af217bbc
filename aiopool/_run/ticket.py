"""A future whose ``cancel`` is a request: it is done when the work has stopped.

Every public verb that waits, waits on one of these. asyncio hands a task's cancellation to the
future it waits on, so a cancelled caller stays put until the work has stopped and then sees its
``CancelledError``, however often it is cancelled meanwhile; no verb has to catch and loop.

A call of the pool that waits on one lends its place to others for that time.

Ctrl-C cancels from within a signal handler, amid whatever it has struck, which may be the engine
at work: what it asks for is done by the loop.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from aiopool._backends.seats import Lending

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

T = TypeVar("T")

_ON_SIGINT: Final = getattr(getattr(asyncio.Runner, "_on_sigint", None), "__code__", None)
"""What handles SIGINT under ``asyncio.run``, and wherever else there is an ``asyncio.Runner``."""


def _amid_interrupt() -> bool:
    """Whether this is called by the handler of a SIGINT."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - what inspect.currentframe gives
    while frame is not None:
        if frame.f_code is _ON_SIGINT:
            return True
        frame = frame.f_back
    return False


class Ticket(Lending[T], Generic[T]):
    """The result of work that a pool does."""

    __slots__ = ("_message", "_requested", "_stop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._stop: Callable[[], None] | None = None  # asks the work to stop
        self._message: Any = None
        self._requested = False  # whether it was asked; it then ends cancelled, come what may

    def cancel(self, msg: Any = None) -> bool:  # noqa: ANN401 - asyncio's signature
        """Ask the work to stop; False if it is done already.

        The future is cancelled once the work has stopped: a running call in a process is
        interrupted, and its process killed after the grace period. ``msg`` is kept for the
        ``CancelledError``: anyio knows its own cancellations by it. One without a message wins.
        """
        if self.done():
            return False
        if not self._requested or msg is None:
            self._message = msg
        self._requested = True
        if _amid_interrupt():
            self.get_loop().call_soon_threadsafe(self._ask_later)
        else:
            self._ask()
        return True

    def on_cancel(self, stop: Callable[[], None]) -> None:
        """Say what asks the work to stop."""
        self._stop = stop

    def _ask(self) -> None:
        """Ask the work to stop."""
        if self._stop is not None:
            self._stop()

    def _ask_later(self) -> None:
        if not self.done():
            self._ask()

    def conclude(self, value: T) -> None:
        """The work has ended well."""
        if self._requested:
            self.conclude_stopped()
        elif not self.done():
            self.set_result(value)

    def fail(self, error: BaseException) -> None:
        """The work has ended by an error."""
        if self._requested:
            self.conclude_stopped()
        elif not self.done():
            self.set_exception(error)

    def conclude_stopped(self) -> None:
        """The work has stopped as asked."""
        self._stop = None
        super().cancel(self._message)


@final
class Turn(Ticket[None]):
    """What is waited on that no work is behind: a cancelled one is so at once."""

    __slots__ = ()

    def cancel(self, msg: Any = None) -> bool:  # noqa: ANN401 - asyncio's signature
        """Cancel it, as any future."""
        return Lending.cancel(self, msg)
