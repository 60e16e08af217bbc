"""Which part of an object cannot be pickled, where it is, and what to do about it.

A pickler says "cannot pickle '_thread.lock' object" and not whose lock that is. ``explain`` looks
for the smallest part that fails on its own and names the way to it as one would write it:
``args[0]['lock']``, ``args[0].conn``, ``closure variable 'lock' of make.<locals>.inner``.

Rules:

- Parts are what a pickler would visit: what containers hold, what ``__reduce_ex__`` gives, and
  what the code of functions and classes refers to, which cloudpickle sends along with them.
- It runs when pickling has failed already, and tries a bounded number of parts, many at once by
  halving. Giving up early names a larger part than need be, never an innocent one.
- Objects run their authors' code when they are looked at. Whatever that raises means that there
  is no more to see, except what ``through`` lists: orders to stop pass.

It deliberately does not pickle (``can_pickle`` is handed in), and what it answers holds strings
only, nothing of the object.
"""

from __future__ import annotations

import copyreg
import functools
from collections import deque
from contextlib import suppress
from itertools import islice
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
)
from typing import TYPE_CHECKING, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast, final

from aiopool.errors import NotTransferable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_P = ParamSpec("_P")
_T = TypeVar("_T")

MOST_PROBES: Final = 256
"""Parts that are tried to pickle, at most. As every step needs one, it bounds the depth too."""

MOST_BRANCHES: Final = 4
"""Failing parts of one thing that are looked into, at most."""

_MOST_ITEMS: Final = 100_000
_LONGEST_REASON: Final = 1_000
_LONGEST_KEY: Final = 60

_CONTAINERS: Final = (dict, list, tuple, set, frozenset)
_SLOTS: Final = (GetSetDescriptorType, MemberDescriptorType)

_WHERE_USED: Final = (
    'where it is used, in the pool\'s initializer or in the function itself, or use on="thread"'
)
_LEAVES: Final = (
    (("aiopool._run.",), "It stays with its pool: await it and send the value"),
    (("asyncio.", "_asyncio.", "anyio.", "uvloop."), "It belongs to the event loop: keep it there"),
    (("multiprocessing.synchronize.", "multiprocessing.queues."), "Use one of a manager's"),
    (("_thread.", "threading.", "queue.", "_queue."), f"Create it {_WHERE_USED}"),
    (("concurrent.futures._base.", "multiprocessing."), f"Create it {_WHERE_USED}"),
    (("_io.", "tempfile."), "Send the path and open it in the function"),
    (("socket.", "_socket.", "ssl.", "_ssl.", "select.", "sqlite3.C"), f"Open it {_WHERE_USED}"),
    (("builtins.coroutine",), "Submit the coroutine function itself: it runs on the event loop"),
    (("builtins.async_generator",), "Iterate over it with pool.stream"),
    (("builtins.generator", "itertools."), "Send list(...) of it"),
    (("builtins.mappingproxy",), "Send dict(...) of it"),
    (("builtins.frame", "builtins.traceback"), "Send its text"),
    (("weakref.",), "Send what it refers to"),
)
"""Beginnings of qualified type names: nobody wants to know what is inside such an object."""

_CONNECTIONS: Final = ("connection", "cursor", "session", "client", "engine", "channel")
"""Ends of the names of types in drivers of databases and services."""

_Parts: TypeAlias = "tuple[Sequence[object], Callable[[_Place, int], _Place]]"
"""Things an object consists of, and how one gets to the one of that number."""


