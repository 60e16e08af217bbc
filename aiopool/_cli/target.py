"""``MODULE:FUNCTION``: the function that the command line is to call."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from aiopool._cli.mistakes import Mistake

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def load(target: str) -> Callable[..., Any]:
    """The function named ``module:function`` or ``module:Class.method``.

    The current directory can be imported from, as with ``python -m``. Raises ``Mistake``.
    """
    name, colon, path = target.partition(":")
    if not name or not colon or not path:
        message = f"{target!r} is no MODULE:FUNCTION; write it as in shop.prices:parse"
        raise Mistake(message)
    found: Any = _module(name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise Mistake(_missing(name, path, part, found))
        found = getattr(found, part)
    if not callable(found):
        message = (
            f"{target} is {type(found).__name__}, not a function; name one that takes a record"
        )
        raise Mistake(message)
    return found  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:  # a script may end at once
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{name}.".startswith(f"{absent}."):
            message = f"there is no module {absent!r}; name one installed, or in this folder"
            raise Mistake(message) from None
        last = extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}:{last.lineno}"
        if isinstance(error, SyntaxError):
            where = f"{error.filename}:{error.lineno}"
        message = (
            f"importing {name} failed: {type(error).__name__}: {error} ({where}); mend it there"
        )
        raise Mistake(message) from error


def _missing(name: str, path: str, part: str, found: object) -> str:
    """What to say of a name that is not there."""
    from difflib import get_close_matches  # for a mistake only

    near = get_close_matches(part, dir(found), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "name a function that it defines"
    return f"module {name!r} has no {path!r}; {hint}"
