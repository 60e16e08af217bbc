"""A terminal to draw on, and what can be read on it in the end."""

import io
import re

import pytest

TOKEN = re.compile(
    r"\x1b\[(?P<count>\d*)(?P<move>[AJ])|\x1b\[[\d;?]*[a-zA-Z]|(?P<text>.)", re.DOTALL
)


def read(text):
    """Give the lines that stand on a terminal after it has received a text."""
    lines, row, column = [""], 0, 0
    for token in TOKEN.finditer(text):
        if token["move"] == "A":
            row -= int(token["count"])
            assert row >= 0, "moved above the first line"
        elif token["move"] == "J":
            del lines[row + 1 :]
            lines[row] = lines[row][:column]
        elif token["text"] == "\r":
            column = 0
        elif token["text"] == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif token["text"]:
            line = lines[row]
            lines[row] = line[:column] + token["text"] + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


class Stream(io.TextIOWrapper):
    """A text stream that is a terminal's, or a file's."""

    def __init__(self, buffer, *, terminal=True):
        super().__init__(buffer, encoding="utf-8", newline="", line_buffering=True)
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    @property
    def text(self):
        self.flush()
        return self.buffer.getvalue().decode()

    @property
    def lines(self):
        return read(self.text)


@pytest.fixture
def open_terminal(monkeypatch):
    """Give a function that has stdout and stderr be streams of one terminal, and gives stderr.

    The test calls it, because pytest's own capturing begins anew after fixtures are set up.
    """
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    opened = []

    def replace():
        buffer = io.BytesIO()
        for name in ("stdout", "stderr"):
            opened.append(Stream(buffer))
            monkeypatch.setattr(f"sys.{name}", opened[-1])
        return opened[-1]

    yield replace
    assert not [stream for stream in opened if "write" in vars(stream)], "streams are as they were"
