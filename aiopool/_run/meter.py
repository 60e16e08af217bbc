"""The live line of ``map(..., progress=True)``: how many calls have ended, of how many, how fast.

It looks at the counts a few times a second instead of being told of every call, so it costs the
work nothing. With rich and a terminal it is a bar; otherwise plain lines, seconds apart. Whatever
goes wrong with drawing ends the drawing and never the work.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_log: Final = logging.getLogger("aiopool")
_BAR_EVERY: Final = 0.1
_LINE_EVERY: Final = 5.0


class Display(Protocol):
    """Something to show counts on."""

    every: float

    def update(self, done: int, total: int | None) -> None:
        """Show how many calls have ended, of how many if that is known."""

    def close(self) -> None:
        """Leave the last state standing."""


@asynccontextmanager
async def shown(name: str, counts: Callable[[], tuple[int, int | None]]) -> AsyncIterator[None]:
    """Show what ``counts`` returns, calls ended and calls in all, while the block runs."""
    drawing = asyncio.get_running_loop().create_task(_draw(_display(name), counts))
    try:
        yield
    finally:
        drawing.cancel()
        with suppress(asyncio.CancelledError):
            await drawing


async def _draw(display: Display, counts: Callable[[], tuple[int, int | None]]) -> None:
    try:
        try:
            while True:
                display.update(*counts())
                await asyncio.sleep(display.every)
        finally:
            display.update(*counts())
            display.close()
    except Exception as error:  # noqa: BLE001 - a closed stderr is no reason to stop working
        _log.warning("the progress display ended: %r", error)


def _display(name: str) -> Display:
    if sys.stderr is None or not sys.stderr.isatty():
        return _Lines(name)
    try:
        return _Bar(name)
    except ImportError:  # rich comes with an extra
        return _Lines(name)


class _Bar:
    """A bar in a terminal, drawn by rich."""

    every = _BAR_EVERY

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._began = monotonic()
        self._task = self._progress.add_task(name, total=None, rate="")
        self._progress.start()

    def update(self, done: int, total: int | None) -> None:
        rate = _rate(done, self._began)
        self._progress.update(self._task, completed=done, total=total, rate=rate)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """Plain lines where there is no terminal, or no rich."""

    every = _LINE_EVERY

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = monotonic()

    def update(self, done: int, total: int | None) -> None:
        of = "" if total is None else f" of {total}"
        sys.stderr.write(f"{self._name}: {done}{of}, {_rate(done, self._began)}\n")

    def close(self) -> None:
        """Lines stand as they are."""


def _rate(done: int, began: float) -> str:
    seconds = monotonic() - began
    return f"{done / seconds:,.0f}/s" if seconds > 0 else ""
