"""Values and exceptions as bytes for a later process."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopool import NotTransferable, RemoteError, preserve, restore
from tests import jobs
from tests.helpers import run_python


@given(st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists))
def test_values(value):
    """A value comes back equal."""
    assert restore(preserve(value)) == value


def test_what_has_no_name():
    """What plain pickle cannot is kept by value."""
    offset = 2
    assert restore(preserve(lambda x: x + offset))(1) == 3


def test_an_exception():
    """An exception keeps type, arguments, notes, cause and the text of its traceback."""
    try:
        try:
            jobs.fail(1)
        except ValueError as why:
            raise KeyError("k") from why
    except KeyError as error:
        error.add_note("a note")
        copy = restore(preserve(error))
    assert type(copy) is KeyError and copy.args == ("k",) and copy.__notes__ == ["a note"]
    assert type(copy.__cause__) is ValueError
    assert "in fail" in str(copy.__cause__.__cause__)


def test_an_exception_that_cannot_be_pickled():
    """What stands in for such an exception says what it was."""
    copy = restore(preserve(ValueError(threading.Lock())))
    assert isinstance(copy, RemoteError) and copy.type_name == "ValueError"


def test_what_cannot_be_kept():
    """The error names what it is, and the part of it that cannot be pickled."""
    with pytest.raises(NotTransferable, match="the result cannot be sent") as caught:
        preserve({"lock": threading.Lock()}, "the result")
    assert caught.value.where == "['lock']"


KEEPS = """
import sys, aiopool

class Point:
    def __init__(self, x):
        self.x = x

if sys.argv[1] == "keep":
    sys.stdout.buffer.write(aiopool.preserve(Point(1)).hex().encode())
else:
    point = aiopool.restore(bytes.fromhex(sys.argv[2]))
    print(type(point) is Point, point.x)
"""


def test_a_class_of_the_main_module():
    """The same program run again gets an instance of its own class."""
    kept = run_python("-c", KEEPS, "keep").stdout
    assert run_python("-c", KEEPS, "again", kept).stdout == "True 1\n"
