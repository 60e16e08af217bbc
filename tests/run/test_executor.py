"""`PoolExecutor`: what a caller of its futures and maps sees."""

import asyncio
import gc
import itertools
import os
import signal
import threading
import time
import weakref
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from inspect import signature
from pickle import PicklingError

import pytest

from aiopool import (
    NotTransferable,
    Pool,
    PoolExecutor,
    PoolFull,
    Priority,
    RemoteError,
    TaskTimeout,
    WorkerCrashed,
)
from aiopool._run import setup
from aiopool.errors import AiopoolError
from tests import jobs
from tests.backends import deeds
from tests.helpers import PATIENCE, block_until
from tests.run.support import Numbers


@pytest.fixture
def executor():
    """Give an executor of two workers that is in use already."""
    with PoolExecutor(2) as executor:
        executor.submit(jobs.pid).result(PATIENCE)
        yield executor


def held(executor, gate):
    """Have a call wait at a gate; returns its future once it is there."""
    future = executor.submit(jobs.gate, *gate.paths)
    block_until(gate.is_entered)
    return future


# --- submit ---------------------------------------------------------------------------------


def test_submit_gives_values(executor):
    """A future has what its call returned, keyword arguments and all."""
    assert executor.submit(jobs.add, 1, 2).result() == 3
    assert executor.submit(jobs.add, 1, b=5).result() == 6
    assert executor.submit(lambda x: x + 1, 1).result() == 2
    assert executor.submit(dict, self=1, fn=2).result() == {"self": 1, "fn": 2}


def test_an_async_function_runs_on_the_loop(executor):
    """A coroutine function runs in this process, and its future has what it returned."""
    assert executor.submit(jobs.inc_async, 1).result() == 2


def test_a_failure_keeps_its_type(executor):
    """A future has the call's own exception, with the traceback of the worker below it."""
    error = executor.submit(jobs.fail, 7).exception()
    assert type(error) is ValueError and error.args == (7,)
    assert "raise ValueError(x)" in str(error.__cause__)


@pytest.mark.parametrize(("given", "code"), [((), None), ((3,), 3), ((-3,), -3), (("bye",), "bye")])
def test_system_exit_comes_raw(executor, given, code):
    """SystemExit of a call is raised as itself with its code, which only an executor does."""
    error = executor.submit(jobs.raise_type, SystemExit, *given).exception()
    assert type(error) is SystemExit and error.code == code
    assert "raise exception_type(*args)" in str(error.__cause__)


def test_system_exit_while_pickling_comes_raw(executor):
    """SystemExit raised where a result is pickled is raised as itself."""
    assert type(executor.submit(deeds.SysExitAtPickle).exception()) is SystemExit


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, StopIteration, CancelledError])
def test_other_lethal_exceptions_stand_in(executor, kind):
    """What would act on the caller's own program comes as RemoteError here as everywhere."""
    error = executor.submit(jobs.raise_type, kind).exception()
    assert isinstance(error, RemoteError) and error.type_name.endswith(kind.__name__)


def test_what_does_not_pickle_fails_alone(executor):
    """An argument that cannot be sent is its future's exception, a PicklingError too."""
    refused = executor.submit(jobs.echo, threading.Lock())
    assert executor.submit(jobs.inc, 1).result() == 2
    assert isinstance(refused.exception(), NotTransferable)
    assert isinstance(refused.exception(), PicklingError)


def test_what_cannot_be_called(executor):
    """A thing that is no function is its future's exception."""
    assert isinstance(executor.submit(5).exception(), TypeError)


def test_one_death_fails_one_future(executor, make_gate):
    """A killed worker fails the call it was executing; the others, and later ones, go on."""
    victim, other = make_gate(), make_gate()
    dying, living = held(executor, victim), held(executor, other)
    queued = [executor.submit(jobs.inc, n) for n in range(10)]
    os.kill(victim.pid, signal.SIGKILL)
    error = dying.exception(PATIENCE)
    assert isinstance(error, WorkerCrashed) and isinstance(error, BrokenProcessPool)
    assert error.pid == victim.pid
    other.open()
    assert living.result(PATIENCE) == other.pid
    assert [future.result(PATIENCE) for future in queued] == list(range(1, 11))


def test_an_initializer_that_fails():
    """Calls fail with a BrokenExecutor that tells why where no worker gets ready."""

    def initializer():
        raise LookupError("no set-up for you")

    with PoolExecutor(1, initializer=initializer) as executor:
        error = executor.submit(jobs.inc, 1).exception(PATIENCE)
    assert isinstance(error, BrokenExecutor)
    assert "no set-up for you" in str(error)


