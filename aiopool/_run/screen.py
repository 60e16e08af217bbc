"""Where meters are drawn: a terminal, a notebook, or plain lines now and then; with rich or not.

Bars stand below whatever else the program writes to the terminal: prints, the forwarded output of
workers, and log handlers that took hold of ``sys.stderr`` long ago. Therefore the terminal's
streams are not replaced, as rich's ``Live`` does, which handlers do not see and which sends what
is meant for stdout to stderr. Their ``write`` is: it wipes the bars away before it writes. They
come back at the next look, when the line that was written has its end. What C code and child
processes write to the terminal is not seen.

Rich lays out and colours; it is loaded when the first bar is drawn. A notebook is rich's to tell,
and ``IPython.display``, which is loaded wherever there is one, shows it in the cell.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TextIO, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console, RenderableType

_BAR_EVERY: Final = 0.2
_LINE_EVERY: Final = 5.0
_LINE_EVERY_AT_MOST: Final = 60.0
_BAR_WIDTH: Final = 20
_PAGE_WIDTH: Final = 100


class View(NamedTuple):
    """What there is to show of one meter: a line in words, and lines below it."""

    name: str
    done: int
    total: int | None
    text: str
    below: tuple[str, ...]
    age: float


class Display(Protocol):
    """Something to show one meter on."""

    def show(self, view: View, /, *, last: bool) -> float:
        """Show it, for good if it is the last; seconds until showing it again is of use."""

    def drop(self) -> None:
        """Show it no more."""


def open_display() -> Display | None:
    """Where a meter that begins now is to be shown, None if nobody would see it."""
    stream = sys.stderr
    try:
        if "IPython.display" in sys.modules and _console().is_jupyter:
            return _Cell()
        if stream is None or _is_closed(stream):
            return None
        if _is_terminal(stream) and _can_be_wiped(_console()):
            return _Bar()
    except ImportError:  # rich comes with an extra
        pass
    return _Lines()


@final
class _Lines:
    """Plain lines, the farther between the longer it takes."""

    def show(self, view: View, /, *, last: bool) -> float:
        """Write a line."""
        del last
        sys.stderr.write(f"{view.name}: {view.text}\n")
        return min(max(_LINE_EVERY, view.age / 10), _LINE_EVERY_AT_MOST)

    def drop(self) -> None:
        """Lines stand as they are."""


@final
class _Cell:
    """A part of a notebook cell's output."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, view: View, /, *, last: bool) -> float:
        """Put it where it was before."""
        del last
        content = _page(view)
        if self._handle is None:
            display = sys.modules["IPython.display"].display
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
        return _BAR_EVERY

    def drop(self) -> None:
        """It stands as it is."""


@final
class _Bar:
    """One meter in the terminal."""

    def show(self, view: View, /, *, last: bool) -> float:
        """Draw it with all others, or above them for good."""
        if last:
            _terminal.leave(self, view)
        else:
            _terminal.put(self, view)
        return _BAR_EVERY

    def drop(self) -> None:
        """Draw it no more."""
        _terminal.leave(self, None)


