"""How far a piece of work has come, shown while it runs: counts, rate, and the time it will take.

A meter looks at the counts a few times a second instead of being told of every call, so the work
pays nothing for it; and it looks less often where looking or drawing is slow, so that together
they do not take more than a hundredth of a processor's time. Whatever goes wrong with drawing
ends the drawing and never the work. Where it is drawn is ``screen.py``'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from datetime import timedelta
from time import monotonic, thread_time
from typing import TYPE_CHECKING, Final, TypeAlias, final

from aiopool._run.screen import View, open_display

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from aiopool._run.screen import Display

    Counts: TypeAlias = tuple[int, int | None, *tuple[str, ...]]

_log: Final = logging.getLogger("aiopool")

_SHARE: Final = 0.01
"""What looking and drawing may take of one processor's time."""

_WINDOW: Final = 30.0
"""Seconds over which the rate is measured."""


@final
class Meter:
    """A live display on stderr while a ``with`` block runs: ``name``, counts, rate and time left.

    ``counts()`` is called a few times a second and returns what is done, how much there is in all
    or None if nobody knows, and further strings if there is more to say: the first goes on the
    same line, each other one on a line of its own below. In a terminal and in a notebook rich
    draws it; elsewhere, and without rich, it is a plain line now and then. To be used on the
    thread of a running event loop, else it raises RuntimeError; what goes wrong later, in
    ``counts`` too, ends the display and is logged.
    """

    def __init__(self, name: str, counts: Callable[[], Counts]) -> None:
        self._name = name
        self._counts = counts
        self._pace: _Pace
        self._display: Display | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self.begin()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def begin(self) -> None:
        """Show it from now on."""
        self._loop = asyncio.get_running_loop()
        try:
            self._pace = _Pace(self._counts()[0], monotonic())
            self._display = open_display()
        except Exception:  # noqa: BLE001 - whatever stderr is, it is no reason not to work
            self._fail()
        self._look_after(self._show(last=False))

    def end(self) -> None:
        """Leave the last state standing; does nothing if it has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._show(last=True)
        self._display = None

    def _look(self) -> None:
        began = thread_time()
        pause = self._show(last=False)
        self._look_after(max(pause, (thread_time() - began) / _SHARE))

    def _look_after(self, pause: float) -> None:
        if self._display is not None:
            self._timer = self._loop.call_later(pause, self._look)

    def _show(self, *, last: bool) -> float:
        """Draw; seconds until there is a point in drawing again."""
        if self._display is not None:
            try:
                return self._display.show(self._view(last=last), last=last)
            except Exception:  # noqa: BLE001 - a closed stderr is no reason to stop working
                self._fail()
        return 0.0

    def _view(self, *, last: bool) -> View:
        done, total, *more = self._counts()
        beside, below = more[:1], () if last else tuple(more[1:])
        words = self._pace.words(done, total, monotonic(), last=last)
        text = ", ".join(filter(None, [words, *beside]))
        return View(self._name, done, total, text, below, monotonic() - self._pace.began)

    def _fail(self) -> None:
        display, self._display = self._display, None
        with suppress(Exception):  # logging may be writing to the very stream that is broken
            _log.warning("the progress display of %s ended", self._name, exc_info=True)
        with suppress(Exception):
            if display is not None:
                display.drop()


@final
class _Pace:
    """How fast it goes, at the moment and on the whole."""

    def __init__(self, done: int, now: float) -> None:
        self.began = now
        self._first = done
        self._seen = deque([(now, done)])

    def words(self, done: int, total: int | None, now: float, *, last: bool) -> str:
        """Such as ``50 of 100, 12/s, 4.2 s left``."""
        counted = f"{done:,}" if total is None else f"{done:,} of {total:,}"
        took = now - self.began
        if last:
            speed = _speed((done - self._first) / took if took > 0 else 0.0)
            return ", ".join(filter(None, [f"{counted} in {_clock(took)}", speed]))
        rate = self._rate(done, now)
        left = "" if total is None or not rate else f"{_clock((total - done) / rate)} left"
        return ", ".join(filter(None, [counted, _speed(rate), left]))

    def _rate(self, done: int, now: float) -> float:
        """Calls a second over the last half minute, or between the last two looks."""
        seen = self._seen
        seen.append((now, done))
        while len(seen) > 2 and seen[1][0] <= now - _WINDOW:  # noqa: PLR2004 - as above
            seen.popleft()
        since, before = seen[0]
        return (done - before) / (now - since) if now > since else 0.0


def _speed(rate: float) -> str:
    if rate <= 0:
        return ""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"  # noqa: PLR2004 - two digits


def _clock(seconds: float) -> str:
    if seconds < 10:  # noqa: PLR2004 - one digit
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds)))
