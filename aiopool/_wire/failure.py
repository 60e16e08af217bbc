"""How an exception travels from the call that raised it to the caller.

The worker makes a ``Failure`` of it, plain tuples, strings and bytes that an envelope can hold;
the parent makes an exception of that again: the same type, arguments, notes, ``__cause__`` and
``__context__``, with the traceback as text at the end of its chain of causes, where
``traceback`` prints it first. ``concurrent.futures`` puts the text into ``__cause__`` too, but
loses the real causes to it.

Rules:

- Every member of a chain, and every exception in a group, is pickled on its own and tried out by
  unpickling it in the worker. What does not survive becomes a ``RemoteError`` in its place, and
  so does a raised one that would act on the caller's program: ``is_lethal``.
- Exceptions run their authors' code when they are shown, pickled, assigned to, even when they
  are tested for truth. None of it may fail the call that carries them: attributes are reached
  through ``BaseException``, the rest is guarded, and what a guard catches is told in the result.
- No exception is kept alive: a ``Failure`` holds none, and a rebuilt one refers to no frame.

It deliberately carries no frames, only their text, and no attribute that the exception's class
does not pickle.
"""

from __future__ import annotations

import traceback
from collections import deque
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast, final

from aiopool.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_Description: TypeAlias = "tuple[str, str, tuple[str, ...]]"
"""Type name, message and notes: enough to make a ``RemoteError`` of."""

_Links: TypeAlias = "tuple[int | None, int | None, bool]"
"""Places of ``__cause__`` and ``__context__`` among the members, ``__suppress_context__``."""

_Content: TypeAlias = "tuple[bytes | None, _Description, tuple[int, ...]]"
"""The pickle, None if there is none; the description; for a group the places of what is in it."""

Failure: TypeAlias = "tuple[str, tuple[tuple[_Content, _Links], ...]]"
"""Traceback text and members: links only point backwards, the exception itself comes last."""

LONGEST_CHAIN: Final = 64
"""Exceptions behind one another; what lies deeper is told in the traceback text only."""

LONGEST_TEXT: Final = 64 * 1024
"""Characters of a traceback, message or note; the middle of a longer one is left out."""

_PACKAGE: Final = __file__.rpartition("_wire")[0]
_OUR_FRAMES: Final = f"{_PACKAGE}_worker", f"{_PACKAGE}_backends", f"{_PACKAGE}_wire"

_FIELDS: Final = vars(BaseException)


@final
class RemoteTraceback(Exception):
    """The traceback of an exception from another process or thread, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def is_lethal(exc: BaseException) -> bool:
    """Whether raising it in the caller's program would do more than report a failure.

    It may end the event loop, pass for the caller's own cancellation, or be refused by a future.
    """
    kind = type(exc)  # not isinstance, which believes what the exception says of its class
    return not issubclass(kind, Exception) or issubclass(
        kind, (StopIteration, StopAsyncIteration, CancelledError)
    )


def remote_error(exc: BaseException) -> RemoteError:
    """Stand in for an exception of this process; refers neither to it nor to its frames."""
    with _left_as_it_was(exc):
        text = _traceback_text(exc)
        error = _stand_in(_describe(exc), text)
    _end_chain(error, text)
    return error


def harmless(exc: BaseException) -> Exception:
    """The exception itself, or what stands in for it if it is lethal."""
    return remote_error(exc) if is_lethal(exc) else cast("Exception", exc)


def encode_failure(
    exc: BaseException, dumps: Callable[[object], bytes], loads: Callable[[bytes], object]
) -> Failure:
    """Make it plain, with its whole chain; never raises, whatever the exceptions' hooks do."""
    encoder = _Encoder(dumps, loads)
    with _left_as_it_was(exc):
        encoder.place(exc)
        return _traceback_text(exc), tuple(encoder.members)


def decode_failure(failure: Failure, loads: Callable[[bytes], object]) -> Exception:
    """Rebuild the exception; what cannot be rebuilt here comes as a ``RemoteError``.

    It never raises: what unpickling raises, KeyboardInterrupt included, came out of the pickle.
    """
    text, members = failure
    decoder = _Decoder(text, loads)
    for content, links in members:
        decoder.add(content, links)
    error = decoder.members[-1]
    if is_lethal(error):
        content, links = members[-1]
        error = decoder.stand_in(content, links, f"its copy is a {_type_name(error)}")
    _end_chain(error, text)
    return cast("Exception", error)


