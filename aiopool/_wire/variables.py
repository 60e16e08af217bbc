"""Context variables as they cross: a variable by where it is found, its value by pickle.

A variable is itself and nothing else, so it does not pickle. What can be imported is imported on
the other side. For one of ``__main__`` or of a function, which travel by value, each process that
hears of it makes a variable of its own, once, with the same name and default; the pickles of
functions that use it then mean that one.

Only variables a pool was given are known here. Picklers ask ``copyreg`` for how it is done.
"""

from __future__ import annotations

import copyreg
import os
import sys
from contextvars import Context, ContextVar, copy_context
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from aiopool._wire.pickling import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Variable: TypeAlias = "ContextVar[Any]"
Key: TypeAlias = tuple[str, str]
"""A module and a name in it; no module, and a name of ours, where there is none to import."""

_keys: Final[dict[Variable, Key]] = {}
_own: Final[dict[Key, Variable]] = {}  # those that are not imported


def declare(variables: Iterable[Variable]) -> None:
    """Make variables known, so that they can be pickled."""
    for variable in variables:
        if variable not in _keys:
            _remember(variable, _locate(variable))


def within(code: bytes, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls another with the pickled values, in a context that ends with the call.

    Unpickling them belongs to the call, and each call has values of its own.
    """

    def call(*args: Any) -> Any:  # noqa: ANN401 - those of any function
        context = copy_context()
        for variable, value in loads(code):
            context.run(variable.set, value)
        return context.run(function, *args)

    call.__qualname__ = getattr(function, "__qualname__", repr(function))
    return call


def _remember(variable: Variable, key: Key) -> None:
    copyreg.pickle(ContextVar, _reduce)
    _keys[variable] = key
    if not key[0]:
        _own[key] = variable


def _reduce(variable: Variable) -> tuple[Callable[..., Variable], tuple[Any, ...]]:
    key = _keys.get(variable)
    if key is None:
        message = (
            f"cannot pickle {type(variable).__name__!r} object: {variable.name!r} is none of those "
            "that the pool was given as contextvars"
        )
        raise TypeError(message)
    if key[0]:
        return _imported, key
    try:
        return _made, (key, variable.name, (Context().run(variable.get),))
    except LookupError:
        return _made, (key, variable.name, ())


def _imported(module: str, name: str) -> Variable:
    variable: Variable = getattr(import_module(module), name)
    if variable not in _keys:
        _remember(variable, (module, name))
    return variable


def _made(key: Key, name: str, default: tuple[Any, ...]) -> Variable:
    variable = _own.get(key)
    if variable is None:
        variable = ContextVar(name, default=default[0]) if default else ContextVar(name)
        _remember(variable, key)
    return variable


def _locate(variable: Variable) -> Key:
    """Where another process can import it from, if it can."""
    for module in list(sys.modules.values()):
        where = getattr(module, "__name__", "__main__")  # there are odd things among modules
        if where in {"__main__", "__mp_main__"} or sys.modules.get(where) is not module:
            continue
        for name, value in list(vars(module).items()):
            if value is variable:
                return where, name
    return "", f"{variable.name} {os.urandom(16).hex()}"
