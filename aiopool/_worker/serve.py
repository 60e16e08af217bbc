"""The serve loop of a worker: calls in from the socket, results out, one call at a time.

Rules: what belongs to a call (unpickling its argument, running it, pickling its value) happens
while ``current`` holds its number, so that a crash or an interrupt there is that call's; nothing
else does. ``STARTED`` is on the slate before the call begins and ``FINISHED`` after its result
was sent, so that the parent knows whom to blame and what has not begun when this process dies.

Results of short calls travel together, for a fraction of a millisecond at most; calls marked
``EXACT`` have theirs noted in the journal before the next one starts, or sent if it is full.
What a call has written is sent before its result, and a result that follows such is not noted.
"""

from __future__ import annotations

from collections import deque
from threading import RLock
from time import monotonic_ns
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._wire.diagnosis import explain
from aiopool._wire.failure import encode_failure
from aiopool._wire.framing import Decoder, encode
from aiopool._wire.journal import Journal
from aiopool._wire.memory import held, unused
from aiopool._wire.messages import (
    CONTEXT,
    ERROR,
    EXACT,
    INTERRUPTED,
    RESULTS,
    SCALARS,
    SKIPPED,
    STAR,
    VALUE,
    VALUES,
)
from aiopool._wire.pickling import SCALARS as SCALAR_TYPES
from aiopool._wire.pickling import can_pickle, dumps, loads, pack, seal, unpack
from aiopool._wire.shared import sweep
from aiopool._wire.slate import FINISHED, SENT, SINCE, SKIP_FROM, SKIP_TO, STARTED, TARGET, give_way
from aiopool._wire.variables import within
from aiopool._worker.output import Output, Shield

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping
    from types import FrameType

    from aiopool._wire.framing import Bytes, Frame
    from aiopool._wire.messages import Group, Segment
    from aiopool._wire.pickling import Packed
    from aiopool._wire.slate import Slate

_TOGETHER: Final = 500_000
"""Nanoseconds for which finished results may wait for more of them."""

_LINGER: Final = 100_000
"""Nanoseconds for which a worker stays awake when calls come in quick succession."""

_JOIN: Final = 128 * 1024


class Interrupted(BaseException):
    """Raised inside a call that is to stop; its ``finally`` clauses run."""


class Spoilt(Exception):
    """An interrupt has left this process in a state that later calls would suffer from."""