@final
class _Encoder:
    """Walks what an exception refers to, depth first, and gives each its place after those."""

    def __init__(self, dumps: Callable[[object], bytes], loads: Callable[[bytes], object]) -> None:
        self._dumps = dumps
        self._loads = loads
        self._places: dict[int, int | None] = {}  # by id; None until all it refers to has one
        self.members: list[tuple[_Content, _Links]] = []

    def place(self, exc: BaseException | None, depth: int = 0) -> int | None:
        """Where it is among the members; None if left out, as the link that closes a cycle is.

        A ``RemoteTraceback`` is left out too: the text of this failure contains it.
        """
        if exc is None or depth > LONGEST_CHAIN or type(exc) is RemoteTraceback:
            return None
        if id(exc) not in self._places:
            self._places[id(exc)] = None
            cause = self.place(_get(exc, "__cause__"), depth + 1)
            context = self.place(_get(exc, "__context__"), depth + 1)
            links = cause, context, bool(_get(exc, "__suppress_context__"))
            self._places[id(exc)] = self._append(exc, links, depth)
        return self._places[id(exc)]

    def _append(self, exc: BaseException, links: _Links, depth: int) -> int:
        content = self._content(exc, depth)
        self.members.append((content, links))
        return len(self.members) - 1

    def _content(self, exc: BaseException, depth: int) -> _Content:
        type_name, message, notes = _describe(exc)
        if depth == 0 and is_lethal(exc):
            return None, (type_name, message, notes), ()
        if depth < LONGEST_CHAIN and (grouped := _grouped(exc)):
            message = _text(cast("BaseExceptionGroup[BaseException]", exc).message)
            children = tuple(self._child(one, depth + 1) for one in grouped)
            return None, (type_name, message, notes), children
        payload, reason = self._pickle(exc)
        if reason:
            notes = (*notes, f"It could not be sent as itself: {reason}")
        return payload, (type_name, message, notes), ()

    def _child(self, exc: BaseException, depth: int) -> int:
        """The place of a member of a group; without links if it is what the group hangs on."""
        place = self.place(exc, depth)
        return self._append(exc, (None, None, False), depth) if place is None else place

    def _pickle(self, exc: BaseException) -> tuple[bytes | None, str]:
        """The pickle, or why there is none that comes back as the same type.

        Arguments and notes go beside the exception, which costs a reference in the pickle, as
        ``__init__`` and ``__reduce__`` may change or drop them; alone it goes if it drops what
        could not be pickled.
        """
        reason = ""
        for whole in (True, False):
            try:
                payload = self._dumps((exc, _extras(exc) if whole else None))
                copy = _unpickle(payload, self._loads)
                if type(copy) is type(exc):
                    return payload, ""
                reason = f"its copy is a {_type_name(copy)}"
            except BaseException as error:  # noqa: BLE001 - whatever the exception's hooks raise
                reason = _last_words(error)
        return None, reason


@final
class _Decoder:
    """Rebuilds one member after the other, each linked to those before it."""

    def __init__(self, text: str, loads: Callable[[bytes], object]) -> None:
        self._text = text
        self._loads = loads
        self.members: list[BaseException] = []
        self._used: set[int] = set()  # ids of the members: aliases would make cycles

    def add(self, content: _Content, links: _Links) -> None:
        """Rebuild the next member, or stand in for it."""
        try:
            error = self._rebuild(content)
            self._link(error, links)
        except BaseException as why:  # noqa: BLE001 - whatever the exception's hooks raise
            error = self.stand_in(content, links, _last_words(why))
        self._used.add(id(error))
        self.members.append(error)

    def stand_in(self, content: _Content, links: _Links, reason: str) -> RemoteError:
        """Take a ``RemoteError`` for it, linked alike."""
        error = _stand_in(content[1], self._text)
        error.add_note(f"It could not be rebuilt in the caller's process: {reason}")
        self._link(error, links)
        return error

    def _rebuild(self, content: _Content) -> BaseException:
        payload, (type_name, message, notes), children = content
        if children:
            group = BaseExceptionGroup(message, [self.members[child] for child in children])
            for note in notes:
                group.add_note(note)
            return group
        if payload is None:
            return _stand_in((type_name, message, notes), self._text)
        error = _unpickle(payload, self._loads)
        if id(error) in self._used:
            raise ValueError("its copy stands for another exception already")
        return error

    def _link(self, error: BaseException, links: _Links) -> None:
        cause, context, suppress = links
        _set(error, "__cause__", None if cause is None else self.members[cause])
        _set(error, "__context__", None if context is None else self.members[context])
        _set(error, "__suppress_context__", suppress)


def _get(exc: BaseException, name: str) -> Any:  # noqa: ANN401 - each field has its own type
    """A field that every exception has, whatever its class puts in the way of attributes."""
    return _FIELDS[name].__get__(exc)


