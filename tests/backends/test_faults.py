"""The catalogue of faults, first part: calls that go wrong, each amid innocents.

Every row plays the same scene: a pool of three whose other workers execute innocent calls, the
guilty call, three innocents queued behind it and two sent afterwards. The guilty call ends as its
row says, every innocent gives its value at its first attempt, the pool has lost as many workers
as the row says, closing is prompt, and nothing is left. docs/reliability.md is the whole
catalogue; the letters and numbers of the rows are its.
"""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import pytest

import aiopool
from tests import jobs
from tests.backends import deeds, mischief
from tests.helpers import is_alive, wait_until, wanted

KILLED = -signal.SIGKILL
# Closing an idle pool takes a tenth of a second; one that waits for somebody takes for ever.
PROMPT = 10.0


# --- how a guilty call may end --------------------------------------------------------------


def crashed(exitcode, word):
    """Ends its worker, and alone fails for it."""

    def check(end):
        assert type(end) is aiopool.WorkerCrashed, repr(end)
        assert isinstance(end, BrokenProcessPool)
        assert end.exitcode == exitcode
        assert word in str(end)
        assert str(end.pid) in str(end)
        assert not is_alive(end.pid)

    return check


def gives(expected):
    """Is no failure: it has this value."""

    def check(end):
        assert end == expected, repr(end)

    return check


def raises(kind, words=""):
    """Fails with the exception it raised, of its own type."""

    def check(end):
        assert type(end) is kind, repr(end)
        assert words in str(end)

    return check


def stood_in(type_name, words=""):
    """Fails with an exception that stands in for one that cannot cross, or must not."""

    def check(end):
        assert type(end) is aiopool.RemoteError, repr(end)
        assert end.type_name.endswith(type_name), end.type_name
        assert words in str(end)

    return check


def refused(words):
    """Is told that something cannot be sent, and what."""
    return raises(aiopool.NotTransferable, words)


def told_with(note, kind, words):
    """Fails with its exception, whose notes, cause and remote traceback hold some text."""

    def check(end):
        raises(kind, words)(end)
        chain = [*getattr(end, "__notes__", ()), repr(end.__cause__), str(end.__cause__)]
        assert note in "\n".join(chain), chain

    return check


def split(end):
    """Fails with a group, which can be split."""
    assert type(end) is ExceptionGroup
    rest = end.split(ValueError)[1]
    assert [type(each) for each in rest.exceptions] == [TypeError]


def without_text(end):
    """Fails with an exception that cannot be shown."""
    assert type(end) is jobs.LyingStr


def a_lambda(end):
    assert end() == 1


def an_exception(end):
    assert type(end) is ValueError
    assert end.__traceback__ is None, "it was raised and not returned"


def its_own_timeout(end):
    assert type(end) is TimeoutError
    assert not hasattr(end, "deadline")


def the_pools_timeout(end):
    assert type(end) is aiopool.TaskTimeout
    assert end.deadline == 0.2


def a_number(end):
    assert type(end) is int


def closed_or_crashed(end):
    assert end == "closed" or type(end) is aiopool.WorkerCrashed


# --- the rows -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A guilty call, how it ends, and how many workers it costs (None: one or none)."""

    ends: object
    fn: object
    args: tuple = ()
    costs: int | None = 0
    timeout: float | None = None

    def submit(self, pool):
        """Submit it; what is refused at once ends then."""
        try:
            return pool.submit(self.fn, *self.args, timeout=self.timeout)
        except aiopool.NotTransferable as error:
            ended = asyncio.get_running_loop().create_future()
            ended.set_exception(error)
            return ended


def deadly(exitcode, word, fn, *args):
    return Fault(crashed(exitcode, word), fn, args, costs=1)


def harmless(ends, fn, *args):
    return Fault(ends, fn, args)


