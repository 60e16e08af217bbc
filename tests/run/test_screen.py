"""Where meters are drawn: bars in a terminal below all other text, cells of a notebook, lines."""

import asyncio
import builtins
import io
import logging
import re
import sys
import types

import pytest

from aiopool import Meter, Pool
from aiopool._run import screen
from aiopool._run.screen import View
from tests.run.support import double
from tests.terminal import Stream, open_terminal

__all__ = ["open_terminal"]

DRAWN = re.compile(r"(\w+) ━+[╸╺]?━* (\d+) of (\d+)")


def view(name="x", done=1, total=4, *below):
    return View(name, done, total, f"{done} of {total}", below, 0.0)


def bar():
    opened = screen.open_display()
    assert type(opened) is screen._Bar
    return opened


def shown(lines):
    """Give the name and the counts of each bar among some lines, other lines as they are."""
    bars = [DRAWN.match(line) for line in lines]
    return [each.groups() if each else line for each, line in zip(bars, lines, strict=True)]


def draw(one, *args, last=False):
    """Draw as if there were nothing that was drawn just now."""
    screen._terminal._due = 0.0
    one.show(view(*args), last=last)


async def test_a_bar_in_a_terminal(open_terminal):
    """In a terminal a bar stands below what is printed, and stays when it has ended."""
    terminal = open_terminal()

    async def talk(x):
        print("talking", x)
        return x

    async with Pool() as pool:
        assert await pool.map(talk, [1, 2], progress=True, name="talk") == [1, 2]
    assert shown(terminal.lines) == ["talking 1", "talking 2", ("talk", "2", "2"), ""]


def test_prints_pass_above_a_bar(open_terminal):
    """What is printed to either stream stands above the bar as it was printed."""
    terminal = open_terminal()
    one = bar()
    draw(one)
    print("to stdout")
    assert terminal.lines == ["to stdout", ""]
    draw(one, "x", 2)
    print("to stderr", file=sys.stderr)
    draw(one, "x", 3)
    assert shown(terminal.lines) == ["to stdout", "to stderr", ("x", "3", "4"), ""]
    draw(one, "x", 4, last=True)
    assert shown(terminal.lines) == ["to stdout", "to stderr", ("x", "4", "4"), ""]


def test_a_handler_that_holds_the_stream(open_terminal):
    """A log handler that took hold of stderr before the bar began writes above it, too."""
    terminal = open_terminal()
    handler = logging.StreamHandler()
    one = bar()
    draw(one)
    handler.emit(logging.makeLogRecord({"msg": "logged"}))
    draw(one)
    assert shown(terminal.lines) == ["logged", ("x", "1", "4"), ""]
    one.drop()
    assert terminal.lines == ["logged", ""]


def test_an_unfinished_line_is_not_torn(open_terminal):
    """While a line is being written no bar is drawn, and the last view stands below it."""
    terminal = open_terminal()
    one, two = bar(), bar()
    draw(one)
    print("half of", end="")
    draw(one, "x", 2)
    draw(two, "y")
    draw(two, "y", 4, last=True)
    print("a line")
    draw(one, "x", 3)
    assert shown(terminal.lines) == ["half of", ("y", "4", "4"), "a line", ("x", "3", "4"), ""]
    one.drop()


def test_several_bars(open_terminal):
    """Bars stand below one another, and one that ends stands above those that go on."""
    terminal = open_terminal()
    one, two = bar(), bar()
    draw(one, "x")
    draw(two, "y", 1, 4, "more", "and more")
    assert shown(terminal.lines) == [("x", "1", "4"), ("y", "1", "4"), "  more", "  and more", ""]
    draw(two, "y", 4, last=True)
    draw(one, "x", 2)
    assert shown(terminal.lines) == [("y", "4", "4"), ("x", "2", "4"), ""]
    one.drop()


def test_bars_that_look_one_after_the_other_are_drawn_together(open_terminal):
    """A bar that was drawn with another just now is drawn again only a moment later."""
    terminal = open_terminal()
    one, two = bar(), bar()
    draw(one, "x")
    draw(two, "y")
    before = terminal.text
    one.show(view("x", 2), last=False)
    assert terminal.text == before
    draw(two, "y")
    assert shown(terminal.lines) == [("x", "2", "4"), ("y", "1", "4"), ""]
    one.drop()
    two.drop()


def test_more_bars_than_lines(open_terminal, monkeypatch):
    """No more is drawn than the terminal has lines, so that all of it can be wiped away."""
    terminal = open_terminal()
    monkeypatch.setenv("LINES", "4")
    one = bar()
    draw(one, "x", 1, 4, *"abcdef")
    assert shown(terminal.lines) == [("x", "1", "4"), "  a", "  b", ""]
    draw(one, "x", 2, last=True)
    assert shown(terminal.lines) == [("x", "2", "4"), ""]


