"""What one worker's calls write, passed on to this process's streams, loggers and warnings.

Text goes to ``sys.stdout`` and ``sys.stderr`` as they are at that moment, in whole lines, so that
those of several workers do not mix; records to the logger of their name, which decides by its own
level; warnings through this process's filters. All of it on the event loop's thread, before the
results that were sent after it are looked at. Whatever goes wrong costs the output and no call.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._wire.messages import END, FLUSH, LONGEST_LINE, RECORD, TEXT, WARNING
from aiopool._wire.pickling import loads

if TYPE_CHECKING:
    from collections.abc import Callable

RELAYED: Final = frozenset({TEXT, RECORD, WARNING})
"""The kinds of messages that are for here."""

_STREAMS: Final = {1: "stdout", 2: "stderr"}
_MOST_SEEN: Final = 4096

_seen: Final[dict[Any, Any]] = {}
"""The warnings shown, as ``warnings`` keeps them: here what is shown once is so for all workers."""


def logger_levels() -> dict[str, int]:
    """The level of every logger that has one of its own, by name."""
    loggers = list(logging.Logger.manager.loggerDict.items())
    levels = {
        name: logger.level
        for name, logger in loggers
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {**levels, "root": logging.getLogger().level}


@final
class Relay:
    """Passes on what one worker sends beside results."""

    def __init__(self, task_of: Callable[[int], str | None]) -> None:
        self._task_of = task_of  # the name of the call with that number
        self._held = {descriptor: bytearray() for descriptor in _STREAMS}  # unfinished lines
        self._complained = False

    def received(self, kind: int, message: Any) -> None:  # noqa: ANN401 - as messages.py says
        """Pass on one message."""
        try:
            if kind == TEXT:
                self._text(*message)
            elif kind == RECORD:
                self._record(*message)
            else:
                _warn(*message)
        except Exception as error:  # noqa: BLE001 - streams, handlers and filters are the user's
            self._complain(error)

    def end(self) -> None:
        """The worker is gone: show what it began."""
        for descriptor, held in self._held.items():
            if held:
                self.received(TEXT, (descriptor, b"", END))

    def _text(self, descriptor: int, data: bytes, how: int) -> None:
        held = self._held[descriptor]
        held += data
        cut = data.rfind(b"\n") + 1
        if cut:
            cut += len(held) - len(data)
        if how == END or len(held) - cut > LONGEST_LINE:
            cut = len(held)
        text = bytes(held[:cut])
        del held[:cut]
        stream = getattr(sys, _STREAMS[descriptor])
        if stream is None:  # there is no console
            return
        if text:
            _write(stream, text)
        if how == FLUSH:
            stream.flush()

    def _record(self, call: int, fields: dict[str, Any], extra: bytes) -> None:
        fields["taskName"] = self._task_of(call)
        record = logging.makeLogRecord(fields)
        record.__dict__.update(_opened(extra))
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)

    def _complain(self, error: Exception) -> None:
        """Say once what is the matter; a broken stream would have it said for every line."""
        if not self._complained:
            self._complained = True
            asyncio.get_running_loop().call_exception_handler(
                {"message": "output of a worker could not be passed on", "exception": error}
            )


def _write(stream: Any, data: bytes) -> None:  # noqa: ANN401 - whatever sys.stdout is
    """Write text, or bytes that are none, to a text stream."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        buffer = getattr(stream, "buffer", None)
        if buffer is not None:
            stream.flush()
            buffer.write(data)
            return
        text = data.decode(errors="backslashreplace")
    try:
        stream.write(text)
    except UnicodeEncodeError as error:
        encoding = error.encoding
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _opened(extra: bytes) -> dict[str, Any]:
    """The fields of a record that are no plain builtins; none if their own code fails here."""
    try:
        return loads(extra) if extra else {}
    except BaseException:  # noqa: BLE001 - the worker has tried it, so this is a freak
        return {}


def _warn(code: bytes, filename: str, lineno: int) -> None:
    message, category = loads(code)
    if len(_seen) > _MOST_SEEN:
        _seen.clear()
    try:
        warnings.warn_explicit(message, category, filename, lineno, registry=_seen)
    except Warning:  # a filter makes an error of it, which would be nobody's here
        warnings.showwarning(message, category, filename, lineno)
