"""What is said about an object that cannot be pickled."""

import asyncio
import collections
import copyreg
import functools
import pickle
import re
import socket
import sqlite3
import sys
import threading
import weakref
from dataclasses import dataclass

import pytest

from aiopool._wire.diagnosis import MOST_PROBES, explain
from aiopool._wire.pickling import dumps
from aiopool.errors import NotTransferable
from tests import jobs

LOCK = threading.Lock()


def can_pickle(obj, dumps=dumps):
    try:
        dumps(obj)
    except Exception:  # noqa: BLE001 - that is the question
        return False
    return True


def why_not(obj):
    """Return what pickling it raises."""
    try:
        dumps(obj)
    except BaseException as error:  # noqa: BLE001 - any of them is a reason
        return error
    raise AssertionError(f"{obj!r} can be pickled")


def diagnose(obj, prefix="args", **options):
    options.setdefault("can_pickle", can_pickle)
    error = explain(obj, why_not(obj), what="an argument of crunch()", prefix=prefix, **options)
    assert type(error) is NotTransferable
    return error


def where(obj, prefix="args"):
    return diagnose(obj, prefix).where


def fix(obj):
    return diagnose((obj,)).fix


class Thing:
    """Holds whatever it is told to."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def method(self):
        return self


@dataclass
class Data:
    name: str
    conn: object


@dataclass(slots=True)
class Slotted:
    name: str
    conn: object


class Base:
    __slots__ = ("above",)


class SlotsAndMore(Base):
    """Has slots of its base and a dictionary."""


class OwnDict(dict):
    pass


class OwnList(list):
    def __iter__(self):
        raise RuntimeError("not to be looked at")


class OwnState:
    """Pickles something else than its attributes."""

    def __init__(self, lock, state):
        self.lock = lock
        self.state = state

    def __getstate__(self):
        return self.state

    def __setstate__(self, state):
        raise NotImplementedError


class OwnReduce:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


class OwnItems:
    """Is no container, but pickles like one."""

    def __init__(self, items, pairs):
        self.items = items
        self.pairs = pairs

    def __reduce__(self):
        return Thing, (), None, iter(self.items), iter(self.pairs.items())


# --- the message ----------------------------------------------------------------------------


def test_error_says_what_where_why_and_how():
    """The error names the thing, the part, the pickler's reason and a way out."""
    error = diagnose(({"lock": LOCK},))
    assert error.what == "an argument of crunch()"
    assert error.where == "args[0]['lock']"
    assert error.why == "TypeError: cannot pickle '_thread.lock' object"
    assert "initializer" in error.fix
    assert 'on="thread"' in error.fix
    assert str(error).startswith(
        "an argument of crunch() cannot be sent between processes at args[0]['lock']: TypeError"
    )


def test_thing_itself_may_be_the_culprit():
    """With no part to blame, the place is the path that was given, and no place if none was."""
    assert where(LOCK, "args[0]") == "args[0]"
    error = diagnose(LOCK, "")
    assert error.where == ""
    assert " at :" not in str(error)


def test_error_of_the_argument_is_told():
    """An argument that raises an error of its own while it is pickled is told with that error."""
    error = diagnose((1, jobs.PickleRaises()))
    assert error.where == "args[1]"
    assert error.why == "RuntimeError: cannot be pickled"
    assert "PickleRaises a __reduce__" in error.fix


def test_reason_is_bounded_and_ends_no_sentence():
    """A very long reason is cut; a full stop at its end does not meet the next one."""
    error = explain(LOCK, ValueError("x" * 10_000), what="it", can_pickle=can_pickle)
    assert len(error.why) < 2_000
    error = explain(LOCK, ValueError("no such thing. "), what="it", can_pickle=can_pickle)
    assert error.why == "ValueError: no such thing"
    error = explain(LOCK, ValueError(), what="it", can_pickle=can_pickle)
    assert error.why == "ValueError"


