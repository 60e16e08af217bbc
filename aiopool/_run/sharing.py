"""Shared objects among the arguments of calls in this process, which no pickle opens.

Type checkers take a handle for the object it stands for: where a call expects the object, the
handle is what to pass. ``Shared[T]`` is ``T`` to them, and at run time the class of handles.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, cast

from aiopool._backends.base import Function
from aiopool._wire import shared

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

Shared: TypeAlias = Annotated[T, "its handle, at run time"]


def share(obj: T) -> Shared[T]:
    """Place an object; raises ``NotTransferable`` if it cannot be pickled."""
    return cast("T", shared.share(obj))


def opening(function: Function) -> Function:
    """The function as one that receives objects where handles are passed."""
    if not shared.in_use:
        return function
    call = partial(_call_opened, function.call)
    return Function(call, function.name, function.cost, function.code)


def _call_opened(call: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - the call's own
    return call(*[arg.open() if isinstance(arg, shared.Shared) else arg for arg in args])