FAULTS = {
    "A1 exits with 0": deadly(0, "code 0", jobs.exit_with, 0),
    "A2 exits with 42": deadly(42, "code 42", jobs.exit_with, 42),
    "A2 exits by the C library": deadly(3, "code 3", mischief.exit_by_libc, 3),
    "A3 reads address 0": deadly(-signal.SIGSEGV, "SIGSEGV", deeds.segv),
    "A3 aborts": deadly(-signal.SIGABRT, "SIGABRT", os.abort),
    "A4 is killed": deadly(KILLED, "SIGKILL", jobs.kill_self, signal.SIGKILL),
    "A4 is terminated": deadly(-signal.SIGTERM, "SIGTERM", jobs.kill_self, signal.SIGTERM),
    "A6 dies within its result": deadly(
        KILLED, "SIGKILL", deeds.die_halfway_through_sending, 8 << 20
    ),
    "A7 argument kills when freed": Fault(a_number, id, (deeds.DelKills(),), costs=1),
    "B1 function holds a lock": harmless(refused("lock"), threading.Lock().acquire),
    "B1 function is a lambda": harmless(gives(6), lambda x: x + 1, 5),
    "B2 argument raises at pickle": harmless(
        refused("cannot be pickled"), jobs.echo, jobs.PickleRaises()
    ),
    "B3 argument exits at pickle": harmless(
        refused("at pickle"), jobs.echo, deeds.SysExitAtPickle()
    ),
    "B5 argument raises at unpickle": harmless(
        raises(RuntimeError, "cannot be unpickled"), jobs.echo, jobs.UnpickleRaises()
    ),
    "B5 argument leaves at unpickle": harmless(
        stood_in("SystemExit", "at unpickle"), jobs.echo, deeds.SysExitAtUnpickle()
    ),
    "B5 function raises at unpickle": harmless(
        raises(ValueError, "not rebuilt"), deeds.CallableFailingAtUnpickle(), 1
    ),
    "B6 argument kills at unpickle": deadly(KILLED, "SIGKILL", jobs.echo, deeds.KillsAtUnpickle()),
    "B6 argument exits at unpickle": deadly(3, "code 3", jobs.echo, jobs.UnpickleExits()),
    "B7 result holds a lock": harmless(refused("ret_lock"), jobs.ret_lock),
    "B7 result raises at pickle": harmless(refused("cannot be pickled"), jobs.ret_pickle_raises),
    "B7 result is a lambda": harmless(a_lambda, jobs.ret_lambda),
    "B8 result raises at unpickle": harmless(
        stood_in("RuntimeError", "cannot be unpickled"), jobs.ret_unpickle_raises
    ),
    "B8 result leaves at unpickle": harmless(
        stood_in("SystemExit", "at unpickle"), deeds.ret_sys_exit_at_unpickle
    ),
    "B9 result kills at pickle": deadly(KILLED, "SIGKILL", jobs.ret_pickle_kills),
    "B10 exception of two arguments": harmless(
        stood_in("TwoArgs", "left and right"), jobs.raise_two_args
    ),
    "B10 exception of keywords": harmless(
        stood_in("KeywordOnly", "code 7"), jobs.raise_keyword_only
    ),
    "B10 exception that is frozen": harmless(stood_in("FrozenError"), mischief.raise_frozen),
    "B11 exception holds a lock": harmless(stood_in("HoldsLock", "held"), jobs.raise_holding_lock),
    "B12 exception with a cause": harmless(
        told_with("KeyError('cause')", ValueError, "effect"), jobs.raise_chained
    ),
    "B12 exception with a note": harmless(
        told_with("a note", ValueError, "effect"), jobs.raise_chained
    ),
    "B12 cause that cannot cross": harmless(
        told_with("HoldsLock", ValueError, "effect"), mischief.raise_chained_to_a_lock
    ),
    "B12 exception group": harmless(split, jobs.raise_group),
    "B13 exception that is false": harmless(raises(jobs.Falsy, "empty"), jobs.raise_falsy),
    "B14 exception without a text": harmless(without_text, jobs.raise_lying),
    "B15 exception returned": harmless(an_exception, jobs.ret_exception),
    "C1 SystemExit": harmless(stood_in("SystemExit", "3"), jobs.sys_exit, 3),
    "C1 KeyboardInterrupt": harmless(
        stood_in("KeyboardInterrupt"), jobs.raise_type, KeyboardInterrupt
    ),
    "C2 CancelledError of asyncio": harmless(
        stood_in("CancelledError", "mine"), mischief.raise_cancelled
    ),
    "C2 CancelledError of futures": harmless(
        stood_in("CancelledError", "mine"), mischief.raise_cancelled_future
    ),
    "C3 StopIteration": harmless(stood_in("StopIteration"), jobs.raise_type, StopIteration, 1),
    "C3 StopAsyncIteration": harmless(
        stood_in("StopAsyncIteration"), jobs.raise_type, StopAsyncIteration
    ),
    "C4 GeneratorExit": harmless(stood_in("GeneratorExit"), jobs.raise_type, GeneratorExit),
    "C5 TimeoutError of its own": Fault(
        its_own_timeout, jobs.raise_type, (TimeoutError, "mine"), timeout=60
    ),
    "C5 TimeoutError of the pool": Fault(the_pools_timeout, jobs.sleep_for, (600,), timeout=0.2),
    "C6 MemoryError": harmless(raises(MemoryError), bytes, 1 << 60),
    "C6 RecursionError": harmless(raises(RecursionError), mischief.recurse),
    "D1 stuck in C": Fault(
        the_pools_timeout, mischief.stuck_in_c, (None,), costs=None, timeout=0.2
    ),
    "D3 process of its own": harmless(gives(0), mischief.use_a_process),
    "D3 pool of its own": harmless(gives([0, 1, 4, 9, 16]), mischief.nested_map),
    "D4 changes the worker": harmless(
        lambda end: gives(("/", "yes", 0o077, True))(end[1:]), mischief.change_the_world
    ),
    "D6 closes descriptors": Fault(closed_or_crashed, deeds.close_descriptors, costs=None),
    "D8 leaves threads": harmless(gives("left"), mischief.leave_threads),
    "D8 leaves a loop": harmless(gives(False), mischief.leave_a_loop),
    "D9 returns a coroutine": harmless(refused("coroutine"), deeds.make_coroutine, 1),
}