# --- the place ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "place"),
    [
        ([1, 2, LOCK], "args[2]"),
        ((1, [2, (LOCK,)]), "args[1][1][0]"),
        ({"a": 1, "b": {3: LOCK}}, "args['b'][3]"),
        (Thing(a=1, b=LOCK), "args.b"),
        (Data("n", LOCK), "args.conn"),
        (Slotted("n", LOCK), "args.conn"),
        (OwnDict(a=1, b=LOCK), "args['b']"),
        (OwnList([1, LOCK]), "args[1]"),
        (collections.deque([1, LOCK]), "args[1]"),
        (collections.OrderedDict(a=1, b=LOCK), "args['b']"),
        (collections.defaultdict(LOCK.acquire), "args.__reduce__()[1][0].__self__"),
        (OwnState(LOCK, [1, LOCK]), "args.__getstate__()[1]"),
        (OwnReduce(Thing, (), {"x": LOCK}), "args.x"),
        (OwnReduce(Thing, (1, LOCK)), "args.__reduce__()[1][1]"),
        (OwnReduce(LOCK.acquire, ()), "args.__reduce__()[0].__self__"),
        (OwnItems([1, LOCK], {}), "args[1]"),
        (OwnItems([], {1: 2, "k": LOCK}), "args['k']"),
        (functools.partial(jobs.add, 1, LOCK), "args.args[1]"),
        (functools.partial(jobs.add, a=1, b=LOCK), "args.keywords['b']"),
        (functools.partial(Thing(a=LOCK).method), "args.func.__self__.a"),
        (Thing(a=LOCK).method, "args.__self__.a"),
        (LOCK.acquire, "args.__self__"),
    ],
    ids=lambda value: value if type(value) is str else type(value).__name__,
)
def test_place_in_a_structure(obj, place):
    """The part that cannot be pickled is named by the expression that leads to it."""
    assert where(obj) == place


def test_attribute_of_a_partial():
    """An attribute that was set on a partial is a part of it."""
    partial = functools.partial(jobs.add)
    partial.tag = LOCK
    assert where(partial) == "args.tag"


def test_registered_reducer_is_asked(monkeypatch):
    """What `copyreg` knows about a type comes before what its instances say."""
    monkeypatch.setitem(copyreg.dispatch_table, Thing, lambda thing: (Thing, (1, thing.lock)))
    assert where(Thing(lock=LOCK)) == "args.__reduce__()[1][1]"


def test_name_that_leads_nowhere():
    """An object that says it can be found under a name, and cannot, is the culprit itself."""
    thing = Thing()
    thing.thing = type("Named", (), {"__reduce__": lambda _self: "nowhere"})()
    assert where(thing) == "args.thing"


def test_attribute_in_a_slot_beside_a_dictionary():
    """Attributes are found both in the slots of a base class and in the instance's dictionary."""
    thing = SlotsAndMore()
    thing.above, thing.below = 1, LOCK
    assert where(thing) == "args.below"
    thing.above, thing.below = LOCK, 1
    assert where(thing) == "args.above"


def test_items_and_keys_have_no_index():
    """An item of a set, or a key, is named by how it looks, and then goes by that name."""
    assert re.fullmatch(r"args\[0\], item <unlocked _thread.lock .*>", where(({LOCK},)))
    assert re.fullmatch(r"args, item <unlocked _thread.lock .*>", where(frozenset({LOCK})))
    assert re.fullmatch(r"args, key <unlocked _thread.lock .*>", where({LOCK: 1}))
    assert where({("x", LOCK): 1}).endswith(", key[1]")


def test_long_keys_are_cut():
    """A long key does not make a long message."""
    place = where({"k" * 10_000: LOCK})
    assert place.startswith("args['kkk")
    assert len(place) < 100


def test_state_decides_and_not_the_attributes():
    """An attribute that the object does not pickle is not blamed."""
    assert where(OwnState(LOCK, {"conn": LOCK})) == "args.conn"


