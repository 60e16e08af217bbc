"""What a call is known by in a journal: the name of its task, a version, and a digest or a key.

The digest of a value does not depend on the process, on the order of a set or a dict, or on
whether equal parts are one object, as a pickle does. It is fed with

- a type's name and the value's ``repr`` for scalars, the members for containers;
- for a function its name, bytecode, constants, defaults and what it closes over, but neither the
  globals nor the other functions it refers to;
- for a class, module or built-in function its name;
- for any other object what ``__reduce_ex__`` gives, which is what a pickle of it would hold.

Prior art: joblib.hashing, which feeds a pickle, https://joblib.readthedocs.io.
"""

from __future__ import annotations

from copyreg import dispatch_table
from functools import partial
from hashlib import blake2b
from inspect import getattr_static
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Key: TypeAlias = "str | int | bytes"
"""What an item is stored under."""

_SIZE: Final = 16
_SCALARS: Final = frozenset({bool, complex, float, int, str, type(None)})
_NAMED: Final = (type, BuiltinFunctionType, ModuleType)
_OF_SETS: Final[tuple[object, ...]] = (set.__reduce__, frozenset.__reduce__)
_LARGEST: Final = 2**63


def digest(obj: object) -> bytes:
    """Sixteen bytes that are the same for equal objects in any process.

    Raises TypeError, or what the object's own hooks raise, where there are none.
    """
    feeder = _Feeder()
    feeder.feed(obj)
    return feeder.hash.digest()


def task_of(fn: Callable[..., Any]) -> str:
    """The name a function's results are kept under: its module's and its own."""
    fn, _ = _unbound(fn)
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    home = getattr(named, "__objclass__", named)  # a method of a built-in class has no module
    return f"{home.__module__ or 'builtins'}.{named.__qualname__}"


def version_of(fn: Callable[..., Any], given: str | int | None, *, keyed: bool) -> str:
    """What is ``given``, or the function's ``__version__``, or else a digest of its code.

    That digest is of what it is bound to as well. What a partial adds to the arguments counts with
    a declared version, too. Where items have keys of their own there is no digest.
    """
    function, bound = _unbound(fn)
    declared = getattr(function, "__version__", None) if given is None else given
    if isinstance(declared, (str, int)):
        return f"{declared} {digest(bound).hex()}" if bound and not keyed else str(declared)
    if keyed:
        return ""
    if isinstance(fn, MethodType):
        return digest((fn.__func__, fn.__self__)).hex()
    return digest((getattr_static(type(fn), "__call__", None), fn)).hex()


def _unbound(fn: Callable[..., Any]) -> tuple[Callable[..., Any], list[object]]:
    """What a partial calls in the end, and the arguments that it and those in it add."""
    bound: list[object] = []
    while isinstance(fn, partial):
        bound.append((fn.args, fn.keywords))
        fn = fn.func
    return fn, bound


def check_key(key: object) -> Key:
    """Give back a key that can be stored; raises TypeError or ValueError naming the fix."""
    if not isinstance(key, (str, int, bytes)):
        message = f"key= gave {key!r}; it must give a str, an int or bytes"
        raise TypeError(message)
    if isinstance(key, int) and not -_LARGEST <= key < _LARGEST:
        message = f"key= gave {key}, which takes more than 64 bits; give str(...) of it"
        raise ValueError(message)
    if isinstance(key, str) and not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError:
            message = f"key= gave {key!r}, which UTF-8 cannot hold; give os.fsencode(...) of it"
            raise ValueError(message) from None
    return key


@final
class _Feeder:
    """Feeds a hash so that no two different values feed it the same."""

    def __init__(self, path: frozenset[int] = frozenset()) -> None:
        self.hash = blake2b(digest_size=_SIZE)
        self._path = path  # ids of what is being fed: one that is met again closes a cycle

    def feed(self, obj: object) -> None:
        """Add one value."""
        kind = type(obj)
        if kind in _SCALARS:
            self._add(kind.__name__, repr(obj).encode(errors="surrogatepass"))
        elif kind is bytes:
            self._add("bytes", obj)  # type: ignore[arg-type]
        elif isinstance(obj, _NAMED) and _is_named(obj):
            self._add("name", _name(obj).encode())
        elif id(obj) in self._path:
            self._add("again", b"")
        else:
            path = self._path
            self._path = path | {id(obj)}
            self._feed_parts(kind, obj)
            self._path = path

    def _add(self, tag: str, data: bytes) -> None:
        self.hash.update(b"%s:%d:" % (tag.encode(), len(data)))
        self.hash.update(data)

    def _feed_parts(self, kind: type, obj: Any) -> None:  # noqa: ANN401 - of that kind
        if kind is tuple or kind is list:
            self._feed_all(kind.__name__, obj)
        elif kind is dict:
            self._add("dict", b"".join(sorted(map(self._apart, obj.items()))))
        elif kind is set or kind is frozenset:
            self._add(kind.__name__, b"".join(sorted(map(self._apart, obj))))
        elif kind is FunctionType:
            self._feed_all("function", _parts_of_function(obj))
        elif kind is CodeType:
            self._feed_all("code", _parts_of_code(obj))
        else:
            self._feed_all("object", _parts_of_reduced(kind, obj))

    def _feed_all(self, tag: str, parts: Iterable[object]) -> None:
        parts = tuple(parts)
        self.hash.update(b"%s:%d:" % (tag.encode(), len(parts)))
        for part in parts:
            self.feed(part)

    def _apart(self, obj: object) -> bytes:
        feeder = _Feeder(self._path)
        feeder.feed(obj)
        return feeder.hash.digest()


def _is_named(obj: object) -> bool:
    """Whether the name is all of it: not for a method bound to an object."""
    owner = getattr(obj, "__self__", None)
    return owner is None or isinstance(owner, ModuleType) or not isinstance(obj, _NAMED[1])


def _name(obj: Any) -> str:  # noqa: ANN401 - a class, a built-in function or a module
    return f"{getattr(obj, '__module__', '')}.{getattr(obj, '__qualname__', obj.__name__)}"


def _parts_of_function(function: FunctionType) -> Iterable[object]:
    cells = function.__closure__ or ()
    return (
        function.__module__,
        function.__qualname__,
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        tuple(_content(cell) for cell in cells),
    )


def _content(cell: Any) -> object:  # noqa: ANN401 - types.CellType
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _parts_of_code(code: CodeType) -> Iterable[object]:
    counts = code.co_argcount, code.co_kwonlyargcount, code.co_flags
    return code.co_code, code.co_consts, code.co_names, code.co_freevars, counts


def _parts_of_reduced(kind: type, obj: object) -> Iterable[object]:
    reduce = dispatch_table.get(kind)
    reduced = reduce(obj) if reduce is not None else obj.__reduce_ex__(4)
    if isinstance(reduced, str):
        return kind, reduced, getattr(obj, "__wrapped__", None)
    head, args, *rest = reduced
    if kind.__reduce__ in _OF_SETS:  # which list the members in the order of this process
        args = frozenset(obj)  # type: ignore[call-overload]
    parts = [tuple(part) if number in {1, 2} and part else part for number, part in enumerate(rest)]
    return head, args, *parts