@final
class _Terminal:
    """The bars that stand at the end of a terminal's text, in any number, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._views: dict[_Bar, View] = {}
        self._height = 0  # lines that the bars take up now
        self._amid_line = False  # what was written last has not ended its line
        self._due = 0.0  # when to draw again, for bars that look one after the other
        self._streams: set[TextIO] = set()  # that are the terminal's, while there are bars
        self._undo: list[Callable[[], None]] = []  # so that they are as they were
        self._console: Console
        self._stream: TextIO  # to draw on
        self._write_err: Callable[[str], int]

    def put(self, bar: _Bar, view: View) -> None:
        """Show a bar, and the others as they were."""
        with self._lock:
            if not self._undo:
                self._watch()
            due = bar not in self._views or monotonic() >= self._due
            self._views[bar] = view
            if due and not self._amid_line:
                self._draw()

    def leave(self, bar: _Bar, view: View | None) -> None:
        """Take a bar out, and leave that view of it standing above the others."""
        with self._lock:
            try:
                if self._views.pop(bar, None) is not None:
                    self._draw("" if view is None else _drawn(self._console, [view]))
            finally:
                if not self._views:
                    self._unwatch()

    def _draw(self, above: str = "") -> None:
        """Draw all anew, below what is to stay."""
        if above and self._amid_line:
            above = f"\n{above}"
            self._amid_line = False
        views = () if self._amid_line else self._views.values()
        lines = _drawn(self._console, views).splitlines(keepends=True)
        del lines[max(1, self._console.height - 1) :]
        for stream in self._streams:
            if not stream.closed:
                stream.flush()  # what was written first comes first
        self._put_out(self._wiping() + above + "".join(lines))
        self._height = len(lines)
        self._due = monotonic() + _BAR_EVERY / 2

    def _put_out(self, text: str) -> None:
        self._write_err(text)
        self._stream.flush()

    def _wiping(self) -> str:
        """What takes the bars off a terminal: up to the first, and clear from there."""
        height, self._height = self._height, 0
        return f"\r\x1b[{height}A\x1b[J" if height else ""

    def _watch(self) -> None:
        """Have the terminal's streams wipe the bars away before they write."""
        self._amid_line = False
        self._console = _console()
        self._stream, self._write_err = sys.stderr, sys.stderr.write
        self._streams = {each for each in (sys.stdout, sys.stderr) if _is_terminal(each)}
        for stream in self._streams:
            own = vars(stream).get("write")
            stream.write = partial(self._write, stream.write)  # type: ignore[method-assign]
            self._undo.append(partial(_restore, stream, own))

    def _unwatch(self) -> None:
        self._streams.clear()
        undo, self._undo = self._undo, []
        for act in undo:
            act()

    def _write(self, write: Callable[[str], int], text: str, /) -> int:
        with self._lock:
            if self._height:
                with suppress(Exception):  # the bars' trouble is not that of who writes
                    self._put_out(self._wiping())
            if text:
                self._amid_line = not text.endswith("\n")
            return write(text)


def _restore(stream: TextIO, write: Any) -> None:  # noqa: ANN401 - the stream's own, if any
    if write is None:
        del stream.write
    else:
        stream.write = write  # type: ignore[method-assign]


_terminal: Final = _Terminal()

if hasattr(os, "register_at_fork"):  # the child has no bars, and perhaps the lock, taken
    os.register_at_fork(after_in_child=_terminal.__init__)


def _is_terminal(stream: TextIO | None) -> bool:
    isatty = getattr(stream, "isatty", None)  # which not everything has that stands in for stderr
    return isatty is not None and not _is_closed(stream) and bool(isatty())


def _is_closed(stream: TextIO | None) -> bool:
    return bool(getattr(stream, "closed", False))


def _can_be_wiped(console: Console) -> bool:
    return not (console.is_dumb_terminal or console.legacy_windows)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _drawn(console: Console, views: Iterable[View]) -> str:
    with console.capture() as captured:
        for view in views:
            console.print(_layout(view))
    return captured.get()


def _page(view: View) -> dict[str, str]:
    """A view as a notebook takes it: as text, and as HTML."""
    from rich.console import Console

    console = Console(file=io.StringIO(), record=True, force_jupyter=False, width=_PAGE_WIDTH)
    console.print(_layout(view))
    html = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>", clear=False)
    return {"text/plain": console.export_text(), "text/html": html}


def _layout(view: View) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    line: list[RenderableType] = [Text(view.name), Text(view.text)]
    if view.total:
        line.insert(1, ProgressBar(view.total, view.done, width=_BAR_WIDTH))
    grid = Table.grid(*("" for _ in line), padding=(0, 1))
    for column in grid.columns:
        column.no_wrap = True
    grid.add_row(*line)
    below = [Text(f"  {text}", no_wrap=True, overflow="ellipsis") for text in view.below]
    return Group(grid, *below)