def test_bounded_backlog(make_gate):
    """A call beyond max_pending is refused by its future, and a map waits for its turn."""
    gate = make_gate()
    with PoolExecutor(1, max_pending=1) as executor:
        running = held(executor, gate)
        queued = executor.submit(jobs.inc, 1)
        refused = executor.submit(jobs.inc, 2)
        mapped = executor.map(jobs.inc, range(5))
        assert isinstance(refused.exception(PATIENCE), PoolFull)
        gate.open()
        assert (running.result(), queued.result()) == (gate.pid, 2)
        assert list(mapped) == [1, 2, 3, 4, 5]


# --- submit_with ----------------------------------------------------------------------------


def test_priorities(gate, tmp_path):
    """A more important call submitted later runs first."""
    journal = str(tmp_path / "journal")
    with PoolExecutor(1, aging=float("inf")) as executor:
        held(executor, gate)
        executor.submit_with({"priority": Priority.LOW}, jobs.record, journal, "low")
        executor.submit(jobs.record, journal, "normal")
        last = executor.submit_with({"priority": Priority.HIGH}, jobs.record, journal, "high")
        block_until(lambda: last._handle is not None)
        gate.open()
    assert (tmp_path / "journal").read_text().split() == ["high", "normal", "low"]


def test_retry(executor, tmp_path):
    """A call that fails is tried again as its retry says."""
    options = {"retry": 3}
    again = executor.submit_with(options, jobs.fail_times, str(tmp_path / "journal"), 2, "x")
    assert again.result(PATIENCE) == "x"


def test_timeout_and_deadline(executor):
    """A call that outlasts its timeout or its deadline is stopped and fails with TaskTimeout."""
    for name in ("timeout", "deadline"):
        error = executor.submit_with({name: 0.1}, jobs.sleep_for, 600).exception(PATIENCE)
        assert isinstance(error, TaskTimeout) and error.bound == name


def test_a_thread(executor):
    """A call may run in a thread of this process."""
    assert executor.submit_with({"on": "thread"}, os.getpid).result() == os.getpid()


def test_a_wrong_option_is_refused_at_once(executor):
    """An option that is unknown or out of range is raised where it was given."""
    with pytest.raises(TypeError, match="did you mean 'priority'"):
        executor.submit_with({"priorty": 1}, jobs.inc, 1)
    with pytest.raises(ValueError, match="timeout"):
        executor.submit_with({"timeout": -1}, jobs.inc, 1)


# --- futures --------------------------------------------------------------------------------


def test_cancelling_a_running_call_stops_it(executor, gate, tmp_path):
    """Cancelling ends a call that runs; who waits for the future waits until it has stopped."""
    cleaned = tmp_path / "cleaned"
    future = executor.submit(jobs.gate_with_cleanup, *gate.paths, str(cleaned))
    block_until(gate.is_entered)
    assert future.running()
    assert future.cancel() and future.cancel()
    assert future.cancelled() and future.done() and not future.running()
    with pytest.raises(CancelledError):
        future.result()
    assert wait([future], PATIENCE).done == {future}
    assert cleaned.exists()


def test_cancelling_a_queued_call(gate, tmp_path):
    """A call cancelled while it is queued is never executed."""
    journal = tmp_path / "journal"
    with PoolExecutor(1) as executor:
        held(executor, gate)
        future = executor.submit(jobs.record, str(journal), 1)
        assert not future.running()
        assert future.cancel()
        assert wait([future], PATIENCE).done == {future}
        gate.open()
    assert not journal.exists()


def test_cancelling_before_the_loop_has_it(executor):
    """A call cancelled before the loop has taken it from the inbox is never begun."""
    session, begun, held_up = executor._session, [], threading.Event()
    session.post(held_up.wait)
    session.start = lambda *args: begun.append(args)
    futures = [executor.submit(jobs.inc, n) for n in range(50)]
    assert all(future.cancel() for future in futures)
    held_up.set()
    assert wait(futures, PATIENCE).not_done == set()
    assert not begun


def test_cancelling_what_is_done(executor):
    """A future that is done cannot be cancelled."""
    future = executor.submit(jobs.inc, 1)
    assert future.result() == 2
    assert not future.cancel() and not future.cancelled()


def test_waiting_for_the_first(executor, gate):
    """Waiting functions of concurrent.futures take these futures."""
    slow, quick = held(executor, gate), executor.submit(jobs.inc, 1)
    done, not_done = wait([slow, quick], PATIENCE, return_when=FIRST_COMPLETED)
    assert (done, not_done) == ({quick}, {slow})
    order = as_completed([slow, quick], PATIENCE)
    assert next(order) is quick
    gate.open()
    assert next(order) is slow