@pytest.mark.parametrize("position", [0, 1, 499_999, 999_999])
def test_one_item_in_a_million(position):
    """The one bad item of a long list is found by halving, not by trying each."""
    items = [0] * 1_000_000
    items[position] = LOCK
    tried = []

    def counting(obj):
        tried.append(1)
        return can_pickle(obj)

    assert diagnose(items, can_pickle=counting).where == f"args[{position}]"
    assert len(tried) < 30


# --- functions and classes ------------------------------------------------------------------


def make(lock, other=None):
    def inner():
        return lock, other

    return inner


def make_default(lock):
    def inner(a, b=lock, *, c=1):
        return a, b, c

    return inner


def make_keyword_default(lock):
    def inner(a, b=1, *, c=lock):
        return a, b, c

    return inner


def make_class(lock):
    class Local:
        attribute = lock

        def method(self):
            return super().__init__()

    return Local


def make_recursive(lock):
    def first():
        return second, lock

    def second():
        return first

    return first


def make_derived(lock):
    class Derived(make_class(lock)):
        pass

    return Derived


def uses_global():
    return [LOCK for _ in range(3)]


def uses_attribute():
    return jobs.LOCK  # an attribute's name, which a global of this module happens to share


MADE = "of make.<locals>.inner"


@pytest.mark.parametrize(
    ("fn", "place"),
    [
        (make(LOCK), f"closure variable 'lock' {MADE}"),
        (make(1, {"k": LOCK}), f"closure variable 'other' {MADE}, other['k']"),
        (make(1, Thing(a=[LOCK])), f"closure variable 'other' {MADE}, other.a[0]"),
        (make(1, make(LOCK)), f"closure variable 'other' {MADE}, closure variable 'lock' {MADE}"),
        (make_default(LOCK), "default of 'b' of make_default.<locals>.inner"),
        (make_keyword_default(LOCK), "default of 'c' of make_keyword_default.<locals>.inner"),
        (make_recursive(LOCK), "closure variable 'lock' of make_recursive.<locals>.first"),
        (make_class(LOCK), ".attribute"),
        (make_derived(LOCK), ".__bases__[0].attribute"),
        (make_class(LOCK)(), ".__class__.attribute"),
        (make_class(LOCK)().method, ".__self__.__class__.attribute"),
    ],
    ids=lambda value: value if type(value) is str else "",
)
def test_place_in_a_function_or_class(fn, place):
    """What a function or class carries along is named as what it is there."""
    assert where(fn, "") == place


def test_function_among_the_arguments():
    """The place in a function comes after the way to the function."""
    expected = f"args[0], closure variable 'lock' {MADE}"
    assert where((make(LOCK),)) == expected


def by_value(fn):
    """Make a function that cannot be imported, so that its globals are sent along."""
    scope = {"LOCK": LOCK, "jobs": jobs}
    return type(fn)(fn.__code__, scope, fn.__name__)


def test_global_that_a_function_uses():
    """A global is blamed that the function, or one inside it, refers to."""
    assert where(by_value(uses_global), "") == "global 'LOCK' of uses_global"


def test_global_of_the_same_name_as_an_attribute():
    """A global is not blamed for sharing its name with an attribute that the function reads."""
    fn = by_value(uses_attribute)
    fn.tag = LOCK
    assert where(fn, "") == ".tag"


def test_empty_cell_is_no_part():
    """A function that refers to a name not yet assigned can be looked at."""

    def make_early():
        def inner():
            return late, lock

        lock = LOCK
        if lock is None:
            late = 1
        return inner

    place = where(make_early(), "")
    assert place.startswith("closure variable 'lock' of ")


# --- what to do instead ---------------------------------------------------------------------


async def coroutine_function():
    """Make something that must not be sent."""


async def async_generator():
    yield 1


@pytest.fixture(name="closing")
def closing_fixture():
    """Give a list; what is put in it is closed after the test."""
    things = []
    yield things
    for thing in things:
        thing.close()