def _set(exc: BaseException, name: str, value: object) -> None:
    """Set such a field; that of a frozen dataclass too."""
    _FIELDS[name].__set__(exc, value)


@contextmanager
def _left_as_it_was(exc: BaseException) -> Iterator[None]:
    """Undo what a hook does that raises its own exception: that takes up our frames, and us it."""
    met: dict[int, tuple[BaseException, TracebackType | None, BaseException | None]] = {}
    ahead: deque[BaseException | None] = deque([exc])
    while ahead:
        one = ahead.popleft()
        if one is not None and id(one) not in met:
            met[id(one)] = one, _get(one, "__traceback__"), _get(one, "__context__")
            ahead += _get(one, "__cause__"), _get(one, "__context__")
            ahead += _grouped(one)
    yield
    for one, frames, context in met.values():
        _set(one, "__traceback__", frames)
        _set(one, "__context__", context)


def _grouped(exc: BaseException) -> tuple[BaseException, ...]:
    """What is in it if it is a group, of no class but the builtin ones."""
    kind = type(exc)  # compared by identity, as comparing may run code of its metaclass
    if kind is BaseExceptionGroup or kind is ExceptionGroup:
        return cast("BaseExceptionGroup[BaseException]", exc).exceptions
    return ()


def _extras(exc: BaseException) -> tuple[Any, Any]:
    return _get(exc, "args"), _get(exc, "__dict__").get("__notes__")


def _unpickle(payload: bytes, loads: Callable[[bytes], object]) -> BaseException:
    """Undo ``_Encoder._pickle``; raises whatever the exception's hooks raise."""
    copy, extras = cast("tuple[BaseException, tuple[Any, Any] | None]", loads(payload))
    if extras is not None:
        args, notes = extras
        _set(copy, "args", args)
        if notes is not None:
            _get(copy, "__dict__")["__notes__"] = notes
    return copy


def _stand_in(description: _Description, text: str) -> RemoteError:
    type_name, message, notes = description
    error = RemoteError(type_name, message, text)
    for note in notes:
        error.add_note(note)
    return error


def _end_chain(error: BaseException, text: str) -> None:
    """Put the traceback behind the last exception that printing ``error`` shows."""
    last = error
    while (behind := _shown_behind(last)) is not None:
        last = behind
    suppress = _get(last, "__suppress_context__")  # which assigning a cause changes
    _set(last, "__cause__", RemoteTraceback(text))
    _set(last, "__suppress_context__", suppress)


def _shown_behind(exc: BaseException) -> BaseException | None:
    cause: BaseException | None = _get(exc, "__cause__")
    if cause is not None or _get(exc, "__suppress_context__"):
        return cause
    context: BaseException | None = _get(exc, "__context__")
    return context


def _traceback_text(exc: BaseException) -> str:
    """What Python prints for it, without the frames that are aiopool's own."""
    frames: TracebackType | None = _get(exc, "__traceback__")
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OUR_FRAMES):
        frames = frames.tb_next
    try:
        whole = traceback.TracebackException(type(exc), exc, frames, compact=True)
        return _bounded("".join(whole.format()))
    except BaseException:  # noqa: BLE001 - a hook again; the frames alone run none
        return _bounded("".join(traceback.format_tb(frames))) + _line(exc) + "\n"


def _describe(exc: BaseException) -> _Description:
    notes = _extras(exc)[1]
    if type(notes) is not list:
        notes = ()
    return _type_name(exc), _text(exc), tuple(_text(note) for note in notes)


def _line(exc: BaseException) -> str:
    return f"{_type_name(exc)}: {_text(exc)}"


def _last_words(error: BaseException) -> str:
    """Describe what was caught; if anybody keeps it, it does not keep our frames."""
    _set(error, "__traceback__", None)
    return _line(error)


def _type_name(obj: object) -> str:
    """What ``traceback`` calls its type: qualified, but for builtins and ``__main__``."""
    kind = type(obj)
    try:
        module, name = _text(kind.__module__), _text(kind.__qualname__)
    except BaseException:  # noqa: BLE001 - the metaclass's doing
        return "<type without a name>"
    return name if module in {"builtins", "__main__", "__mp_main__"} else f"{module}.{name}"


def _text(obj: object) -> str:
    """The plain string that ``str`` makes of it, bounded."""
    try:
        return _bounded(str.__str__(str(obj)))
    except BaseException:  # noqa: BLE001 - whatever its __str__ raises
        return "<str() of it failed>"


def _bounded(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n... {left_out} characters left out ...\n{text[-half:]}"
