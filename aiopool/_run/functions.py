"""What a pool is asked to call: checked, named, and pickled once where that is safe.

A function that pickles by reference always pickles to the same name, so that is remembered. What
goes by value (lambdas, closures, whatever lives in ``__main__``, bound methods) may have changed
since and is pickled at every submission; a worker that has had the same bytes is sent only their
number. What calls take is remembered by those bytes, too.
"""

from __future__ import annotations

from functools import partial
from inspect import isasyncgenfunction, iscoroutine, iscoroutinefunction
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._backends.base import Function
from aiopool._backends.parcels import pack_function
from aiopool._core.estimate import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST: Final = 512
"""Functions remembered before all are forgotten."""


@final
class Functions:
    """The callables of one pool."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Function, bool]] = {}  # by id; a Function keeps its call alive
        self._costs: dict[bytes, Estimate] = {}

    def find(self, call: Callable[..., Any]) -> tuple[Function, bool]:
        """The function for a callable, not pickled yet, and whether it is for the event loop.

        Raises TypeError for what cannot be called, and for calls that were made already.
        """
        known = self._known.get(id(call))
        if known is not None:
            return known
        _check(call)
        found = Function(call, _name(call), Estimate()), _is_async(call)
        if found[1] and isinstance(call, FunctionType):
            self._remember(found)
        return found

    def pickled(self, function: Function) -> Function:
        """The function with its pickle; raises ``NotTransferable`` if it has none."""
        if function.code:
            return function
        code = pack_function(function.call, function.name)
        if len(self._costs) >= _MOST:
            self._costs.clear()
        cost = self._costs.setdefault(code, function.cost)
        pickled = Function(function.call, function.name, cost, code)
        if isinstance(function.call, (FunctionType, BuiltinFunctionType, type)) and (
            b"cloudpickle" not in code
        ):
            self._remember((pickled, False))
        return pickled

    def remembers(self, call: Callable[..., Any]) -> bool:
        """Whether a callable always pickles to the same, so that much may be kept of it."""
        return id(call) in self._known

    def _remember(self, found: tuple[Function, bool]) -> None:
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[id(found[0].call)] = found


def _check(call: object) -> None:
    if iscoroutine(call):
        call.close()
        message = (
            f"{call!r} is a call made already; pass the function and its arguments: "
            f"pool.run({call.__name__}, ...)"
        )
        raise TypeError(message)
    if not callable(call):
        message = f"{call!r} cannot be called; pass a function, then its arguments"
        raise TypeError(message)
    if isasyncgenfunction(call):
        message = (
            f"{_name(call)} is an async generator function, which has no one result; "
            "pass its items to pool.stream(...) as input, or write an async function"
        )
        raise TypeError(message)


def _is_async(call: Callable[..., Any]) -> bool:
    if iscoroutinefunction(call):
        return True
    target = call.func if isinstance(call, partial) else call
    return iscoroutinefunction(getattr(type(target), "__call__", None))  # noqa: B004 - not whether


def _name(call: Callable[..., Any]) -> str:
    target = call.func if isinstance(call, partial) else call
    return getattr(target, "__qualname__", None) or type(target).__qualname__
