"""Exceptions on their way from a call to its caller, without a process in between."""

import asyncio
import concurrent.futures
import gc
import marshal
import pickle
import re
import threading
import traceback
import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest

from aiopool._wire import failure, pickling
from aiopool._wire.failure import (
    LONGEST_CHAIN,
    LONGEST_TEXT,
    RemoteTraceback,
    decode_failure,
    encode_failure,
    harmless,
    is_lethal,
    remote_error,
)
from aiopool.errors import NotTransferable, RemoteError, TaskTimeout, WorkerCrashed
from tests import jobs
from tests.helpers import run_python


def caught(fn, *args):
    """Return what `fn` raises, with its traceback, as a worker's loop gets to see it."""
    try:
        fn(*args)
    except BaseException as error:  # noqa: BLE001 - any of them is what was asked for
        return error
    raise AssertionError("it raised nothing")


def encoded(error):
    """Encode it and prove the outcome plain: marshal takes exact builtins and nothing else."""
    return marshal.loads(marshal.dumps(encode_failure(error, pickle.dumps, pickle.loads)))


def crossed(error):
    return decode_failure(encoded(error), pickle.loads)


def raised_there(fn, *args):
    return crossed(caught(fn, *args))


def printed(error):
    return "".join(traceback.format_exception(error))


def chain(error):
    """List the exception and its causes; fails if they go round."""
    found = []
    while error is not None:
        assert not any(error is other for other in found)
        found.append(error)
        error = error.__cause__
    return found


# --- what is kept ---------------------------------------------------------------------------


class Attributed(Exception):
    pass


class Formats(Exception):
    """Makes its message of its argument, and so a message of the message when rebuilt."""

    def __init__(self, path):
        super().__init__(f"no such thing: {path}")
        self.path = path


class Terse(Exception):
    """Leaves out of its pickle what is no argument."""

    def __reduce__(self):
        return Terse, self.args


class LeavesOut(Exception):
    """Holds a lock among its arguments, and knows how to be pickled without it."""

    def __reduce__(self):
        return LeavesOut, ("without a lock",)


@dataclass(frozen=True)
class Frozen(Exception):
    """Refuses every assignment, the ones that unpickling makes included."""

    code: int


@dataclass(frozen=True)
class FrozenButFair(Exception):
    """Refuses every assignment, but pickles well."""

    code: int

    def __reduce__(self):
        return FrozenButFair, (self.code,)


def test_type_arguments_and_attributes_are_kept():
    """An ordinary exception arrives with its type, its arguments and its attributes."""
    error = Attributed("text", 3, {"k": [1]})
    error.code = 7
    copy = crossed(error)
    assert type(copy) is Attributed
    assert copy.args == ("text", 3, {"k": [1]})
    assert copy.code == 7


