"""Chosen context variables: the caller's values in its calls, wherever they run, and no others."""

import asyncio
import contextvars
import threading

import pytest

import aiopool
from tests import jobs
from tests.backends import writers
from tests.backends.writers import request_id, tenant

BOTH = {"contextvars": [request_id, tenant]}


PLACES = pytest.mark.parametrize(
    ("see", "options"),
    [
        (writers.see, {}),
        (writers.see, {"on": "thread"}),
        (writers.see_async, {}),
    ],
    ids=["process", "thread", "loop"],
)


@PLACES
async def test_values(see, options):
    """Every verb's calls see the caller's values, and what it has not set is unset."""
    async with aiopool.Pool(2, **BOTH) as pool:
        assert await pool.run(see, **options) == ("unset", "nobody")
        request_id.set("r1")
        assert await pool.run(see, **options) == ("r1", "nobody")
        tenant.set("t1")
        seen = ("r1", "t1")
        assert await pool.submit(see, **options) == seen
        assert await pool.map(see, range(10), **options) == [seen] * 10
        assert await pool.starmap(see, [(1,), (2,)], **options) == [seen] * 2
        async with pool.stream(see, range(10), **options) as results:
            assert [value async for value in results] == [seen] * 10
        async with pool.task_group() as group:
            handle = group.start_soon(see, **options)
        assert handle.result() == seen


@PLACES
async def test_values_as_of_submission(see, options, make_gate):
    """A call sees the values as they were when it was submitted."""
    gate = make_gate()
    async with aiopool.Pool(1, **BOTH) as pool:
        blocker = pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        handles = []
        for value in ("first", "second"):
            request_id.set(value)
            handles.append(pool.submit(see, **options))
        stream = pool.stream(see, [1], **options)
        request_id.set("later")
        gate.open()
        seen = [await handle for handle in handles]
        assert seen == [("first", "nobody"), ("second", "nobody")]
        async with stream:
            assert [value async for value in stream] == [("second", "nobody")]
        await blocker


async def test_start_method(start_method):
    """Values travel whatever the start method."""
    request_id.set("r1")
    async with aiopool.Pool(1, mp_context=start_method, **BOTH) as pool:
        assert await pool.run(writers.see) == ("r1", "nobody")


async def test_nothing_leaks_into_the_next_call():
    """What one call was given or has set, no later call of the same worker sees."""
    async with aiopool.Pool(1, **BOTH) as pool:
        alone = contextvars.copy_context()
        request_id.set("r1")
        assert await pool.run(writers.set_and_see, "mine") == ("r1", "nobody")
        assert await pool.run(writers.see) == ("r1", "nobody")
        assert await alone.run(pool.submit, writers.see) == ("unset", "nobody")
        seen = await pool.map(writers.set_and_see, range(20))
        assert seen == [("r1", "nobody")] * 20


async def test_each_call_has_values_of_its_own():
    """A call that changes a value changes it for no other call."""
    request_id.set([])
    async with aiopool.Pool(1, **BOTH) as pool:
        assert await pool.starmap(writers.grow_and_see, [()] * 20) == [[0]] * 20
    assert request_id.get() == []


async def test_two_pools():
    """Each pool sends the variables that it was given."""
    request_id.set("r1")
    tenant.set("t1")
    async with (
        aiopool.Pool(1, contextvars=[request_id]) as one,
        aiopool.Pool(1, contextvars=(tenant,)) as other,
        aiopool.Pool(1) as none,
    ):
        assert await one.run(writers.see) == ("r1", "nobody")
        assert await other.run(writers.see) == ("unset", "t1")
        assert await none.run(writers.see) == ("unset", "nobody")


async def test_values_of_a_retry(tmp_path):
    """Each attempt sees the same values."""
    request_id.set("r1")
    async with aiopool.Pool(1, **BOTH) as pool:
        retry = aiopool.Retry(attempts=3, wait_initial=0.001, wait_jitter=0)
        handle = pool.submit(writers.see_after_failing, str(tmp_path / "journal"), 2, retry=retry)
        request_id.set("r2")
        assert await handle == ("r1", "nobody")
        assert handle.attempts == 3


async def test_values_through_a_limiter():
    """A call that goes through a limiter sees its caller's values."""
    request_id.set("r1")
    async with aiopool.Pool(1, **BOTH) as pool:
        limiter = asyncio.Semaphore(1)
        assert await pool.run(writers.see, limiter=limiter) == ("r1", "nobody")
        seen = await pool.map(writers.see, range(3), limiter=limiter)
        assert seen == [("r1", "nobody")] * 3


@pytest.mark.parametrize("verb", ["run", "submit", "map", "stream"])
async def test_value_that_cannot_be_sent(verb):
    """A value that cannot be pickled is refused at the call, by the name of its variable."""
    async with aiopool.Pool(1, **BOTH) as pool:
        request_id.set("fine")
        tenant.set({"lock": threading.Lock()})
        with pytest.raises(aiopool.NotTransferable, match=r"'tenant'.*lock") as caught:
            if verb == "run":
                await pool.run(writers.see)
            elif verb == "submit":
                pool.submit(writers.see)
            elif verb == "map":
                await pool.map(writers.see, [1])
            else:
                pool.stream(writers.see, [1])
        assert caught.value.where == "['lock']"
        assert await pool.run(writers.see_async) == ("fine", tenant.get())


async def test_value_that_cannot_be_unpickled():
    """A value that does not unpickle in the worker fails the calls it was for, and no later one."""
    async with aiopool.Pool(1, **BOTH) as pool:
        token = request_id.set(jobs.UnpickleRaises())
        with pytest.raises(RuntimeError, match="cannot be unpickled"):
            await pool.run(writers.see)
        ends = await pool.map(writers.see, range(3), return_exceptions=True)
        assert {type(end) for end in ends} == {RuntimeError}
        request_id.reset(token)
        assert await pool.run(writers.see) == ("unset", "nobody")


async def test_value_that_kills_the_worker():
    """A value that ends the worker it is unpickled in costs the call it was for."""
    async with aiopool.Pool(1, **BOTH) as pool:
        token = request_id.set(jobs.UnpickleExits())
        with pytest.raises(aiopool.WorkerCrashed):
            await pool.run(writers.see)
        request_id.reset(token)
        assert await pool.run(writers.see) == ("unset", "nobody")


async def test_result_that_does_not_cross():
    """The message about a result that cannot be sent still names the function."""
    async with aiopool.Pool(1, **BOTH) as pool:
        with pytest.raises(aiopool.NotTransferable, match=r"result of ret_lock\(\)"):
            await pool.run(jobs.ret_lock)