def test_stdout_that_is_a_file(open_terminal, monkeypatch):
    """What is printed to a file arrives there alone, and the bar stays where it is."""
    terminal = open_terminal()
    file = Stream(io.BytesIO(), terminal=False)
    monkeypatch.setattr(sys, "stdout", file)
    one = bar()
    draw(one)
    print("for the file")
    assert file.text == "for the file\n"
    assert shown(terminal.lines) == [("x", "1", "4"), ""]
    one.drop()


def test_a_stream_with_a_write_of_its_own(open_terminal):
    """A stream whose `write` was replaced before has the replacement again afterwards."""
    open_terminal()
    written = []
    sys.stdout.write = written.append
    one = bar()
    draw(one)
    print("heard")
    one.drop()
    print("again")
    assert "".join(written) == "heard\nagain\n"
    del sys.stdout.write


def test_bars_that_cannot_be_wiped_leave_prints_alone(open_terminal, monkeypatch):
    """A terminal that takes no bars any more takes prints to another stream as before."""
    open_terminal()
    monkeypatch.setattr(sys, "stdout", Stream(io.BytesIO()))
    one = bar()
    draw(one)
    sys.stderr.close()
    print("still here")
    assert sys.stdout.text == "still here\n"
    with pytest.raises(ValueError, match="closed"):
        draw(one)
    with pytest.raises(ValueError, match="closed"):
        one.drop()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_closed_stdout(when, open_terminal, monkeypatch):
    """A stdout that is closed, or closes, is no business of the bars on stderr."""
    terminal = open_terminal()
    monkeypatch.setattr(sys, "stdout", Stream(io.BytesIO()))
    if when == "before":
        sys.stdout.close()
    one = bar()
    draw(one)
    sys.stdout.close()
    draw(one, "x", 2)
    draw(one, "x", 4, last=True)
    assert shown(terminal.lines) == [("x", "4", "4"), ""]


async def test_a_stream_that_cannot_be_watched(open_terminal, monkeypatch, caplog):
    """Where a stream's `write` cannot be replaced no bar is drawn, and the other one's is back."""
    terminal = open_terminal()

    class Fixed:
        __slots__ = ()

        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Fixed())
    with Meter("x", lambda: (1, 4)):
        assert not terminal.text
    assert "the progress display of x ended" in caplog.text
    assert not screen._terminal._undo


async def test_a_terminal_that_closes_ends_the_bar(open_terminal, caplog):
    """Work goes on when its terminal is closed half way, and the streams are let go of."""
    open_terminal()
    with Meter("x", lambda: (1, 4)):
        sys.stderr.close()
    assert "the progress display of x ended" in caplog.text


async def test_lines_in_a_dumb_terminal(open_terminal, monkeypatch):
    """A terminal in which nothing can be wiped gets plain lines."""
    terminal = open_terminal()
    monkeypatch.setenv("TERM", "dumb")
    async with Pool() as pool:
        assert await pool.map(double, [1, 2], progress=True) == [2, 4]
    assert "double: 0 of 2" in terminal.lines


async def test_lines_without_rich(open_terminal, monkeypatch):
    """Where rich is not installed a terminal gets plain lines."""
    terminal = open_terminal()
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    with Meter("plain", lambda: (0, None)):
        pass
    assert "plain: 0" in terminal.lines


def test_lines_grow_rare(capsys):
    """The longer it takes, the farther the lines are apart, up to a minute."""
    line = screen._Lines()
    ages = [0.0, 40.0, 100.0, 6_000.0]
    assert [line.show(view()._replace(age=age), last=False) for age in ages] == [5, 5, 10, 60]
    assert capsys.readouterr().err == "x: 1 of 4\n" * 4


async def test_a_notebook(monkeypatch, capsys):
    """In a notebook a display of the cell's is drawn and drawn again, and no stream is used."""
    pytest.importorskip("rich")
    drawn = []

    class ZMQInteractiveShell:
        """As rich knows a notebook."""

    def update(content, *, raw):
        assert raw
        drawn.append(content)

    def display(content, *, raw, display_id):
        assert raw
        assert display_id is True
        drawn.append(content)
        return types.SimpleNamespace(update=update)

    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    with Meter("<x>", lambda: (1, 4)):
        await asyncio.sleep(0)
    assert capsys.readouterr() == ("", "")
    first, last = drawn
    assert first["text/plain"].startswith("<x> ━")
    assert "1 of 4" in first["text/html"]
    assert "&lt;x&gt;" in first["text/html"]
    assert "1 of 4 in " in last["text/plain"]