@final
class Worker:
    """One process's side of a lane."""

    def __init__(self, sock: socket.socket, slate: Slate, *, measure: bool = False) -> None:
        self._sock = sock
        self._words = slate.words
        self._journal = Journal(slate)
        self._measure = measure  # whether to tell the parent how much memory is in use
        self._functions: dict[int, Any] = {}  # pickled until its first call
        self._segments: list[Segment] = []
        self._values: list[object] = []  # scalar results of the calls up to ``_last``
        self._last = 0  # the last call that ended
        self._mark = 0  # when the first of ``_values`` began
        self._sent = 0  # when results were sent last
        self._heard = 0  # frames that have come
        self._brisk = False  # whether the last one came soon after the results before it
        self._struck = 0  # the last call an interrupt was raised in
        self._spoilt = False  # by an interrupt at a bad moment
        self.current = 0  # the call that executes now
        self._context: bytes | None = None  # values of context variables for the group that runs
        self._sending = RLock()
        self._amid = False  # whether the thread that holds it is writing a frame
        self._next: deque[Bytes] = deque()  # to be written after that
        self._shield = Shield(self.on_interrupt)
        self.output: Output | None = None  # what forwards what calls write, if anything does

    def forward_output(self, levels: Mapping[str, int]) -> None:
        """Send on what is written in this process; ``levels`` are those of the parent's loggers."""
        self.output = Output(self, self._shield, levels)
        self.output.install()

    def run(self) -> None:
        """Serve until the parent closes its end."""
        decoder = Decoder()
        try:
            while count := self._sock.recv_into(decoder.get_buffer()):
                for frame in decoder.received(count):
                    self._perform(frame)
                self._linger()
        except Spoilt:
            return

    def on_interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        """Signal handler: stop the call the parent means, else hand in what is finished.

        A signal that comes late finds another call running and must not touch it; one that
        comes from a terminal finds no target at all.
        """
        current = self.current
        if not current or self._shield.puts_off():
            return
        self._strike(current)
        self.current = 0  # another signal must not break into what is being sent
        if self.output is not None and self.output.writer != current:
            self.output.finish()  # what is unfinished belongs to the calls before
        self._report(self._words[SINCE])
        self._mark = self._words[SINCE]  # the running call's time is its own
        self.current = current
        self._strike(current)

    def _strike(self, current: int) -> None:
        """Stop the running call if it is the one that is to stop, once."""
        if self._words[TARGET] == current != self._struck:
            self._struck = current
            raise Interrupted

    def send(self, kind: int, body: Bytes, buffers: Iterable[Bytes] = ()) -> None:
        """Write one frame whole, from any thread.

        A finalizer that prints amid another frame of the same thread adds its own behind that.
        """
        pieces = encode(kind, body, list(buffers))
        if len(pieces) > 1 and sum(map(len, pieces)) < _JOIN:
            pieces = [b"".join(pieces)]
        with self._sending:
            if self._amid:
                self._next += pieces
                return
            self._amid = True
            try:
                for piece in pieces:
                    self._sock.sendall(piece)
                while self._next:
                    self._sock.sendall(self._next.popleft())
            finally:
                self._amid = False

    def _linger(self) -> None:
        """Stay awake for a moment if the last calls came soon after the ones before.

        The parent wakes a process that sleeps at a cost larger than that of many a call. Whoever
        else wants the processor has it meanwhile.
        """
        if self._brisk:
            words, heard, until = self._words, self._heard, monotonic_ns() + _LINGER
            while words[SENT] == heard and monotonic_ns() < until:
                give_way()

    def _perform(self, frame: Frame) -> None:
        forget, groups = loads(frame.body, frame.buffers)
        if forget:
            self._functions.clear()
        if not groups:
            sweep()
        now = monotonic_ns()
        self._heard += 1
        self._brisk = now - self._sent < _LINGER
        self._mark = self._sent = now
        for group in groups:
            self._run_group(self._prepared(group))
        self._flush(monotonic_ns())

    def _prepared(self, group: Group) -> Group:
        """Take from a group what is to be kept for it: its function, and its variables' values."""
        first, function, code, mode, load = group
        if code is not None:
            self._functions[function] = code
        self._context = None
        if not mode & CONTEXT:
            return group
        self._context, load = load
        return first, function, None, mode, load

    def _run_group(self, group: Group) -> None:
        """Run consecutive calls of one function. The hot loop: keep it lean."""
        first, function, _, mode, load = group
        kind: int
        value: Any
        packed, star, exact = not mode & SCALARS, mode & STAR, mode & EXACT
        words, values, fn = self._words, self._values, None
        then = monotonic_ns()
        for seq, item in enumerate(load if packed else loads(load), first):
            kind, arg, value = VALUES, None, None
            try:
                try:
                    self.current = seq  # before STARTED, or an interrupt could come too early
                    words[SINCE], words[STARTED] = then, seq
                    if words[SKIP_FROM] <= seq < words[SKIP_TO]:
                        kind = SKIPPED
                    else:
                        fn = self._function(function) if fn is None else fn
                        arg = unpack(item) if packed else item
                        value = fn(*arg) if star else fn(arg)
                        if type(value) not in SCALAR_TYPES:
                            kind, value = VALUE, _pack_result(fn, value)
                    self.current = 0
                except BaseException as error:  # noqa: BLE001 - whatever a call raises
                    self.current = 0
                    kind, value = self._failure(error)
            except Interrupted:  # it struck between the two lines above
                self.current = 0
                kind, value = INTERRUPTED, None
            now = monotonic_ns()
            if kind or exact:
                safe = self._add(seq, kind, value, then, now, exact)
            else:
                values.append(value)
                self._last, safe = seq, True
            if not safe or now - self._sent > _TOGETHER:
                now = self._hand_in(then, now)
            arg = value = None  # freed before the next call starts: freeing may run code too
            then = now
        self._close_run(then)  # a segment tells of calls of one function

    def _function(self, number: int) -> Callable[..., Any]:
        """The function of that number, unpickled by the first call of it."""
        function = self._functions[number]
        if isinstance(function, bytes):
            function = self._functions[number] = loads(function)
        return function if self._context is None else within(self._context, function)

    def _failure(self, error: BaseException) -> tuple[int, Any]:
        """How a call that raised ended."""
        spoilt = _broke_an_import(error)
        # Before 3.12 what strikes in a class's ``__set_name__`` comes as a RuntimeError's cause.
        if isinstance(error, Interrupted) or (spoilt and isinstance(error.__cause__, Interrupted)):
            self._spoilt = spoilt
            return INTERRUPTED, None
        return ERROR, encode_failure(error, dumps, loads)

    def _add(  # noqa: PLR0913, PLR0917 - how one call ended, from the hot loop
        self,
        seq: int,
        kind: int,
        payload: Any,  # noqa: ANN401 - a scalar, or as messages.py says of the kind
        then: int,
        now: int,
        exact: int,
    ) -> bool:
        """Take in how one call ended; False if that must be sent before the next one starts."""
        self._close_run(then)
        segment = (seq, 1, now - then, kind, payload if kind else dumps([payload]))
        self._segments.append(segment)
        self._last = seq
        self._mark = now
        if self._spoilt:
            self._flush(now)
            raise Spoilt
        if exact:
            wrote = self.output is not None and self.output.unsettled
            return not wrote and self._journal.note(segment)
        return kind != VALUE or not payload[1]  # buffers are the value's own memory

    def _close_run(self, now: int) -> None:
        """Make a segment of the scalar results, the last of which was there at ``now``."""
        values = self._values
        if values:
            first = self._last - len(values) + 1
            spent = now - self._mark
            self._segments.append((first, len(values), spent, VALUES, dumps(values)))
            values.clear()
            self._mark = now

    def _hand_in(self, then: int, now: int) -> int:
        """Send what is finished; a last call much longer than the others is told apart.

        Returns when that was done: sending may take long, and is no call's time.
        """
        values = self._values
        if len(values) > 1 and now - then > _TOGETHER // 2:
            longest = values.pop()
            self._last -= 1
            self._close_run(then)
            values.append(longest)
            self._last += 1
        self._flush(now)
        return self._mark

    def _flush(self, now: int) -> None:
        """Send what is finished: the calls' last lines, then their results."""
        if self.output is not None and self.output.unsettled:
            self.output.finish()
        self._report(now)

    def _report(self, now: int) -> None:
        self._close_run(now)
        if self._segments:
            body, buffers = seal((self._segments, _resident() if self._measure else 0))
            self.send(RESULTS, body, buffers)
            self._segments.clear()
        self._words[FINISHED] = self._last
        self._journal.wipe()
        self._mark = self._sent = monotonic_ns()


def _pack_result(function: object, value: object) -> Packed:
    try:
        return pack(value)
    except Interrupted:
        raise
    except BaseException as error:
        if isinstance(value, CoroutineType):
            value.close()  # nobody will ever await it
        what = f"the result of {getattr(function, '__qualname__', function)}()"
        through = (Interrupted,)
        raise explain(value, error, what=what, can_pickle=can_pickle, through=through) from error


def _broke_an_import(error: BaseException) -> bool:
    """Whether it was raised while a module was being imported, which few survive half done.

    The frames of the import system itself are cut out of tracebacks; a module's own is not.
    """
    frames = error.__traceback__
    while frames is not None:
        if frames.tb_frame.f_code.co_name == "<module>":
            return True
        frames = frames.tb_next
    return False


def _resident() -> int:
    """Memory this process holds, in bytes; its peak where the present figure is not told.

    Without what is shared, or kept to receive arguments into: that is no call's doing.
    """
    try:
        return held("self") - unused()
    except OSError:
        import resource  # not on every platform, and only wanted here

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