def explain(  # noqa: PLR0913 - four of them by keyword
    obj: object,
    why: BaseException,
    *,
    what: str,
    can_pickle: Callable[[object], bool],
    prefix: str = "",
    through: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> NotTransferable:
    """Make the error that tells why ``obj``, which is ``what``, could not be pickled.

    ``why`` is what pickling it raised; the way to the culprit begins with ``prefix``, which
    stands for ``obj``. It never raises, whatever the hooks of the objects do, but for what
    ``through`` lists.
    """
    search = _Search(can_pickle, through)
    here = _Place(prefix)
    culprit, place = search.guard((obj, here), search.smallest, obj, here)
    reason = search.guard("pickling failed", _reason, why)
    fix = search.guard('Use on="thread"', _fix, culprit)
    return NotTransferable(what, place.text, reason, fix)


class _Place(NamedTuple):
    """The way to a part: ``text``, and where that ends in words the name to go on from."""

    text: str
    root: str = ""

    def at(self, suffix: str) -> _Place:
        """Go on to an attribute or an item."""
        return _Place(f"{self.text}, {self.root}{suffix}" if self.root else self.text + suffix)

    def named(self, words: str, root: str) -> _Place:
        """Go on to what no expression leads to; from there on it goes by the name ``root``."""
        return _Place(f"{self.text}, {words}" if self.text else words, root)


@final
class _Search:
    """Looks for the smallest part that does not pickle, within the bounds."""

    def __init__(
        self, can_pickle: Callable[[object], bool], through: tuple[type[BaseException], ...]
    ) -> None:
        self._can_pickle = can_pickle
        self._through = through
        self._probes = 0
        self._seen: dict[int, object] = {}  # keeps them alive too, lest ids be used again

    def guard(
        self, otherwise: _T, hook: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """What ``hook`` returns, or ``otherwise`` if it raises what is not to pass."""
        try:
            return hook(*args, **kwargs)
        except BaseException as error:
            if issubclass(type(error), self._through):
                raise
            return otherwise

    def smallest(self, obj: object, place: _Place) -> tuple[object, _Place]:
        """The nearest part of ``obj``, which fails, that has no failing part itself.

        Breadth first: in a web of things that refer to each other all of them fail, and the
        culprit is likelier to be near. With nothing certain the answer is ``obj`` itself.
        """
        self._seen[id(obj)] = obj
        suspects = deque([(obj, place)])
        while suspects:
            suspect, there = suspects.popleft()
            failing = list(islice(self._failing_parts(suspect, there), MOST_BRANCHES))
            if self._probes > MOST_PROBES:
                break
            if not failing:
                return suspect, there
            suspects.extend(found for found in failing if id(found[0]) not in self._seen)
            self._seen.update((id(part), part) for part, _ in failing)
        return obj, place

    def _failing_parts(self, obj: object, place: _Place) -> Iterator[tuple[object, _Place]]:
        for values, way in self._parts(obj):
            for number in self._failing(values):
                yield values[number], self.guard(place.at("[...]"), way, place, number)

    def _parts(self, obj: object) -> Iterator[_Parts]:
        parts = _parts(obj)
        while found := self.guard(None, next, parts, None):
            yield found

    def _failing(self, values: Sequence[object]) -> Iterator[int]:
        number = self._first_failing(values, 0)
        while number is not None:
            yield number
            number = self._first_failing(values, number + 1)

    def _first_failing(self, values: Sequence[object], low: int) -> int | None:
        high = len(values)
        if high - low > 1 and self._passes(values[low:]):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._passes(values[low:middle]):
                low = middle
            else:
                high = middle
        return low if low < high and not self._passes(values[low]) else None

    def _passes(self, part: object) -> bool:
        """Whether it pickles; when the probes are used up, it is not accused."""
        self._probes += 1
        return self._probes > MOST_PROBES or bool(self.guard(None, self._can_pickle, part))


# --- what things consist of ------------------------------------------------------------------


def _parts(obj: object) -> Iterator[_Parts]:
    """What a pickler would visit, likely culprits first. Runs hooks of the object."""
    kind = type(obj)
    if _leaf_fix(obj) is not None:
        return
    if issubclass(kind, FunctionType):
        yield from _parts_of_function(cast("FunctionType", obj))
    elif issubclass(kind, type):
        yield from _parts_of_class(cast("type", obj))
    elif issubclass(kind, MethodType):
        yield _members(obj, "__self__", "__func__")
    elif issubclass(kind, BuiltinMethodType):
        yield _members(obj, "__self__")
    elif issubclass(kind, functools.partial):
        yield _members(obj, "func", "args", "keywords")
        yield _attributes(obj.__dict__)
    else:
        yield from _parts_of_container(obj)
        if kind not in _CONTAINERS:
            yield from _parts_of_reduced(obj)


def _parts_of_function(function: FunctionType) -> Iterator[_Parts]:
    code, of = function.__code__, function.__qualname__
    yield _variables("closure variable", of, _closure(function))
    yield _variables("default of", of, _defaults(function))
    known = function.__globals__
    used = (name for name in _globals_of(code) if name in known)
    yield _variables("global", of, {name: known[name] for name in used})
    yield _attributes(function.__dict__)


def _closure(function: FunctionType) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # the cell of a name that is not assigned yet is empty
            found[name] = cell.cell_contents
    return found


def _defaults(function: FunctionType) -> dict[str, object]:
    code, values = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    positional = dict(zip(names[len(names) - len(values) :], values, strict=True))
    return positional | (function.__kwdefaults__ or {})


def _globals_of(code: CodeType) -> Iterator[str]:
    """Names of globals that it and the functions in it load."""
    import dis  # milliseconds that only a failure is worth

    for instruction in dis.get_instructions(code):
        if instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
            yield instruction.argval
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from _globals_of(constant)


def _parts_of_class(kind: type) -> Iterator[_Parts]:
    """What goes along with a class that cannot be imported."""
    own = {name: value for name, value in vars(kind).items() if type(value) not in _SLOTS}
    yield _attributes(own)
    yield kind.__bases__, lambda place, number: place.at(f".__bases__[{number}]")


def _parts_of_container(obj: object) -> Iterator[_Parts]:
    """What a builtin container holds, read without the methods of a subclass."""
    kind = type(obj)
    if issubclass(kind, dict):
        yield from _parts_of_pairs(list(dict.items(cast("dict[object, object]", obj))))
    yield _items(_contents(obj, list, tuple))
    yield _named("item", _contents(obj, set, frozenset))


def _contents(obj: object, *bases: type) -> list[object]:
    return [
        item
        for base in bases
        if issubclass(type(obj), base)
        for item in vars(base)["__iter__"](obj)
    ]


def _parts_of_pairs(pairs: list[tuple[object, object]]) -> Iterator[_Parts]:
    keys = [key for key, _ in pairs]
    values = [value for _, value in pairs]
    yield values, lambda place, number: place.at(f"[{_shown(keys[number])}]")
    yield _named("key", keys)


def _parts_of_reduced(obj: object) -> Iterator[_Parts]:
    """What the object says it is to be rebuilt from."""
    reduce = copyreg.dispatch_table.get(type(obj))
    reduced = reduce(obj) if reduce else obj.__reduce_ex__(4)
    if isinstance(reduced, str):
        return
    maker, args, state, items, pairs = (*reduced, None, None, None)[:5]
    yield from _parts_of_state(state)
    yield args, lambda place, number: place.at(_argument(obj, args, number))
    yield _items(list(islice(items or (), _MOST_ITEMS)))
    yield from _parts_of_pairs(list(islice(pairs or (), _MOST_ITEMS)))
    yield [maker], lambda place, _: place.at(".__reduce__()[0]")


def _argument(obj: object, args: Sequence[object], number: int) -> str:
    return ".__class__" if args[number] is type(obj) else f".__reduce__()[1][{number}]"


def _parts_of_state(state: object) -> Iterator[_Parts]:
    """Attributes, in the two forms that ``object.__getstate__`` gives, or what is there instead."""
    match state:
        case tuple((attributes, slots)):
            parts = [attributes, slots]
        case _:
            parts = [state]
    for part in parts:
        if type(part) is dict:
            yield _attributes(part)
        elif part is not None:
            yield [part], lambda place, _: place.at(".__getstate__()")


# --- ways to parts ---------------------------------------------------------------------------


def _items(values: Sequence[object]) -> _Parts:
    return values, lambda place, number: place.at(f"[{number}]")


def _attributes(values: Mapping[str, object]) -> _Parts:
    names = list(values)
    return list(values.values()), lambda place, number: place.at(f".{names[number]}")


def _members(obj: object, *names: str) -> _Parts:
    return _attributes({name: getattr(obj, name) for name in names})


def _variables(sort: str, of: str, values: Mapping[str, object]) -> _Parts:
    names = list(values)
    return list(values.values()), lambda place, number: place.named(
        f"{sort} {names[number]!r} of {of}", names[number]
    )


def _named(sort: str, values: Sequence[object]) -> _Parts:
    return values, lambda place, number: place.named(f"{sort} {_shown(values[number])}", sort)


def _shown(obj: object) -> str:
    text = repr(obj)
    return text if len(text) <= _LONGEST_KEY else f"{text[:_LONGEST_KEY]}..."


# --- words -----------------------------------------------------------------------------------


def _reason(why: BaseException) -> str:
    """The pickler's own words, on the way to the middle of a sentence."""
    kind, text = type(why).__qualname__, str(why)[:_LONGEST_REASON].rstrip(" .")
    return f"{kind}: {text}" if text else kind


def _fix(culprit: object) -> str:
    known = _leaf_fix(culprit)
    if known is not None:
        return known
    kind = type(culprit)
    if issubclass(kind, (FunctionType, type)):
        return "Define it at the top level of an importable module"
    if kind.__name__.lower().endswith(_CONNECTIONS):
        return f"Open it {_WHERE_USED}"
    if kind.__module__ == "builtins":
        return 'Use on="thread"'
    return f'Use on="thread", or give {kind.__qualname__} a __reduce__ method'


def _leaf_fix(obj: object) -> str | None:
    for kind in type(obj).__mro__:
        name = f"{kind.__module__}.{kind.__qualname__}"
        for beginnings, fix in _LEAVES:
            if name.startswith(beginnings):
                return fix
    return None
