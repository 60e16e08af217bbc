"""What becomes of a record where the function runs: text in, the call, one line of JSON out.

Decoding and encoding happen beside the call, in a worker if the function runs there, so that the
parent only hands lines on. A worker imports this file, so it is light.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_compact: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_escaped: Final = json.JSONEncoder(allow_nan=False).encode
_FIX: Final = "return a str, number, bool, None, or lists and dicts of them"


@final
class Malformed(Exception):
    """A record is not of the format it was said to be of."""


@final
class NotJSON(TypeError):
    """What the function returned has no form in JSON; the message names the fix."""


@final
class Call:
    """A plain function, from record to line."""

    def __init__(self, fn: Callable[[Any], object], name: str, *, is_json: bool) -> None:
        self.__qualname__ = name  # what messages call it
        self._fn = fn
        self._is_json = is_json

    def __call__(self, record: Any) -> str:  # noqa: ANN401 - as the format has it
        """The line for a record; none for a blank line among records of JSON."""
        if self._is_json:
            if not record or record.isspace():
                return ""
            record = value_of(record)
        return line_of(self._fn(record))


@final
class AsyncCall:
    """A coroutine function, from record to line."""

    def __init__(self, fn: Callable[[Any], Awaitable[object]], name: str, *, is_json: bool) -> None:
        self.__qualname__ = name
        self._fn = fn
        self._is_json = is_json

    async def __call__(self, record: Any) -> str:  # noqa: ANN401 - as the format has it
        """As ``Call`` has it."""
        if self._is_json:
            if not record or record.isspace():
                return ""
            record = value_of(record)
        return line_of(await self._fn(record))


def value_of(text: str) -> object:
    """The value of a line of JSON; raises ``Malformed``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of too many digits, too deep a list
        raise Malformed(f"not JSON that Python reads: {error}") from None


def line_of(value: object) -> str:
    """A value as a line of JSON; raises ``NotJSON``."""
    try:
        text = _compact(value)
    except (TypeError, ValueError, RecursionError) as error:
        kind = type(value).__name__
        raise NotJSON(f"the result, of type {kind}, is not JSON: {error}; {_FIX}") from None
    if not text.isascii() and not _is_unicode(text):
        text = _escaped(value)
    return f"{text}\n"


def _is_unicode(text: str) -> bool:
    """Whether it has a form in UTF-8; what stands for odd bytes in names of files has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