async def play(fault, method, company):
    """Play the scene."""
    async with aiopool.Pool(3, mp_context=method, grace_period=0.2) as pool:
        innocents = company(pool)
        await innocents.gather_round()
        guilty = fault.submit(pool)
        innocents.queue_up()
        await asyncio.wait([guilty], timeout=20)
        assert guilty.done(), repr(guilty)
        assert not guilty.cancelled()
        (end,) = await asyncio.gather(guilty, return_exceptions=True)
        fault.ends(end)
        await innocents.leave_well()
        if fault.costs is not None:
            await wait_until(lambda: pool.statistics().crashed == fault.costs)
        workers = [worker.pid for worker in pool.statistics().workers]
        closing = time.monotonic()
    assert time.monotonic() - closing < PROMPT
    assert not [pid for pid in workers if is_alive(pid)]


each_fault = pytest.mark.parametrize("row", FAULTS)
# One row of every way to end, for start methods and event loops beyond the two that see them all.
FEW = (
    "A1 exits with 0",
    "A3 reads address 0",
    "A6 dies within its result",
    "B5 argument raises at unpickle",
    "B8 result leaves at unpickle",
    "B12 exception with a cause",
    "C1 KeyboardInterrupt",
    "C5 TimeoutError of the pool",
    "D1 stuck in C",
    "D3 process of its own",
    "D6 closes descriptors",
    "D8 leaves threads",
)
# A fork server cannot be used by a process that its owner forked (multiprocessing's own limit).
FORKED = [row for row in FAULTS if row != "D3 pool of its own"]


@each_fault
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_fault(row, company):
    """A call that goes wrong ends as it should, alone, and costs no innocent anything."""
    await play(FAULTS[row], "forkserver", company)


@pytest.mark.parametrize("row", wanted(FAULTS, FEW))
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_fault_under_uvloop(row, company):
    """With the default start method it makes no difference which event loop there is."""
    await play(FAULTS[row], "forkserver", company)


@each_fault
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_fault_spawned(row, company):
    """What goes wrong in a spawned worker is contained as well."""
    await play(FAULTS[row], "spawn", company)


@pytest.mark.parametrize("row", wanted(FORKED, FEW))
@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
async def test_fault_forked(row, company):
    """What goes wrong in a worker that was forked, as a user may ask for, is contained as well."""
    await play(FAULTS[row], "fork", company)
