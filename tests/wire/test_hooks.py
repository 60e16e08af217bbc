"""Which objects may be pickled at once, and which may take their time."""

import collections
import copyreg
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import pathlib
import re
import uuid

import numpy as np
import pytest

from aiopool._wire import hooks
from aiopool._wire.pickling import Unhurried, unpack
from tests import jobs


@pytest.fixture(autouse=True)
def _know_nothing(monkeypatch):
    """Begin with no type known, and leave none behind."""
    monkeypatch.setattr(hooks, "_quick", {})


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int


class Plain:
    pass


class Reduces:
    def __reduce__(self):
        return Reduces, ()


class HasState:
    def __getstate__(self):
        return {"state": 1}


class HasArguments(tuple):
    __slots__ = ()

    def __getnewargs__(self):
        return (tuple(self),)


class Registered:
    pass


ORDINARY = [
    [1, {"a": (2.5, {3})}],
    Plain(),
    Point(1),
    Colour.RED,
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 3),
    collections.OrderedDict(a=1),
    functools.partial(jobs.inc, 1),
    pathlib.Path("/"),
    re.compile("x"),
    uuid.UUID(int=1),
    jobs.inc,
    Plain,
    ValueError("text"),
]
ODD = [Reduces(), HasState(), HasArguments((1,)), np.zeros(3)]  # NumPy's is code of its own, too


@pytest.mark.parametrize("obj", ORDINARY, ids=repr)
def test_ordinary_objects_are_packed_at_once(obj):
    """What has no code of its own for it is pickled there and then."""
    back = unpack(hooks.pack_at_once((obj,)))
    assert type(back[0]) is type(obj)


@pytest.mark.parametrize("obj", ODD, ids=lambda obj: type(obj).__name__)
@pytest.mark.parametrize("wrap", [lambda obj: (obj,), lambda obj: ({"deep": [obj]},)])
def test_objects_with_code_of_their_own_are_not(obj, wrap):
    """Such an object stops the pickler, however deep it lies, until it was seen to be quick."""
    with pytest.raises(Unhurried):
        hooks.pack_at_once(wrap(obj))
    packed = hooks.pack_in_time(wrap(obj))
    assert type(unpack(packed)) is tuple
    assert unpack(hooks.pack_at_once(wrap(obj))) is not None


def test_registered_reducers(monkeypatch):
    """A function registered with copyreg for a type counts as the type's own code."""
    monkeypatch.setitem(copyreg.dispatch_table, Registered, lambda obj: (Registered, ()))
    with pytest.raises(Unhurried):
        hooks.pack_at_once((Registered(),))


def test_slow_ones_are_remembered(monkeypatch):
    """A type that was not quick is pickled in its time again and again."""
    monkeypatch.setattr(hooks, "QUICK", 0)
    for _ in range(2):
        hooks.pack_in_time((Reduces(),))
        with pytest.raises(Unhurried):
            hooks.pack_at_once((Reduces(),))


def test_what_is_known_is_bounded(monkeypatch):
    """However many types pass, few are kept."""
    monkeypatch.setattr(hooks, "_MOST_TYPES", 10)
    for number in range(40):
        hooks._is_quick(type(f"Type{number}", (), {}))
        assert len(hooks._quick) <= 10
