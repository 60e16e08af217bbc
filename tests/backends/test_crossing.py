"""What cannot cross between processes fails alone, and what can arrives as it was."""

import asyncio
import signal
import threading
import traceback

import pytest

import aiopool
from tests import jobs
from tests.backends import deeds


@pytest.fixture
async def pool(start_method):
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        yield pool


@pytest.fixture
async def worker(pool):
    """The only worker's pid; checks at the end that it is still the one, and in order."""
    before = await pool.run(jobs.pid)
    yield before
    assert await pool.run(jobs.add, 1, 2) == 3
    assert await pool.run(jobs.pid) == before


# --- to the worker --------------------------------------------------------------------------


async def test_function_that_cannot_be_pickled():
    """A function that cannot be sent is refused at once, before there is a worker."""
    async with aiopool.Pool(1) as pool:
        lock = threading.Lock()
        for refused in (lambda: lock, lock.acquire):
            with pytest.raises(aiopool.NotTransferable, match="lock"):
                pool.submit(refused)
            with pytest.raises(aiopool.NotTransferable):
                await pool.map(refused, [1])
        assert pool.statistics().workers == ()


async def test_argument_that_cannot_be_pickled():
    """An argument that cannot be sent is refused at once, and the message says where it is."""
    async with aiopool.Pool(1) as pool:
        with pytest.raises(aiopool.NotTransferable) as caught:
            pool.submit(jobs.echo, {"key": [threading.Lock()]})
        assert "args[0]['key'][0]" in str(caught.value)
        assert pool.statistics().workers == ()


@pytest.mark.parametrize("argument", [jobs.PickleRaises(), deeds.SysExitAtPickle()])
async def test_argument_that_raises_at_pickle(argument):
    """Whatever an argument raises while it is pickled is the cause of NotTransferable."""
    async with aiopool.Pool(1) as pool:
        with pytest.raises(aiopool.NotTransferable) as caught:
            await pool.run(jobs.echo, argument)
        assert type(caught.value.__cause__) in (RuntimeError, SystemExit)
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_bad_items_of_a_map(pool, worker):
    """Items of a map that cannot be sent fail in their places and no other does."""
    items = [n if n % 3 else threading.Lock() for n in range(20)]
    found = await pool.map(jobs.echo, items, return_exceptions=True)
    for n, end in enumerate(found):
        assert end == n if n % 3 else type(end) is aiopool.NotTransferable


async def test_argument_that_raises_at_unpickle(pool, worker):
    """What an argument raises while it is unpickled is its own call's failure alone."""
    guilty = pool.submit(jobs.echo, jobs.UnpickleRaises())
    later = [pool.submit(jobs.add, n, 1) for n in range(5)]
    with pytest.raises(Exception, match="cannot be unpickled"):
        await guilty
    assert await asyncio.gather(*later) == [1, 2, 3, 4, 5]


async def test_argument_that_exits_at_unpickle(pool, worker):
    """A SystemExit raised while an argument is unpickled arrives wrapped and the worker goes on."""
    with pytest.raises(aiopool.RemoteError, match="at unpickle"):
        await pool.run(jobs.echo, deeds.SysExitAtUnpickle())


async def test_items_that_raise_at_unpickle(pool, worker):
    """Items of a map that do not unpickle in the worker fail in their places."""
    items = [jobs.UnpickleRaises() if n == 4 else [n] for n in range(10)]
    found = await pool.map(jobs.echo, items, return_exceptions=True)
    assert "cannot be unpickled" in str(found.pop(4))
    assert found == [[n] for n in range(10) if n != 4]


async def test_item_that_kills_at_unpickle(pool):
    """An item of a map that kills the worker that unpickles it fails in its place."""
    items = [deeds.KillsAtUnpickle() if n == 4 else [n] for n in range(10)]
    found = await pool.map(jobs.echo, items, return_exceptions=True)
    killed = found.pop(4)
    assert type(killed) is aiopool.WorkerCrashed
    assert killed.exitcode == -signal.SIGKILL
    assert found == [[n] for n in range(10) if n != 4]


async def test_function_that_raises_at_unpickle(pool, worker):
    """A function that cannot be rebuilt in the worker fails each call of it and nobody else's."""
    fn = deeds.CallableFailingAtUnpickle()
    ends = await asyncio.gather(
        *[pool.submit(fn, n) for n in range(3)], pool.submit(jobs.inc, 1), return_exceptions=True
    )
    assert [type(end) for end in ends[:3]] == [ValueError] * 3
    assert ends[3] == 2
    assert len(await pool.map(fn, range(3), return_exceptions=True)) == 3