@pytest.mark.parametrize(
    ("make_it", "advice"),
    [
        (threading.Lock, "initializer"),
        (threading.RLock, "initializer"),
        (threading.Event, "initializer"),
        (threading.local, "initializer"),
        (lambda: threading.Thread(target=print), "initializer"),
        (lambda: (number for number in ()), "list(...)"),
        (lambda: type.__dict__, "dict(...)"),
        (sys._getframe, "text"),
        (lambda: weakref.ref(LOCK), "what it refers to"),
        (jobs.PickleRaises, "PickleRaises a __reduce__"),
    ],
)
def test_advice(make_it, advice):
    """Each kind of thing that cannot be sent comes with what to do instead."""
    thing = make_it()
    assert advice in fix(thing)
    assert where((thing,)) == "args[0]"


@pytest.mark.parametrize(
    ("open_it", "advice"),
    [
        (lambda path: path.open("wb"), "path"),
        (lambda path: path.open("wb", buffering=0), "path"),
        (lambda _path: socket.socket(), "Open it"),
        (lambda _path: asyncio.new_event_loop(), "event loop"),
        (lambda _path: sqlite3.connect(":memory:"), "Open it"),
        (lambda _path: coroutine_function(), "coroutine function itself"),
    ],
)
def test_advice_for_what_is_open(open_it, advice, tmp_path, closing):
    """Files, connections and coroutines come with what to do instead."""
    thing = open_it(tmp_path / "file")
    closing.append(thing)
    assert advice in fix(thing)


def test_advice_for_an_async_generator():
    """An async generator is better given to a stream."""
    assert "pool.stream" in fix(async_generator())


def test_advice_for_a_connection_of_any_driver():
    """What calls itself a connection is treated as one."""

    class FancyConnection(jobs.PickleRaises):
        pass

    assert "Open it" in fix(FancyConnection())


# --- bounds ---------------------------------------------------------------------------------


def test_cycle_back_to_the_whole():
    """Things that refer to what they are part of are not blamed for what is wrong elsewhere."""
    top = Thing()
    top.child = Thing(parent=top)
    top.child.child = Thing(parent=top.child, top=top)
    top.lock = LOCK
    assert where((top,)) == "args[0].lock"


def test_list_in_itself():
    """A list that contains itself can be looked at."""
    items = []
    items += [items, LOCK]
    assert where(items) == "args[1]"


def test_web_without_end():
    """In a long chain of things that refer to each other the culprit near the start is found."""
    top = node = Thing()
    for _ in range(200):
        node.next = Thing(previous=node)
        node = node.next
    top.z = LOCK
    assert where((top,)) == "args[0].z"


def test_deep_inside():
    """A culprit under many layers is found."""
    obj = LOCK
    for _ in range(50):
        obj = [obj]
    assert where(obj) == "args" + "[0]" * 50


def test_too_deep_to_find():
    """Where pickling fails at every depth, only the whole is blamed."""
    obj = []
    for _ in range(100_000):
        obj = [obj]
    assert where(obj) == "args"
    assert diagnose(obj).fix == 'Use on="thread"'


def test_probes_are_bounded():
    """However many parts fail, few are tried, and without certainty the whole is blamed."""
    tried = []

    class Endless:
        def __reduce__(self):
            return print, (Endless(), Endless())

    def trial(obj):
        tried.append(1)
        return "Endless" not in repr(obj)

    error = explain(Endless(), TypeError("no"), what="it", can_pickle=trial, prefix="args")
    assert error.where == "args"
    assert error.fix.startswith('Use on="thread"')
    assert len(tried) == MOST_PROBES


def test_cycle_without_a_culprit_ends_early():
    """Things that only fail for each other are each looked at once, and the whole is blamed."""
    tried = []

    def trial(obj):
        tried.append(1)
        return type(obj) not in {Thing, list}

    top = Thing()
    top.child = Thing(parent=top)
    top.child.child = Thing(parent=top.child, top=top)
    error = explain(top, TypeError("no"), what="it", can_pickle=trial, prefix="args")
    assert error.where == "args"
    assert len(tried) < 20