def test_a_callback_that_exits(executor, caplog):
    """SystemExit raised by a callback is logged and harms no other call."""
    future = executor.submit(jobs.sleep_for, 0.05)
    future.add_done_callback(lambda _: jobs.sys_exit(1))
    assert executor.submit(jobs.inc, 1).result(PATIENCE) == 2
    assert future.result(PATIENCE) == 0.05
    block_until(lambda: "callback" in caplog.text)


def test_submitting_from_a_callback(executor):
    """A callback of a future may submit another call."""
    chained = []
    done = threading.Event()

    def submit_next(future):
        chained.append(executor.submit(jobs.inc, future.result()))
        done.set()

    executor.submit(jobs.inc, 1).add_done_callback(submit_next)
    assert done.wait(PATIENCE)
    assert chained[0].result(PATIENCE) == 3


# --- map ------------------------------------------------------------------------------------


def test_map_keeps_the_order(executor):
    """A map gives the results of its calls in input order."""
    assert list(executor.map(jobs.square, range(1000))) == [n * n for n in range(1000)]
    assert list(executor.map(jobs.add, range(5), itertools.count(10))) == [10, 12, 14, 16, 18]
    assert list(executor.map(jobs.add, range(3), range(3), chunksize=2)) == [0, 2, 4]


def test_map_over_nothing(executor):
    """A map over an empty input has no results."""
    assert list(executor.map(jobs.inc, [])) == []
    assert list(executor.map(jobs.add, [], [1])) == []
    assert list(executor.map(jobs.inc)) == []