@pytest.mark.parametrize(
    "error",
    [
        OSError(2, "No such file", "there"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        KeyError("k"),
        MemoryError(),
        RecursionError("too deep"),
        TimeoutError("its own"),
        TaskTimeout("crunch()", 5.0, "deadline"),
        WorkerCrashed("crunch()", pid=3, exitcode=-9),
        NotTransferable("the result of f()", "[0]", "TypeError: no", "Send its text"),
        RemoteError("x.Y", "m", "t"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_with_state_of_their_own_are_kept(error):
    """Exceptions that hold more than arguments look and print the same on the other side."""
    copy = crossed(error)
    assert type(copy) is type(error)
    assert copy.args == error.args
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_notes_are_kept():
    """Notes arrive in order, as the list they were."""
    error = ValueError(1)
    error.add_note("one")
    error.add_note("two")
    assert crossed(error).__notes__ == ["one", "two"]


def test_notes_outlive_a_reduce_that_drops_them():
    """A class that pickles its arguments only does not lose the notes of its instances."""
    error = Terse("x")
    error.add_note("one")
    copy = crossed(error)
    assert type(copy) is Terse
    assert copy.__notes__ == ["one"]


def test_arguments_changed_on_the_way_are_put_right():
    """An `__init__` that formats its message neither costs the type nor doubles the message."""
    copy = crossed(Formats("/tmp/x"))
    assert type(copy) is Formats
    assert copy.args == ("no such thing: /tmp/x",)
    assert copy.path == "/tmp/x"


def test_arguments_that_an_exception_leaves_out_cost_nothing_else():
    """What a class does not pickle by its own choice does not keep its instances from crossing."""
    copy = crossed(LeavesOut(threading.Lock()))
    assert type(copy) is LeavesOut
    assert copy.args == ("without a lock",)


def test_arguments_and_attributes_stay_the_same_objects():
    """An object that is both an argument and an attribute is so on the other side too."""
    shared = ["s"]
    error = Attributed(shared)
    error.it = shared
    copy = crossed(error)
    assert copy.args[0] is copy.it


def test_frozen_dataclass_gets_its_chain():
    """An exception that refuses assignments arrives with its cause and its traceback."""
    error = FrozenButFair(3)
    BaseException.__setattr__(error, "__cause__", KeyError("k"))
    copy = crossed(error)
    assert type(copy) is FrozenButFair
    assert copy.code == 3
    assert [type(link) for link in chain(copy)] == [FrozenButFair, KeyError, RemoteTraceback]


def test_class_that_only_cloudpickle_can_send_is_kept():
    """An exception of a local class keeps its type when the pickler sends classes by value."""
    error = caught(jobs.raise_local)
    wire = encode_failure(error, pickling.dumps, pickling.loads)
    assert type(decode_failure(wire, pickling.loads)) is type(error)


def test_original_is_left_alone():
    """Encoding changes nothing about the exception it encodes."""
    error = caught(jobs.raise_chained)
    before = error.__traceback__, error.__cause__, error.__context__, list(error.__notes__)
    encoded(error)
    after = error.__traceback__, error.__cause__, error.__context__, list(error.__notes__)
    assert after == before


# --- the chain ------------------------------------------------------------------------------


def raise_during_handling():
    try:
        raise KeyError("first")
    except KeyError:
        raise ValueError("second")  # noqa: B904 - the context is what matters


def raise_from_none():
    try:
        raise KeyError("hidden")
    except KeyError:
        raise ValueError("shown") from None


def raise_from_another():
    try:
        raise KeyError("context")
    except KeyError:
        raise ValueError("effect") from OSError("cause")


def test_cause_is_kept():
    """`raise ... from cause` arrives as that, with the notes of each."""
    copy = raised_there(jobs.raise_chained)
    assert (type(copy), copy.args, copy.__notes__) == (ValueError, ("effect",), ["a note"])
    assert (type(copy.__cause__), copy.__cause__.args) == (KeyError, ("cause",))
    assert copy.__context__ is copy.__cause__
    assert copy.__suppress_context__


def test_context_is_kept():
    """An exception raised while handling another still says so."""
    copy = raised_there(raise_during_handling)
    assert copy.__cause__ is None
    assert copy.__context__.args == ("first",)
    assert not copy.__suppress_context__
    assert "During handling of the above exception" in printed(copy)


def test_suppressed_context_stays_suppressed():
    """`raise ... from None` keeps its context, and keeps it from being printed."""
    copy = raised_there(raise_from_none)
    assert copy.__suppress_context__
    assert copy.__context__.args == ("hidden",)
    assert "hidden" not in printed(copy)
    assert isinstance(copy.__cause__, RemoteTraceback)


def test_cause_and_context_may_differ():
    """A cause and another context arrive both."""
    copy = raised_there(raise_from_another)
    assert copy.__cause__.args == ("cause",)
    assert copy.__context__.args == ("context",)


def test_what_is_shared_in_a_chain_stays_shared():
    """The context of a context that is also the cause is one exception on both sides."""
    error, cause, context = ValueError(1), KeyError(2), OSError(3)
    error.__cause__, error.__context__, context.__context__ = cause, context, cause
    copy = crossed(error)
    assert type(copy.__cause__) is KeyError
    assert copy.__context__.__context__ is copy.__cause__


def test_one_bad_cause_does_not_spoil_the_rest():
    """A cause that cannot cross is stood in for; those around it arrive as themselves."""
    error, bad, deep = ValueError("top"), jobs.HoldsLock("held"), KeyError("deep")
    error.__cause__, bad.__cause__ = bad, deep
    top, middle, bottom, text = chain(crossed(error))
    assert (type(top), type(middle), type(bottom)) == (ValueError, RemoteError, KeyError)
    assert (middle.type_name, middle.message) == ("tests.jobs.HoldsLock", "held")
    assert isinstance(text, RemoteTraceback)


def test_stand_in_keeps_the_real_chain():
    """An exception that cannot cross leaves its cause, context and notes to its stand-in."""
    error = jobs.HoldsLock("held")
    error.__cause__ = KeyError("cause")
    error.__context__ = OSError("context")
    error.add_note("a note")
    copy = crossed(error)
    assert type(copy) is RemoteError
    assert copy.__cause__.args == ("cause",)
    assert copy.__context__.args == ("context",)
    assert copy.__notes__[0] == "a note"


def test_cycle_in_a_chain_is_opened():
    """A chain that leads back to itself arrives, without the link that closes it."""
    error, cause = ValueError(1), KeyError(2)
    error.__cause__, cause.__cause__ = cause, error
    assert [type(link) for link in chain(crossed(error))] == [ValueError, KeyError, RemoteTraceback]


def test_exception_that_is_its_own_cause_arrives():
    """The shortest cycle there can be is opened too."""
    error = ValueError(1)
    error.__cause__ = error
    assert [type(link) for link in chain(crossed(error))] == [ValueError, RemoteTraceback]


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_long_chain_is_cut(link):
    """Of a chain of thousands the nearest exceptions arrive, and a bounded text."""
    error = first = ValueError(0)
    for number in range(1, 3_000):
        following = ValueError(number)
        setattr(error, link, following)
        error = following
    copy, numbers = crossed(first), []
    while not isinstance(copy, RemoteTraceback):
        numbers.append(copy.args[0])
        copy = copy.__cause__ or copy.__context__
    assert numbers == list(range(LONGEST_CHAIN + 1))
    assert len(copy.text) < LONGEST_TEXT + 100


def test_text_goes_behind_a_cause_that_suppresses_nothing():
    """The text is put behind the cause even where a cause was given without hiding the context."""
    error = ValueError(1)
    error.__cause__, error.__context__ = KeyError(2), OSError(3)
    error.__suppress_context__ = False
    copy = crossed(error)
    assert not copy.__suppress_context__
    assert copy.__context__.__cause__ is None
    assert [type(link) for link in chain(copy)] == [ValueError, KeyError, RemoteTraceback]


def test_lethal_cause_is_kept():
    """A cancellation that a timeout was made of is no danger as a cause, and stays what it is."""
    error = TimeoutError()
    error.__cause__ = asyncio.CancelledError()
    error.__context__ = BaseExceptionGroup("g", [KeyboardInterrupt(), jobs.HoldsLock("held")])
    copy = crossed(error)
    assert type(copy.__cause__) is asyncio.CancelledError
    assert type(copy.__context__) is BaseExceptionGroup
    assert [type(one) for one in copy.__context__.exceptions] == [KeyboardInterrupt, RemoteError]


# --- the remote traceback -------------------------------------------------------------------


def test_remote_traceback_is_printed_first():
    """Printing the exception shows where it was raised, above what it is."""
    text = printed(raised_there(jobs.fail, 3))
    assert text.startswith("aiopool._wire.failure.RemoteTraceback:")
    assert text.index("in fail") < text.index("direct cause") < text.rindex("ValueError: 3")


def test_remote_traceback_covers_the_chain():
    """The text shows where each exception of the chain was raised."""
    *_, last = chain(raised_there(jobs.raise_chained))
    assert 'raise KeyError("cause")' in last.text
    assert "raise error from cause" in last.text
    assert last.text in str(last)


def test_remote_traceback_leaves_suppress_context_alone():
    """Hanging the text on an exception does not change what it says of its context."""
    copy = raised_there(jobs.fail, 3)
    assert isinstance(copy.__cause__, RemoteTraceback)
    assert not copy.__suppress_context__


def test_own_frames_at_the_head_are_trimmed():
    """Frames of the serve loop are not shown, those of the call are, whoever it calls."""
    file = Path(failure.__file__).parent.parent / "_worker" / "serve.py"
    scope = {}
    exec(compile("def serve(fn, *args):\n    fn(*args)\n", file, "exec"), scope)
    wire = encoded(strip_first_frame(caught(scope["serve"], call, scope["serve"])))
    text, _ = wire
    assert text.count("in serve") == 1
    assert text.index("in call") < text.index("in serve") < text.index("in fail")


def strip_first_frame(error):
    return error.with_traceback(error.__traceback__.tb_next)


def call(again):
    again(jobs.fail, 1)


def test_second_journey_tells_the_whole_story_once():
    """An exception that crosses twice has one remote traceback, which contains the first."""

    def again():
        raise raised_there(jobs.fail, 3)

    *_, only = found = chain(raised_there(again))
    assert [type(link) for link in found] == [ValueError, RemoteTraceback]
    assert "in fail" in only.text
    assert "in again" in only.text


def test_texts_are_bounded():
    """A huge message costs the traceback its middle, which it says, and the value nothing."""
    huge = "<" + "x" * (1 << 20) + ">"
    copy = raised_there(jobs.fail, huge)
    assert copy.args == (huge,)
    text = copy.__cause__.text
    assert len(text) < LONGEST_TEXT + 100
    assert text.startswith("Traceback")
    assert text.endswith("x>\n")
    assert "characters left out" in text


def test_message_and_notes_of_a_stand_in_are_bounded():
    """A stand-in's message and notes are cut like a traceback."""
    error = jobs.HoldsLock("x" * (1 << 20))
    error.add_note("y" * (1 << 20))
    copy = crossed(error)
    for text in copy.message, copy.__notes__[0]:
        kept, left_out = re.subn(r"\n\.\.\. \d+ characters left out \.\.\.\n", "", text)
        assert left_out == 1
        assert len(kept) == LONGEST_TEXT
        assert f" {(1 << 20) - LONGEST_TEXT} " in text


# --- what cannot cross ----------------------------------------------------------------------


class Shifty(Exception):
    """Comes out of its pickle as something else."""

    def __init__(self, other):
        super().__init__("shifty")
        self.other = other

    def __reduce__(self):
        return self.other, ()


class RaisesInReduce(Exception):
    def __init__(self, error):
        super().__init__("original")
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize(
    ("job", "name", "message", "reason"),
    [
        (jobs.raise_two_args, "tests.jobs.TwoArgs", "left and right", "'right'"),
        (jobs.raise_keyword_only, "tests.jobs.KeywordOnly", "code 7", "positional argument"),
        (jobs.raise_holding_lock, "tests.jobs.HoldsLock", "held", "_thread.lock"),
        (
            jobs.raise_local,
            "tests.jobs.raise_local.<locals>.LocalError",
            "nobody can import me",
            "local object",
        ),
    ],
)
def test_what_does_not_survive_pickling_is_stood_in_for(job, name, message, reason):
    """A `RemoteError` names the original, says what was wrong with it and where it was raised."""
    copy = raised_there(job)
    assert type(copy) is RemoteError
    assert (copy.type_name, copy.message) == (name, message)
    assert f"in {job.__name__}" in copy.traceback_text
    assert reason in copy.__notes__[-1]
    assert isinstance(copy.__cause__, RemoteTraceback)


def test_frozen_dataclass_is_stood_in_for():
    """An exception that refuses the assignments of unpickling is named by a `RemoteError`."""
    copy = crossed(Frozen(3))
    assert type(copy) is RemoteError
    assert copy.type_name.endswith("Frozen")
    assert "FrozenInstanceError" in copy.__notes__[0]


@pytest.mark.parametrize("other", [ValueError, StopIteration, dict])
def test_copy_of_another_type_is_refused(other):
    """An exception that comes back as something else is stood in for."""
    copy = crossed(Shifty(other))
    assert type(copy) is RemoteError
    assert f"its copy is a {other.__name__}" in copy.__notes__[0]


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr
)
def test_nothing_that_pickling_raises_gets_out(error):
    """Whatever a `__reduce__` raises, the call's failure is told, and that."""
    copy = crossed(RaisesInReduce(error))
    assert (type(copy), copy.message) == (RemoteError, "original")
    assert type(error).__name__ in copy.__notes__[0]


def test_refusal_of_a_result_crosses():
    """The error that says why a result cannot be sent arrives with each of its fields."""
    error = NotTransferable("the result of ret_lock()", "['a']", "TypeError: no", "Send its text")
    error.__cause__ = caught(pickle.dumps, jobs.ret_lock())
    copy = crossed(error)
    assert vars(copy) == vars(error)
    assert "_thread.lock" in str(copy.__cause__)


# --- what must not be raised as itself ------------------------------------------------------


class Custom(BaseException):
    pass


class SubStop(StopIteration):
    pass


LETHAL = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError("stop"),
    concurrent.futures.CancelledError(),
    StopIteration(4),
    SubStop(),
    StopAsyncIteration(),
    Custom("c"),
    BaseExceptionGroup("g", [ValueError(), KeyboardInterrupt()]),
]


@pytest.mark.parametrize("error", LETHAL, ids=lambda error: type(error).__name__)
def test_lethal_exceptions_are_wrapped(error):
    """What would stop a loop, hang a future or pass for a cancellation becomes a `RemoteError`."""
    assert is_lethal(error)
    copy = raised_there(jobs.raise_it, error)
    assert type(copy) is RemoteError
    assert copy.type_name.endswith(type(error).__name__)
    assert copy.message == str(error)
    assert "in raise_it" in copy.traceback_text


@pytest.mark.parametrize(
    "error",
    [ValueError(), TimeoutError(), MemoryError(), ExceptionGroup("g", [StopIteration(1)])],
    ids=repr,
)
def test_ordinary_exceptions_are_not_lethal(error):
    """Ordinary exceptions are raised as they are, a group of any exceptions included."""
    assert not is_lethal(error)
    assert type(crossed(error)) is type(error)


def test_names_of_builtins_are_short():
    """Types are named as a traceback names them."""
    assert str(raised_there(jobs.sys_exit, 3)) == "SystemExit: 3"
    assert str(crossed(asyncio.CancelledError())) == "asyncio.exceptions.CancelledError"


async def test_cancellation_of_a_call_fails_its_task_group():
    """A cancellation raised inside a call does not pass for one of the task that waits for it."""

    async def wait_for_call():
        raise raised_there(jobs.raise_type, asyncio.CancelledError)

    with pytest.raises(ExceptionGroup) as caught_group:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(wait_for_call())
    assert not task.cancelled()
    assert caught_group.group_contains(RemoteError, match="CancelledError")


async def test_future_takes_a_stop_iteration_of_a_call():
    """The stand-in of a StopIteration, which a future refuses, can be set on one."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(raised_there(jobs.raise_type, StopIteration))
    with pytest.raises(RemoteError, match="StopIteration"):
        await future


# --- odd ones -------------------------------------------------------------------------------


class EmptyContainer(Exception):
    def __len__(self):
        return 0


class BoolRaises(Exception):
    def __bool__(self):
        raise SystemExit(9)


class StrOf(Exception):
    """Its `__str__` does what it is told."""

    def __init__(self, act):
        super().__init__(act)
        self.act = act

    def __str__(self):
        return self.act()


class LyingStrHoldsLock(jobs.LyingStr):
    lock = property(lambda self: self)

    def __reduce__(self):
        raise TypeError("not to be pickled")


class FieldsInTheWay(Exception):
    """Hides the fields that every exception has."""

    args = property(lambda self: 1 / 0)
    __cause__ = property(lambda self: 1 / 0)
    __context__ = "no exception"
    __notes__ = property(lambda self: 1 / 0)
    __traceback__ = property(lambda self: 1 / 0)


class NoAttributes(Exception):
    def __getattribute__(self, name):
        raise RuntimeError(name)


class ClaimsToBeOrdinary(BaseException):
    @property
    def __class__(self):
        return ValueError


class NamelessType(type):
    @property
    def __module__(cls):
        raise SystemExit("no name")

    def __eq__(cls, other):
        raise RuntimeError("not to be compared")

    def __hash__(cls):
        raise RuntimeError("not to be hashed")


class Nameless(Exception, metaclass=NamelessType):
    pass


class OddStr(str):
    __slots__ = ()

    def __str__(self):
        return self

    def __len__(self):
        raise RuntimeError("no length")


@pytest.mark.parametrize("kind", [jobs.Falsy, EmptyContainer])
def test_falsy_exception_is_an_error(kind):
    """An exception that counts as false is neither lost nor cut off from its chain."""
    error = kind("empty")
    error.__cause__ = kind("cause")
    top, bottom, text = chain(crossed(error))
    assert (type(top), top.args) == (kind, ("empty",))
    assert (type(bottom), bottom.args) == (kind, ("cause",))
    assert isinstance(text, RemoteTraceback)


def test_exception_without_a_truth_value_keeps_its_frames():
    """Where the traceback module fails on an exception, its frames are told nevertheless."""
    copy = raised_there(jobs.raise_it, BoolRaises("b"))
    assert type(copy) is BoolRaises
    assert "in raise_it" in copy.__cause__.text
    assert copy.__cause__.text.endswith("BoolRaises: b\n")


def test_exception_that_cannot_be_shown_is_kept():
    """A `__str__` that raises keeps neither the type nor the traceback from arriving."""
    copy = raised_there(jobs.raise_lying)
    assert type(copy) is jobs.LyingStr
    assert "in raise_lying" in copy.__cause__.text


def exit_instead():
    raise SystemExit(3)


def interrupt_instead():
    raise KeyboardInterrupt


def no_text():
    return 3


@pytest.mark.parametrize("act", [exit_instead, interrupt_instead, no_text])
def test_nothing_that_showing_raises_gets_out(act):
    """Whatever `__str__` does, the exception arrives."""
    assert type(crossed(StrOf(act))) is StrOf


def test_stand_in_for_what_cannot_be_shown():
    """An exception that can be neither sent nor shown is named at least."""
    copy = crossed(LyingStrHoldsLock())
    assert copy.type_name.endswith("LyingStrHoldsLock")
    assert copy.message == "<str() of it failed>"


@pytest.mark.parametrize("kind", [FieldsInTheWay, NoAttributes, ClaimsToBeOrdinary, Nameless])
def test_hooks_on_attributes_and_types_are_harmless(kind):
    """Exceptions that make trouble when they are looked at arrive, as themselves or by name."""
    copy = raised_there(jobs.raise_type, kind, "a")
    assert not is_lethal(copy)
    assert type(copy) is kind or type(copy) is RemoteError


def test_strange_notes_are_harmless():
    """Notes that are no strings, or no list, do no damage; strings of a subclass become plain."""
    error = jobs.HoldsLock("x")
    error.__notes__ = [OddStr("odd"), 3, jobs.LyingStr()]
    assert crossed(error).__notes__[:3] == ["odd", "3", "<str() of it failed>"]
    error.__notes__ = object()
    assert len(crossed(error).__notes__) == 1


def test_nameless_notes_of_survivors_are_kept():
    """Notes that are no list arrive as they are with an exception that survives."""
    error = ValueError()
    error.__notes__ = ("a", "tuple")
    assert crossed(error).__notes__ == ("a", "tuple")


# --- groups ---------------------------------------------------------------------------------


class OwnGroup(ExceptionGroup):
    def derive(self, excs):
        return OwnGroup(self.message, excs)


def test_group_splits():
    """A group arrives as one that splits by type and shows its message."""
    copy = raised_there(jobs.raise_group)
    match, rest = copy.split(ValueError)
    assert copy.message == "several"
    assert [error.args for error in match.exceptions] == [(1,)]
    assert [error.args for error in rest.exceptions] == [(2,)]


def test_group_works_with_except_star():
    """`except*` takes what it names out of a group that crossed."""
    taken = []
    try:
        raise raised_there(jobs.raise_group)
    except* ValueError as group:
        taken += group.exceptions
    except* TypeError as group:
        taken += group.exceptions
    assert [type(error) for error in taken] == [ValueError, TypeError]


def test_group_members_keep_notes_and_causes():
    """Groups in groups arrive with their notes, and their members with theirs and their causes."""
    member = ValueError("m")
    member.__cause__ = KeyError("cause")
    member.add_note("on the member")
    inner = ExceptionGroup("inner", [member])
    inner.add_note("on the group")
    copy = crossed(ExceptionGroup("outer", [TypeError(), inner]))
    inner_copy = copy.exceptions[1]
    assert inner_copy.__notes__ == ["on the group"]
    assert inner_copy.exceptions[0].__notes__ == ["on the member"]
    assert inner_copy.exceptions[0].__cause__.args == ("cause",)


def test_one_bad_member_does_not_spoil_the_group():
    """Only the member of a group that cannot cross is stood in for."""
    copy = crossed(ExceptionGroup("g", [ValueError(1), jobs.HoldsLock("held")]))
    assert type(copy) is ExceptionGroup
    assert [type(error) for error in copy.exceptions] == [ValueError, RemoteError]


def test_member_raised_out_of_its_group():
    """An exception taken out of the group it was handled in arrives with that group as context."""

    def take_out():
        try:
            raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
        except ExceptionGroup as group:
            raise group.exceptions[0]  # noqa: B904 - as above

    copy = raised_there(take_out)
    assert copy.args == (1,)
    assert [error.args for error in copy.__context__.exceptions] == [(1,), (2,)]


def test_group_of_a_class_of_its_own():
    """A group of another class arrives as one of that class."""
    error = OwnGroup("own", [ValueError(1)])
    error.add_note("a note")
    copy = crossed(error)
    assert type(copy) is OwnGroup
    assert copy.__notes__ == ["a note"]
    assert copy.exceptions[0].args == (1,)


def test_group_with_other_arguments():
    """A group whose `args` were replaced arrives with its message and members."""
    error = ExceptionGroup("g", [ValueError(1)])
    error.args = ()
    copy = crossed(error)
    assert copy.message == "g"
    assert [member.args for member in copy.exceptions] == [(1,)]


def test_wide_group_is_whole():
    """A group of very many members arrives with all of them."""
    members = [ValueError(number) for number in range(1_000)]
    copy = crossed(ExceptionGroup("wide", members))
    assert [error.args[0] for error in copy.exceptions] == list(range(1_000))


def test_group_that_is_nested_too_deep_is_named():
    """Groups within groups beyond the bound are stood in for, not followed."""
    error = ValueError()
    for _ in range(5_000):
        error = ExceptionGroup("g", [error])
    copy = crossed(error)
    depth = 0
    while isinstance(copy, ExceptionGroup):
        (copy,) = copy.exceptions
        depth += 1
    assert depth == LONGEST_CHAIN
    assert type(copy) is RemoteError
    assert copy.type_name == "ExceptionGroup"


# --- the parent's side ----------------------------------------------------------------------


ONLY = ValueError("there is one of it")


@pytest.mark.parametrize(
    "error", [TypeError("no"), SystemExit(3), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_nothing_that_unpickling_raises_gets_out(error):
    """Whatever unpickling raises in the parent, the original is named and so is that."""

    def loads(_payload):
        raise error

    copy = decode_failure(encoded(caught(jobs.fail, 3)), loads)
    assert type(copy) is RemoteError
    assert (copy.type_name, copy.message) == ("ValueError", "3")
    assert "in fail" in copy.traceback_text
    assert type(error).__name__ in copy.__notes__[-1]


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        ("no exception", None),
        ("no exception", ((), None)),
        (Custom(), None),
        (SubStop(), None),
    ],
    ids=repr,
)
def test_what_unpickles_into_something_else_is_stood_in_for(outcome):
    """A pickle that gives in the parent what may not be raised there is replaced."""
    error = caught(jobs.fail, 3)
    error.add_note("a note")
    copy = decode_failure(encoded(error), lambda _payload: outcome)
    assert type(copy) is RemoteError
    assert (copy.type_name, copy.message) == ("ValueError", "3")
    assert copy.__notes__[0] == "a note"


def test_pickles_that_give_one_object_make_no_cycle():
    """Two exceptions that unpickle into the same object do not become each other's cause."""
    links = chain(decode_failure(encoded(caught(jobs.raise_chained)), lambda _: (ONLY, None)))
    assert [type(link) for link in links] == [RemoteError, ValueError, RemoteTraceback]


def test_object_that_is_unpickled_again_gets_its_chain_anew():
    """An exception of which there is one only does not gather the causes of all its journeys."""
    wire = encoded(caught(jobs.fail, 3))
    for _ in range(3):
        copy = decode_failure(wire, lambda _: (ONLY, None))
        assert [type(link) for link in chain(copy)] == [ValueError, RemoteTraceback]


# --- calls in threads -----------------------------------------------------------------------


@pytest.mark.parametrize("error", LETHAL, ids=lambda error: type(error).__name__)
def test_remote_error_stands_in_within_a_process(error):
    """The stand-in of a local exception has its name, message, notes and traceback."""
    error.__notes__ = ["a note"]
    stand_in = remote_error(caught(jobs.raise_it, error))
    assert type(stand_in) is RemoteError
    assert stand_in.type_name.endswith(type(error).__name__)
    assert stand_in.message == str(error)
    assert stand_in.__notes__ == ["a note"]
    assert "in raise_it" in stand_in.traceback_text
    assert stand_in.__cause__.text == stand_in.traceback_text
    assert type(harmless(error)) is RemoteError


def test_harmless_exceptions_stay_themselves_within_a_process():
    """An exception that does no damage needs no stand-in."""
    error = jobs.HoldsLock("held")
    assert harmless(error) is error


# --- what is left behind --------------------------------------------------------------------


class RaisesItself(Exception):
    """Raises itself when it is pickled or shown, and so takes up the frames of whoever does it."""

    def __reduce__(self):
        raise self

    def __str__(self):
        raise self


class RaisesItsOwn(RaisesInReduce):
    """Raises an exception that it holds, when it is pickled."""

    def __init__(self, text):
        super().__init__(ValueError(text))


@pytest.fixture
def no_collector():
    """Only reference counts free anything during the test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def use_and_forget(kind, use):
    error, member = caught(jobs.raise_type, kind, "x"), caught(jobs.raise_type, kind, "member")
    error.__cause__ = cause = caught(jobs.raise_type, kind, "cause")
    cause.__context__ = BaseExceptionGroup("g", [member])
    use(error)
    references = [weakref.ref(one) for one in (error, cause, member)]
    del error, cause, member  # whose frames lead back here
    return references


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("use", [encoded, crossed, remote_error])
@pytest.mark.parametrize(
    "kind", [Attributed, jobs.HoldsLock, StrOf, RaisesItself, RaisesItsOwn, Custom, Formats]
)
def test_no_exception_is_kept_alive(kind, use):
    """An exception dies with the last reference to it, whatever was made of it."""
    references = use_and_forget(kind, use)
    assert [reference() for reference in references] == [None, None, None]


@pytest.mark.usefixtures("no_collector")
def test_rebuilt_exception_is_not_kept_alive():
    """A rebuilt exception and its stand-ins are not part of a cycle."""
    wire = encoded(caught(jobs.raise_type, Attributed, "x"))
    copy = decode_failure(wire, pickle.loads)
    reference = weakref.ref(copy)
    del copy
    assert reference() is None


def test_exception_that_raises_itself_keeps_its_own_frames():
    """Hooks that raise their own exception change neither its traceback nor its context."""
    error, cause = caught(jobs.raise_type, RaisesItself), RaisesItself()
    error.__cause__ = cause
    before = error.__traceback__
    try:
        raise error
    except RaisesItself:
        encoded(error)
    error.__traceback__ = error.__traceback__.tb_next
    assert error.__traceback__ is before
    assert cause.__traceback__ is None
    assert cause.__context__ is None


# --- the room -------------------------------------------------------------------------------


def test_importing_is_light():
    """A worker that carries exceptions has loaded neither asyncio nor cloudpickle for it."""
    code = (
        "import sys, aiopool._wire.failure, aiopool._wire.diagnosis\n"
        "print({'asyncio', 'cloudpickle', 'dataclasses', 'inspect'} & set(sys.modules))"
    )
    done = run_python("-c", code)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