def test_only_some_of_many_culprits_are_looked_for():
    """Where everything fails, the first culprit is named after a few trials."""
    tried = []

    def counting(obj):
        tried.append(1)
        return can_pickle(obj)

    locks = [[threading.Lock()] for _ in range(1_000)]
    assert diagnose(locks, can_pickle=counting).where == "args[0][0]"
    assert len(tried) < 100


def test_answer_keeps_nothing_alive():
    """Neither the object nor a part of it outlives the diagnosis."""
    thing = Thing(part=Thing(lock=LOCK))
    references = weakref.ref(thing), weakref.ref(thing.part)
    error = diagnose((thing,))
    del thing
    assert [reference() for reference in references] == [None, None]
    assert error.where == "args[0].part.lock"


# --- hooks ----------------------------------------------------------------------------------


def raises(error):
    def hook(*_args):
        raise error

    return hook


HOOKS = [
    "__reduce_ex__",
    "__reduce__",
    "__getstate__",
    "__getattr__",
    "__getattribute__",
    "__repr__",
    "__eq__",
    "__bool__",
    "__iter__",
    "__len__",
]


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("base", [Thing, dict, list, set])
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_that_raise_are_harmless(hook, base, error):
    """Whatever a hook of a part raises, the rest is explained."""
    kind = type("Hooked", (base,), {hook: raises(error), "__hash__": object.__hash__})
    obj = {"k": kind.__new__(kind), "lock": LOCK}
    found = explain(obj, TypeError("no"), what="it", can_pickle=can_pickle, prefix="args")
    assert found.where.startswith(("args['k']", "args['lock']"))


def test_lying_class_is_harmless():
    """A proxy that passes for a function or a dictionary is explained as what it is."""

    class Proxy:
        def __init__(self, claim):
            self.claim = claim
            self.lock = LOCK

        __class__ = property(lambda self: self.claim)

    assert where((Proxy(dict),)) == "args[0].lock"
    assert where((Proxy(type(make)),)) == "args[0].lock"


def test_hook_of_a_key_leaves_the_rest_of_the_place():
    """A key that cannot be shown leaves a gap in the place and nothing more."""

    class Key:
        __repr__ = raises(RuntimeError("no"))

    assert where({Key(): LOCK}) == "args[...]"


def test_reason_that_cannot_be_shown():
    """A reason whose `__str__` raises is replaced by a plain one."""
    error = explain(LOCK, jobs.LyingStr(), what="it", can_pickle=can_pickle)
    assert error.why == "pickling failed"


@pytest.mark.parametrize("error", [RuntimeError(), SystemExit(3), RecursionError()], ids=repr)
def test_picklability_check_that_raises_counts_as_no(error):
    """A part whose trial raises is taken for one that cannot be pickled."""

    def trial(obj):
        if LOCK in (obj if type(obj) is list else [obj]):
            raise error
        return True

    found = explain([1, LOCK], TypeError("no"), what="it", can_pickle=trial, prefix="args")
    assert found.where == "args[1]"


class StopNow(BaseException):
    pass


@pytest.mark.parametrize(
    ("order", "options"),
    [(KeyboardInterrupt, {}), (StopNow, {"through": (StopNow,)})],
)
def test_orders_to_stop_pass(order, options):
    """Ctrl-C ends a diagnosis, and so does what else the caller lists, wherever it strikes."""
    with pytest.raises(order):
        explain([1], TypeError(), what="it", can_pickle=raises(order()), **options)
    reduced = type("Reduced", (), {"__reduce_ex__": raises(order())})()
    with pytest.raises(order):
        explain(reduced, TypeError(), what="it", can_pickle=can_pickle, **options)


def test_plain_pickle_is_enough():
    """The check for what can be pickled may be any, plain pickle too."""
    plain = functools.partial(can_pickle, dumps=pickle.dumps)
    error = explain([1, {2: LOCK}], TypeError(), what="it", can_pickle=plain, prefix="args")
    assert error.where == "args[1][2]"