# --- from the worker ------------------------------------------------------------------------


async def test_result_that_cannot_be_pickled(pool, worker):
    """A result that cannot be sent fails its call with NotTransferable and spares the worker."""
    with pytest.raises(aiopool.NotTransferable, match="ret_lock"):
        await pool.run(jobs.ret_lock)
    with pytest.raises(aiopool.NotTransferable, match="cannot be pickled"):
        await pool.run(jobs.ret_pickle_raises)


async def test_result_that_fails_at_unpickle(pool, worker):
    """What a result raises while it is unpickled in the parent is its own call's failure alone."""
    with pytest.raises(Exception, match="cannot be unpickled"):
        await pool.run(jobs.ret_unpickle_raises)
    with pytest.raises(aiopool.RemoteError, match="at unpickle") as caught:
        await pool.run(deeds.ret_sys_exit_at_unpickle)
    assert "SystemExit" in str(caught.value)


async def test_lambda_as_result(pool, worker):
    """A lambda crosses as a result and can be called."""
    assert (await pool.run(jobs.ret_lambda))() == 1


async def test_coroutine_as_result(pool, worker):
    """A plain function that returns a coroutine in a worker fails with TypeError."""
    with pytest.raises(TypeError, match="coroutine"):
        await pool.run(deeds.make_coroutine, 1)


# --- exceptions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "name", "words"),
    [
        (jobs.raise_two_args, "tests.jobs.TwoArgs", "left and right"),
        (jobs.raise_keyword_only, "tests.jobs.KeywordOnly", "code 7"),
        (jobs.raise_holding_lock, "tests.jobs.HoldsLock", "held"),
    ],
)
async def test_exception_that_cannot_cross(fn, name, words, pool, worker):
    """An exception that does not survive pickling arrives as a RemoteError that tells all of it."""
    with pytest.raises(aiopool.RemoteError) as caught:
        await pool.run(fn)
    assert caught.value.type_name == name
    assert caught.value.message == words
    assert fn.__name__ in caught.value.traceback_text
    assert any("could not be sent" in note for note in caught.value.__notes__)


async def test_exception_of_a_local_class(pool, worker):
    """An exception of a class defined inside a function keeps its name and its message."""
    with pytest.raises(Exception, match="nobody can import me") as caught:
        await pool.run(jobs.raise_local)
    assert "LocalError" in (type(caught.value).__name__, str(caught.value).partition(":")[0])


async def test_exception_that_cannot_be_shown(pool, worker):
    """An exception whose text cannot be made is raised as itself."""
    with pytest.raises(jobs.LyingStr):
        await pool.run(jobs.raise_lying)


async def test_chain_of_exceptions(pool, worker):
    """Cause, notes and the remote traceback arrive with an exception."""
    with pytest.raises(ValueError, match="effect") as caught:
        await pool.run(jobs.raise_chained)
    error = caught.value
    assert error.__notes__ == ["a note"]
    assert type(error.__cause__) is KeyError
    assert error.__cause__.args == ("cause",)
    text = "".join(traceback.format_exception(error))
    assert "in raise_chained" in text


async def test_exception_group(pool, worker):
    """An exception group can be split by the caller's `except*`."""
    caught = []
    try:
        await pool.run(jobs.raise_group)
    except* ValueError as group:
        caught += group.exceptions
    except* TypeError as group:
        caught += group.exceptions
    assert [type(error) for error in caught] == [ValueError, TypeError]


async def test_lethal_exception_in_a_task_group(pool, worker):
    """A cancellation raised by a call in a worker is not taken for the caller's own."""
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(pool.run(jobs.raise_type, asyncio.CancelledError))
    assert [type(error) for error in caught.value.exceptions] == [aiopool.RemoteError]


async def test_memory_and_recursion_errors(pool, worker):
    """A worker that ran out of memory or of stack in a call is of use afterwards."""
    with pytest.raises(RecursionError):
        await pool.run(_recurse, 0)
    with pytest.raises(MemoryError):
        await pool.run(bytes, 1 << 60)


def _recurse(depth):
    return _recurse(depth + 1) + 1


async def test_an_item_changed_after_submission(gate):
    """A submitted call has its arguments as they were, an item of a map as it is when sent."""
    async with aiopool.Pool(1) as pool:
        holding = pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        items = [[1], [1]]
        submitted = pool.submit(jobs.echo, items[0])
        mapped = asyncio.ensure_future(pool.map(jobs.echo, items[1:]))
        await asyncio.sleep(0)
        for item in items:
            item.append(2)
        gate.open()
        assert await holding == gate.pid
        assert await submitted == [1]
        assert await mapped == [[1, 2]]
