"""What calls write, on its way to the parent: print, logging and warnings, over the lane's socket.

``sys.stdout`` and ``sys.stderr`` become streams that gather lines and send each whole line at once,
so that nothing written in whole lines is lost when the process is killed. ``flush`` hands an
unfinished line to the parent, which shows it when it is whole or the call has ended. The socket
blocks when the parent is slow, which is all the back-pressure there is and all it takes.

Logging gets one handler, on the root logger and on those that do not propagate, instead of the
handlers that importing the main module has left behind: the parent has those, too. One added later
adds to what the parent does. Warnings are sent as far as the worker's filters let them through.

The descriptors 1 and 2 are left as they are: what C code and child processes write goes where the
parent's goes, and so does all output of a process that a call forks, or after the lane has ended.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import warnings
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from aiopool._wire.messages import END, FLUSH, LONGEST_LINE, MORE, RECORD, TEXT, WARNING
from aiopool._wire.pickling import SCALARS, dumps, loads, seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TextIO

    from aiopool._wire.framing import Bytes

_SLICE: Final = 64 * 1024
"""Bytes of whole lines sent together; the parent does other things between two of these."""

_formatter: Final = logging.Formatter(logging.BASIC_FORMAT)


class Lane(Protocol):
    """Who sends, and knows what runs."""

    current: int

    def send(self, kind: int, body: Bytes) -> None:
        """Write one frame."""


@final
class Shield:
    """Puts interrupts off while the thread they strike is amid a line or a frame."""

    __slots__ = ("_again", "_depth", "_late", "_thread")

    def __init__(self, again: Callable[[int, None], None]) -> None:
        self._again = again  # the interrupt handler
        self._thread = get_ident()
        self._depth = 0
        self._late = False

    def puts_off(self) -> bool:
        """Whether an interrupt that has come is not to be acted on now; it will be soon."""
        if self._depth:
            self._late = True
        return self._depth > 0

    def __enter__(self) -> None:
        if get_ident() == self._thread:
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        if get_ident() != self._thread:
            return
        self._depth -= 1
        if self._late and not self._depth:
            self._late = False
            self._again(0, None)


@final
class Output:
    """All that leaves a worker beside results."""

    def __init__(self, lane: Lane, shield: Shield, levels: Mapping[str, int]) -> None:
        self.shield = shield
        self.unsettled = False  # whether anything was written since ``finish``
        self.writer = 0  # the call in which text was written last
        self.detached = False  # whether it goes to this process's own descriptors
        self._lane = lane
        self._levels = levels
        self._home = get_ident()
        self._threads = threading.local()
        self._lines = (Lines(self, 1, "stdout"), Lines(self, 2, "stderr"))
        self._show_locally = warnings.showwarning

    def install(self) -> None:
        """Take over the streams, logging and warnings of this process."""
        sys.stdout, sys.stderr = map(_text_stream, self._lines)
        self._install_logging()
        warnings.showwarning = self._show_warning
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.detach)

    def detach(self) -> None:
        """Let everything go to this process's own descriptors from now on."""
        self.detached = True
        for lines in self._lines:
            lines.forget()

    def finish(self) -> None:
        """The call has ended: send what is left of its lines."""
        self.unsettled = False
        for lines in self._lines:
            lines.finish()

    def note_text(self) -> None:
        """The running call has written."""
        self.unsettled = True
        self.writer = self._lane.current

    def post(self, kind: int, message: object) -> None:
        """Send a message of the running call's."""
        self.unsettled = True
        self.send(kind, message)

    def send(self, kind: int, message: object) -> None:
        """Send a message, whole or not at all."""
        body, _ = seal(message)
        with self.shield:
            try:
                self._lane.send(kind, body)
            except OSError:  # nobody listens any more, and no call is to fail for that
                return

    def call(self) -> int:
        """The call that this thread writes for, 0 if none.

        A thread writes for the call in which it first did, while that runs.
        """
        current = self._lane.current
        if get_ident() == self._home:
            return current
        threads = self._threads
        if not hasattr(threads, "call"):
            threads.call = current
        return current if threads.call == current else 0

    def _install_logging(self) -> None:
        handler = _Handler(self)
        for logger in list(logging.Logger.manager.loggerDict.values()):
            if isinstance(logger, logging.Logger) and logger.handlers:
                _replace_handlers(logger, None if logger.propagate else handler)
        _replace_handlers(logging.getLogger(), handler)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    def _show_warning(  # noqa: PLR0913, PLR0917 - as warnings.showwarning
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None or self.detached:
            self._show_locally(message, category, filename, lineno, file, line)
        else:
            self.post(WARNING, (_pack_warning(message, category), filename, lineno))


@final
class Lines(io.BufferedIOBase):
    """The binary half of a standard stream: gathers lines, each thread's for itself."""

    def __init__(self, output: Output, fd: int, name: str) -> None:
        self.name = f"<{name}>"
        self._output = output
        self._fd = fd
        self._held: dict[int, bytearray] = {}  # the unfinished line of each thread
        self._parted = False  # whether the parent holds the beginning of one
        self._unflushed = False

    def writable(self) -> bool:
        """That is what it is for."""
        return True

    def fileno(self) -> int:
        """The real descriptor, for those who pass it on; what goes there is not gathered."""
        return self._fd

    def close(self) -> None:
        """Flush it: the next call needs it, too."""
        self.flush()

    def write(self, data: Bytes, /) -> int:  # type: ignore[override]
        """Take some bytes; whole lines are sent, the rest waits."""
        piece = bytes(data)
        if self._output.detached:
            self._write_locally(piece)
            return len(piece)
        with self._output.shield:
            self._add(piece)
        return len(piece)

    def flush(self) -> None:
        """Hand over what this thread has written."""
        if self._output.detached:
            self._flush_locally()
            return
        with self._output.shield:
            rest = self._held.pop(get_ident(), b"")
            if rest or self._unflushed:
                self._parted = self._parted or bool(rest)
                self._send(bytes(rest), FLUSH)
                self._unflushed = False

    def finish(self) -> None:
        """Send what is unfinished, whichever thread's it is."""
        with self._output.shield:
            rest = b"".join([self._held.pop(thread, b"") for thread in list(self._held)])
            if rest or self._parted:
                self._parted = False
                self._send(rest, END)

    def forget(self) -> None:
        """Drop what is held: another process has it, too, or nobody listens."""
        self._held.clear()

    def _add(self, piece: bytes) -> None:
        """Add to this thread's line and send what is whole, or too long to wait for its end."""
        self._output.note_text()
        thread = get_ident()
        held = self._held.pop(thread, None)  # a finalizer that prints meanwhile begins another
        line = bytearray() if held is None else held
        line += piece
        cut = piece.rfind(b"\n") + 1
        if cut:
            cut += len(line) - len(piece)
        elif len(line) >= LONGEST_LINE:
            cut = len(line)
        if cut:
            for part in _slices(bytes(line[:cut])):
                self._send(part, MORE)
            self._unflushed = True
            del line[:cut]
        if line:
            line[:0] = self._held.get(thread, b"")
            self._held[thread] = line

    def _send(self, data: bytes, how: int) -> None:
        self._output.send(TEXT, (self._fd, data, how))

    def _write_locally(self, piece: bytes) -> None:
        stream = self._local()
        if stream is not None:
            stream.buffer.write(piece)
            if b"\n" in piece:
                stream.buffer.flush()

    def _flush_locally(self) -> None:
        stream = self._local()
        if stream is not None:
            stream.flush()

    def _local(self) -> TextIO | None:
        """The stream this process was started with, None if there is none."""
        stream = sys.__stdout__ if self._fd == 1 else sys.__stderr__
        return None if stream is None or stream.closed else stream


@final
class _Handler(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Send one, its text made here."""
        if self._output.detached:
            sys.stderr.write(f"{_formatter.format(record)}\n")
            return
        try:
            message = (self._output.call(), *_pack_record(record))
        except Exception:  # noqa: BLE001 - arguments that do not fit the text, for one
            self.handleError(record)
        else:
            self._output.post(RECORD, message)


def _text_stream(lines: Lines) -> TextIO:
    """The text half of a standard stream, which holds nothing back and refuses nothing."""
    return io.TextIOWrapper(
        lines, encoding="utf-8", errors="backslashreplace", newline="\n", write_through=True
    )


def _slices(lines: bytes) -> Iterator[bytes]:
    """Cut into pieces of about ``_SLICE`` bytes between lines, a very long line where need be."""
    start = 0
    while len(lines) - start > _SLICE:
        cut = lines.rfind(b"\n", start, start + _SLICE) + 1
        if not cut:
            cut = lines.find(b"\n", start + _SLICE) + 1 or len(lines)
        cut = min(cut, start + LONGEST_LINE)
        yield lines[start:cut]
        start = cut
    if start < len(lines):
        yield lines[start:]


def _replace_handlers(logger: logging.Logger, handler: logging.Handler | None) -> None:
    for old in list(logger.handlers):
        logger.removeHandler(old)
    if handler is not None:
        logger.addHandler(handler)


def _pack_record(record: logging.LogRecord) -> tuple[dict[str, Any], bytes]:
    """A record as plain builtins, and a pickle of what else it was given."""
    fields = dict(record.__dict__)
    fields["msg"] = record.getMessage()
    fields["args"] = None
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = _formatter.formatException(record.exc_info)
    fields["exc_info"] = None
    plain = {name: value for name, value in fields.items() if type(value) in SCALARS}
    extra = {
        name: value if _crosses(value) else repr(value)
        for name, value in fields.items()
        if name not in plain
    }
    return plain, dumps(extra) if extra else b""


def _pack_warning(message: Warning | str, category: type[Warning]) -> bytes:
    """Pickle a warning and its category, or its text under the nearest category that crosses."""
    if not _crosses((message, category)):
        message = str(message)
        known = (base for base in category.__mro__ if base.__module__ == "builtins")
        category = next(base for base in known if issubclass(base, Warning))
    return dumps((message, category))


def _crosses(value: object) -> bool:
    """Whether it can be pickled and unpickled again."""
    try:
        loads(dumps(value))
    except Exception:  # noqa: BLE001 - that is the question
        return False
    return True
