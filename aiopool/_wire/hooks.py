"""Whose pickling runs code of somebody's own, which may take any time: found by the pickler.

Builtins and what is written in C pickle as fast as memory. A class with Python code for it, a
``__reduce__`` or ``__getstate__``, is not trusted to be quick until it has been seen to be.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from time import perf_counter
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._wire.pickling import Unhurried, pack

if TYPE_CHECKING:
    from aiopool._wire.pickling import Packed

QUICK: Final = 0.002
"""Seconds within which an argument has to be pickled for its types to count as quick."""

_MOST_TYPES: Final = 1024
_HOOKS: Final = (
    "__reduce_ex__",
    "__reduce__",
    "__getstate__",
    "__getnewargs_ex__",
    "__getnewargs__",
)
_quick: dict[type, bool] = {}  # types met before, and whether they may be pickled at once


def pack_at_once(obj: object) -> Packed:
    """As ``pack``; raises ``Unhurried`` as soon as that would run code not known to be quick."""
    return pack(obj, _Hasty)


def pack_in_time(obj: object) -> Packed:
    """As ``pack``, however long it takes; types that turn out quick count as such from now on."""
    met: set[type] = set()

    class Patient(pickle.Pickler):
        """Notes the types whose code runs."""

        def reducer_override(self, obj: object) -> Any:  # noqa: ANN401 - pickle's own type
            if not _is_quick(type(obj)):
                met.add(type(obj))
            return NotImplemented

    began = perf_counter()
    packed = pack(obj, Patient)
    if perf_counter() - began < QUICK:
        _quick.update(dict.fromkeys(met, True))
    return packed


@final
class _Hasty(pickle.Pickler):
    """Runs no code that is not known to be quick."""

    def reducer_override(self, obj: object) -> Any:  # noqa: ANN401 - pickle's own type
        kind = type(obj)
        if _quick.get(kind) or _is_quick(kind):
            return NotImplemented
        raise Unhurried


def _is_quick(kind: type) -> bool:
    quick = _quick.get(kind)
    if quick is None:
        if len(_quick) >= _MOST_TYPES:
            _quick.clear()
        hooks = [getattr(kind, name, None) for name in _HOOKS]
        quick = _quick[kind] = not any(map(_is_foreign, (*hooks, copyreg.dispatch_table.get(kind))))
    return quick


def _is_foreign(hook: object) -> bool:
    """Whether it is Python code, and not the standard library's."""
    if not isinstance(hook, FunctionType):
        return False
    return (hook.__module__ or "").partition(".")[0] not in sys.stdlib_module_names
