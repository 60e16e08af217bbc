"""The relay on its own: pieces of text in, whole lines out, and what it does with the rest."""

import logging
import sys

import pytest

from aiopool._backends import output
from aiopool._backends.output import Relay, logger_levels
from aiopool._wire.messages import END, FLUSH, LONGEST_LINE, MORE, RECORD, TEXT
from aiopool._wire.pickling import dumps
from tests import jobs


@pytest.fixture
def relay():
    return Relay({0: None, 3: "a task"}.get)


def say(relay, data, how=MORE, descriptor=1):
    relay.received(TEXT, (descriptor, data, how))


def test_lines(relay, capsys):
    """Whole lines are written at once, each to its stream."""
    say(relay, b"one\ntwo\n")
    say(relay, b"three\n", descriptor=2)
    assert capsys.readouterr() == ("one\ntwo\n", "three\n")


def test_pieces_of_a_line(relay, capsys):
    """A line that came in pieces is written when its end has come."""
    say(relay, b"one", FLUSH)
    assert capsys.readouterr().out == ""
    say(relay, b" two\nthr", FLUSH)
    assert capsys.readouterr().out == "one two\n"
    say(relay, b"ee\n")
    assert capsys.readouterr().out == "three\n"


@pytest.mark.parametrize("ending", [lambda relay: say(relay, b"", END), Relay.end])
def test_end(relay, capsys, ending):
    """At the end of a call, or of its worker, the line that was begun is written."""
    say(relay, b"one", FLUSH)
    ending(relay)
    ending(relay)
    assert capsys.readouterr().out == "one"


def test_relays_do_not_mix_lines(capsys):
    """Lines begun by two workers are written one after the other."""
    one, other = Relay(str), Relay(str)
    for relay, text in ((one, b"1"), (other, b"2")) * 3:
        say(relay, text, FLUSH)
    say(other, b"\n")
    say(one, b"\n")
    assert capsys.readouterr().out == "222\n111\n"


def test_a_line_that_does_not_end(relay, capsys):
    """No more is held of a line than it may be long."""
    piece = b"x" * (LONGEST_LINE // 4)
    for _ in range(6):
        say(relay, piece, FLUSH)
    shown = len(capsys.readouterr().out)
    assert shown >= LONGEST_LINE
    relay.end()
    assert shown + len(capsys.readouterr().out) == 6 * len(piece)


class Stream:
    """Writes down what is done to it."""

    def __init__(self):
        self.done = []

    def write(self, text):
        self.done.append(text)

    def flush(self):
        self.done.append("flush")


def test_flushing(relay, monkeypatch):
    """The parent's stream is flushed when the call flushed its own, and not for every line."""
    monkeypatch.setattr(sys, "stdout", Stream())
    say(relay, b"one\n")
    say(relay, b"", FLUSH)
    say(relay, b"two\n")
    assert sys.stdout.done == ["one\n", "flush", "two\n"]


def test_record(relay, caplog):
    """A record arrives with the fields of both kinds and the name of its call."""
    fields = {"name": "tests.relay", "levelno": logging.ERROR, "msg": "text", "args": None}
    relay.received(RECORD, (3, fields, dumps({"pair": (1, 2)})))
    relay.received(RECORD, (0, {**fields}, b""))
    first, second = caplog.records
    assert (first.name, first.msg, first.taskName, first.pair) == (
        "tests.relay",
        "text",
        "a task",
        (1, 2),
    )
    assert second.taskName is None


@pytest.mark.parametrize("field", [jobs.UnpickleRaises(), SystemExit])
def test_fields_that_do_not_unpickle(relay, caplog, field):
    """A record whose fields raise when they are unpickled here arrives without them."""
    code = dumps({"field": Exits() if field is SystemExit else field})
    fields = {"name": "tests.relay", "levelno": logging.ERROR, "msg": "text"}
    relay.received(RECORD, (0, fields, code))
    (record,) = caplog.records
    assert not hasattr(record, "field")


class Exits:
    def __reduce__(self):
        return sys.exit, (1,)


def test_levels():
    """The levels are those that loggers have of their own, and the root logger's."""
    root = logging.getLogger()
    logging.getLogger("tests.levels").setLevel(17)
    logging.getLogger("tests.levels.none")
    try:
        levels = logger_levels()
    finally:
        logging.getLogger("tests.levels").setLevel(logging.NOTSET)
    assert levels["tests.levels"] == 17
    assert levels["root"] == root.level
    assert "tests.levels.none" not in levels


@pytest.mark.filterwarnings("ignore")
def test_warnings_seen_are_few(monkeypatch):
    """What is kept of warnings that were shown does not grow without bound."""
    monkeypatch.setattr(output, "_MOST_SEEN", 10)
    for number in range(50):
        output._warn(dumps((UserWarning(str(number)), UserWarning)), "file.py", number)
        assert len(output._seen) <= 12