def test_map_raises_in_place(executor):
    """A failure comes after the results before it, and ends the iteration."""
    results = executor.map(jobs.fail_if_odd, [0, 2, 3, 4])
    assert [next(results), next(results)] == [0, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert list(results) == []


def test_map_takes_its_input_at_once_in_the_callers_thread(executor):
    """The inputs are iterated over before map returns, in the thread that called it."""
    threads = []

    def numbers():
        for number in range(10):
            threads.append(threading.get_ident())
            yield number

    results = executor.map(jobs.inc, numbers())
    assert threads == [threading.get_ident()] * 10
    assert list(results) == list(range(1, 11))


def test_map_within_a_window(executor):
    """With buffersize an endless input is taken only so far ahead of the results."""
    numbers = Numbers()
    results = executor.map(jobs.inc, numbers, buffersize=4)
    assert numbers.pulled == 4
    assert [next(results) for _ in range(10)] == list(range(1, 11))
    assert numbers.pulled == 14
    results.close()


def test_map_within_a_window_ends(executor):
    """With buffersize a map ends with its input, or with the first failure."""
    assert list(executor.map(jobs.inc, range(10), buffersize=3)) == list(range(1, 11))
    with pytest.raises(ValueError, match="1"):
        list(executor.map(jobs.fail_if_odd, itertools.count(), buffersize=3))


@pytest.mark.parametrize("buffersize", [None, 2])
def test_map_of_a_dropped_executor(buffersize):
    """A map goes on to its end though nobody refers to its executor any more."""
    results = PoolExecutor(1).map(jobs.inc, range(10), buffersize=buffersize)
    gc.collect()
    assert list(results) == list(range(1, 11))


@pytest.mark.parametrize("buffersize", [None, 1])
def test_map_times_out(executor, buffersize):
    """A result that is not there in time raises TimeoutError, and what is left is stopped."""
    started = time.monotonic()
    results = executor.map(jobs.sleep_for, [0, 600], timeout=0.5, buffersize=buffersize)
    assert next(results) == 0
    with pytest.raises(TimeoutError):
        next(results)
    executor.shutdown()
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("buffersize", [None, 8])
def test_leaving_a_map_early_stops_the_rest(executor, gate, tmp_path, buffersize):
    """Closing the iterator cancels the calls that are left, those that run too."""
    journal = tmp_path / "journal"
    rows = [(gate.paths, n) for n in range(100)]

    def work(row):
        (marker, release), n = row
        jobs.record(str(journal), n)
        return n if n == 0 else jobs.gate(marker, release)

    results = executor.map(work, rows, buffersize=buffersize)
    assert next(results) == 0
    block_until(gate.is_entered)
    results.close()
    executor.shutdown()
    assert len(journal.read_text().split()) < 10


def test_map_is_read_after_shutdown():
    """A map that nobody reads is finished by shutdown, and can be read afterwards."""
    with PoolExecutor(2) as executor:
        results = executor.map(jobs.inc, range(1000))
    assert list(results) == list(range(1, 1001))


def test_map_does_not_hold_its_results(executor):
    """A result that was taken is held by nobody but its taker."""
    for value in executor.map(set, [[n] for n in range(10)]):
        seen = weakref.ref(value)
        del value
        assert seen() is None


@pytest.mark.parametrize(
    "options", [{"chunksize": 0}, {"chunksize": -1}, {"buffersize": 0}, {"buffersize": -2}]
)
def test_map_refuses_sizes_out_of_range(executor, options):
    """A chunksize or buffersize below one is refused where it was given."""
    with pytest.raises(ValueError, match=next(iter(options))):
        executor.map(jobs.inc, [1], **options)


# --- threads and loops ----------------------------------------------------------------------


def test_many_threads(executor):
    """Any number of threads may submit and map at once."""
    found = {}

    def use(number):
        futures = [executor.submit(jobs.add, number, n) for n in range(100)]
        mapped = list(executor.map(jobs.add, [number] * 100, range(100)))
        found[number] = [future.result() for future in futures] == mapped

    threads = [threading.Thread(target=use, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == dict.fromkeys(range(8), True)


def test_a_burst_is_one_wake_up(executor):
    """Calls that come before the loop has emptied its inbox cost it no further wake-up."""
    session = executor._session
    knocks = []

    class Loop:
        call_soon_threadsafe = staticmethod(knocks.append)

    loop, session._loop = session._loop, Loop
    futures = [executor.submit(jobs.inc, n) for n in range(1000)]
    session._loop = loop
    assert len(knocks) == 1
    loop.call_soon_threadsafe(*knocks)
    assert [future.result() for future in futures] == list(range(1, 1001))


async def test_run_in_executor(executor):
    """A loop runs calls in it, and cancelling the waiting task cancels the call."""
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(executor, jobs.inc, 1) == 2
    with pytest.raises(ValueError, match="7"):
        await loop.run_in_executor(executor, jobs.fail, 7)
    future = executor.submit(jobs.sleep_for, 600)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.wrap_future(future), 0.1)
    assert future.cancelled()


async def test_as_the_backend_of_another_pool(executor):
    """A pool may run its calls in it."""
    async with Pool(2, backend=executor) as pool:
        assert await pool.map(jobs.inc, range(10)) == list(range(1, 11))


def nested(count):
    """Use an executor of this worker's own."""
    with PoolExecutor(1) as executor:
        return list(executor.map(jobs.square, range(count)))


def test_nested_in_a_call(executor):
    """A call may use an executor of its own."""
    assert executor.submit(nested, 3).result(PATIENCE) == [0, 1, 4]


# --- construction ---------------------------------------------------------------------------


def test_parameters_are_checked_at_once():
    """A parameter that is out of range or unknown is refused where it was given."""
    for count in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            PoolExecutor(count)
    with pytest.raises(ValueError, match="grace_period"):
        PoolExecutor(grace_period=-1)
    with pytest.raises(TypeError):
        PoolExecutor(max_worker=1)


def test_the_parameters_are_those_of_the_pool():
    """The options an executor passes on are the pool's keyword parameters, types and all."""
    parameters = signature(Pool).parameters.values()
    keywords = {each.name: each.annotation for each in parameters if each.kind == each.KEYWORD_ONLY}
    assert setup.PoolOptions.__annotations__.keys() == keywords.keys()
    for name, hint in setup.PoolOptions.__annotations__.items():
        assert hint.__forward_arg__ == keywords[name], name


def test_an_unused_executor():
    """An executor that is never used starts no thread and can be shut down."""
    before = threading.active_count()
    executor = PoolExecutor(2)
    assert threading.active_count() == before
    assert "not open" in repr(executor)
    executor.shutdown()
    executor.shutdown()


def test_arguments_are_let_go(executor):
    """What a call was given is freed with its future, without waiting for the collector."""
    gc.disable()
    try:
        given = jobs.Falsy("given")
        seen = weakref.ref(given)
        assert executor.submit(jobs.echo, given).result() is not given
        del given
        block_until(lambda: seen() is None)
    finally:
        gc.enable()


def test_errors_of_the_executor_are_in_the_tree(executor):
    """What submit raises after shutdown is both an error of the tree and a RuntimeError."""
    executor.shutdown()
    for refused in (executor.submit, executor.map):
        with pytest.raises(AiopoolError, match="cannot schedule new futures") as caught:
            refused(jobs.inc, [1])
        assert isinstance(caught.value, RuntimeError)
