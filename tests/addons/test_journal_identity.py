"""What a call is known by: digests that are the same in any process, and versions of functions."""

import collections
import dataclasses
import datetime as dt
import enum
import fractions
import math
import pathlib
import threading
from functools import partial

import pytest

from aiopool._journal.identity import digest, task_of, version_of
from tests.helpers import run_python


@dataclasses.dataclass
class Point:
    x: int
    tags: frozenset = frozenset()


class Color(enum.Enum):
    RED = 1


class Words(frozenset):
    pass


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def times(self, x):
        return x * self.factor


class Twice(Scale):
    def __call__(self, x):
        return 2 * self.factor * x


def cyclic():
    items = [1]
    items.append(items)
    return items


def nested():
    def inner(n):
        return n and inner(n - 1)

    return inner


WORDS = ["".join(letters) for letters in ("alpha", "beta", "gamma", "delta", "epsilon")]

DIFFERENT = [
    None,
    True,
    1,
    1.0,
    1j,
    -0.0,
    0.0,
    math.nan,
    "1",
    b"1",
    "",
    "\ud800",
    (),
    [],
    {},
    set(),
    frozenset(),
    Words(),
    Words(WORDS),
    (1, 2),
    [1, 2],
    ((1,), 2),
    (1, (2,)),
    {1: 2},
    {2: 1},
    {1, 2},
    bytearray(b"1"),
    Point(1),
    Point(1, frozenset(WORDS)),
    Color.RED,
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    fractions.Fraction(1, 2),
    pathlib.PurePosixPath("a"),
    collections.OrderedDict(a=1),
    collections.Counter("aab"),
    collections.deque([1]),
    range(3),
    Point,
    math.sqrt,
    len,
    [].append,
    threading,
    cyclic(),
    nested(),
    lambda x: x,
    lambda x: x + 1,
    lambda x, y=1: x,
    lambda x, *, y=2: x,
    partial(max, 1),
    partial(max, 2),
    partial(max, key=len),
    Scale(1),
    Scale(1).times,
]


def test_different_things_have_different_digests():
    """No two of many kinds of things share a digest."""
    assert len({digest(each) for each in DIFFERENT}) == len(DIFFERENT)


def test_equal_things_have_one_digest():
    """Neither identity nor the order of sets and dicts changes a digest."""
    one, other = (b"a word".decode() for _ in range(2))
    assert one is not other
    pairs = [
        ((one, one), (one, other)),
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ({*WORDS}, {*reversed(WORDS)}),
        (Point(1, frozenset(WORDS)), Point(1, frozenset(reversed(WORDS)))),
        (cyclic(), cyclic()),
        (nested(), nested()),
    ]
    for left, right in pairs:
        assert digest(left) == digest(right), left


IN_ANOTHER = """
from tests.addons import test_journal_identity as t
print(*[t.digest(each).hex() for each in t.DIFFERENT])
"""


def test_digests_are_those_of_any_process(monkeypatch):
    """Another process, with another seed for hashes, finds the same digests."""
    found = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        done = run_python("-c", IN_ANOTHER)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert found[0] == found[1]


@pytest.mark.parametrize("thing", [threading.Lock(), (n for n in ()), memoryview(b"")])
def test_what_has_no_digest(thing):
    """What cannot be pickled for want of a content has no digest."""
    with pytest.raises(TypeError):
        digest([thing])


def test_names_of_tasks():
    """A task is named by where its function is defined, a partial by what it calls."""
    here = __name__
    assert task_of(nested) == f"{here}.nested"
    assert task_of(partial(partial(nested), 1)) == f"{here}.nested"
    assert task_of(Scale(1)) == f"{here}.Scale"
    assert task_of(Scale(1).times) == f"{here}.Scale.times"
    assert task_of(math.sqrt) == "math.sqrt"
    assert task_of(str.upper) == task_of("a".upper) == "builtins.str.upper"
    assert task_of(dt.date.isoformat) == "datetime.date.isoformat"


def versions(*functions):
    return len({version_of(each, None, keyed=False) for each in functions})


def test_a_version_follows_the_code():
    """Other code, defaults, bound values or state make another version."""
    made = [compiled("x + 1"), compiled("x + 2"), compiled("x.real"), compiled("x.imag")]
    assert versions(*made, *made) == 4
    assert versions(compiled("x", "x, y=1"), compiled("x", "x, y=2")) == 2
    assert versions(Scale(1), Scale(1), Scale(2), Twice(1)) == 3
    assert versions(Scale(1).times, Scale(2).times) == 2
    assert versions(partial(nested, 1), partial(nested, 1), partial(nested, 2)) == 2


def compiled(body, parameters="x"):
    namespace = {"__name__": "module"}
    exec(f"def f({parameters}):\n    return {body}", namespace)
    return namespace["f"]


def test_a_version_that_is_declared():
    """What is given comes first, then what the function declares; a key needs no digest."""
    fn = compiled("x")
    assert version_of(fn, None, keyed=True) == ""
    fn.__version__ = 3
    assert version_of(fn, None, keyed=False) == version_of(fn, None, keyed=True) == "3"
    assert version_of(fn, 4, keyed=False) == "4"
    assert version_of(partial(fn, 1), None, keyed=True) == "3"
    assert len({version_of(partial(fn, bound), 4, keyed=False) for bound in (1, 2, 2)}) == 2
