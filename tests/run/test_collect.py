"""Outcomes, and collect: how each submitted call ended, in the order of submission."""

import asyncio

import pytest

from aiopool import Outcome, Pool, PoolClosed, Retry
from tests import jobs
from tests.run.support import double, ended, hold_back, outlast, turns


async def boom(x):
    raise ValueError(x)


async def test_collect_is_in_submission_order(shop):
    """collect gives outcomes in the order of submission, not of completion."""
    async with Pool() as pool:
        handles = [pool.submit(shop.work, x) for x in range(4)]
        await shop.has_started(0, 1, 2, 3)
        for x in (2, 0, 3, 1):
            shop.let(x)
            await handles[x]
        outcomes = await pool.collect()
        assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]
        assert [outcome.unwrap() for outcome in outcomes] == [0, 1, 2, 3]


async def test_collect_waits_for_all(shop):
    """collect waits for calls that run, wait, or are between attempts."""
    async with Pool(limit=1) as pool:
        await hold_back(pool, shop, 1)
        pool.submit(shop.work, 1)
        pool.submit(boom, 2, retry=Retry(2, wait_initial=0, wait_jitter=0))
        collecting = asyncio.ensure_future(pool.collect())
        await turns()
        assert not collecting.done()
        shop.open()
        outcomes = await collecting
        assert [outcome.ok for outcome in outcomes] == [True, True, False]
        assert outcomes[2].attempts == 2


async def test_collect_again_returns_the_same():
    """collect called again, or by several at once, returns the same outcomes."""
    async with Pool() as pool:
        pool.submit(double, 1)
        first, second = await asyncio.gather(pool.collect(), pool.collect())
        third = await pool.collect()
        assert first[0].value == second[0].value == third[0].value == 2
        assert len(first) == len(second) == len(third) == 1


async def test_collect_of_nothing():
    """collect of a pool nothing was submitted to is an empty list."""
    async with Pool() as pool:
        assert await pool.collect() == []


async def test_collect_after_closing():
    """collect of a closed pool still says how each call ended."""
    async with Pool() as pool:
        handle = pool.submit(double, 1)
    assert [outcome.value for outcome in await pool.collect()] == [2]
    assert handle.result() == 2


async def test_collect_refuses_new_work(shop):
    """From collect on the pool takes no more work, by any verb."""
    async with Pool() as pool:
        pool.submit(shop.work, 1)
        collecting = asyncio.ensure_future(pool.collect())
        await turns()
        for refused in (
            lambda: pool.submit(double, 1),
            lambda: pool.stream(double, [1]),
            pool.task_group,
        ):
            with pytest.raises(PoolClosed):
                refused()
        with pytest.raises(PoolClosed):
            await pool.run(double, 1)
        with pytest.raises(PoolClosed):
            await pool.map(double, [1])
        shop.open()
        assert len(await collecting) == 1


async def test_collect_does_not_hold_what_run_and_map_did():
    """Only what was submitted is collected, not what run, map and stream did."""
    async with Pool() as pool:
        await pool.run(double, 1)
        await pool.map(double, [1, 2])
        pool.submit(double, 21)
        assert [outcome.value for outcome in await pool.collect()] == [42]


async def test_a_cancelled_collect_stops_nothing(shop):
    """Cancelling collect only stops the waiting, and collect may be called again."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, 1)
        collecting = asyncio.ensure_future(pool.collect())
        await shop.has_started(1)
        collecting.cancel()
        await ended(collecting)
        assert collecting.cancelled()
        assert handle.state == "running"
        shop.open()
        assert [outcome.value for outcome in await pool.collect()] == [1]


async def test_collect_and_close_at_once(shop):
    """collect ends with cancelled outcomes if the pool is closed meanwhile without draining."""
    async with Pool() as pool:
        pool.submit(shop.work, 1)
        await shop.has_started(1)
        collecting = asyncio.ensure_future(pool.collect())
        await turns()
        await pool.aclose(drain=False)
        (outcome,) = await collecting
        assert isinstance(outcome.error, asyncio.CancelledError)


async def test_collect_from_a_call_of_the_pool_leaves_itself_out():
    """A call that collects its own pool is refused instead of waiting for itself."""
    async with Pool() as pool:
        handle = pool.submit(pool.collect)
        done, _ = await asyncio.wait([handle], timeout=2)
        assert done, "it waits for itself"
        with pytest.raises(RuntimeError):
            handle.result()


# --- fields ---------------------------------------------------------------------------------


async def test_fields_of_a_value():
    """The outcome of a call that returned tells arguments, value, attempts, pid and durations."""
    async with Pool(1) as pool:
        pool.submit(double, 4)
        pool.submit(jobs.pid_and, 7)
        loop, process = await pool.collect()
    assert (loop.index, loop.item, loop.value, loop.error) == (0, (4,), 8, None)
    assert (loop.attempts, loop.pid, loop.ok) == (1, None, True)
    assert loop.queued_for >= 0 and loop.ran_for >= 0
    pid, _ = process.unwrap()
    assert (process.item, process.pid) == ((7,), pid)


async def test_fields_of_a_failure():
    """The outcome of a call that failed holds the very error, and unwrap raises it each time."""
    async with Pool() as pool:
        handle = pool.submit(boom, 3, retry=Retry(2, wait_initial=0, wait_jitter=0))
        (outcome,) = await pool.collect()
    assert outcome.error is handle.exception()
    assert (outcome.value, outcome.ok, outcome.attempts) == (None, False, 2)
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            outcome.unwrap()
        assert caught.value is outcome.error


async def test_fields_of_a_cancelled_call(shop):
    """The outcome of a cancelled call is a CancelledError, with 0 attempts if it never started."""
    async with Pool(limit=1) as pool:
        running = pool.submit(shop.work, 1)
        queued = pool.submit(shop.work, 2)
        await shop.has_started(1)
        running.cancel()
        queued.cancel()
        first, second = await pool.collect()
    assert isinstance(first.error, asyncio.CancelledError)
    assert isinstance(second.error, asyncio.CancelledError)
    assert (first.attempts, second.attempts) == (1, 0)


async def test_durations(shop):
    """An outcome's queued_for and ran_for are the seconds it waited and ran."""
    async with Pool(limit=1) as pool:
        await hold_back(pool, shop, 1)
        pool.submit(shop.work, 1)
        await outlast(0.02)
        shop.let("blocker0")
        await shop.has_started(1)
        await outlast(0.03)
        shop.open()
        outcome = (await pool.collect())[1]
    assert outcome.queued_for >= 0.02
    assert outcome.ran_for >= 0.03


async def test_stream_outcomes():
    """outcomes() of a stream tells index, item, value or error of each call, and stops at none."""

    async def odd(x):
        if x % 2:
            raise ValueError(x)
        return 10 * x

    async with Pool() as pool:
        found = [outcome async for outcome in pool.stream(odd, iter(b"abcd")).outcomes()]
    assert [type(outcome) for outcome in found] == [Outcome] * 4
    assert [(o.index, o.item, o.value) for o in found] == [
        (0, 97, None),
        (1, 98, 980),
        (2, 99, None),
        (3, 100, 1000),
    ]
    assert [type(o.error) for o in found] == [ValueError, type(None)] * 2


async def test_stream_outcomes_of_several_iterables():
    """The item of an outcome is the tuple of items where there are several iterables."""

    async def plus(a, b):
        return a + b

    async with Pool() as pool:
        found = [o async for o in pool.stream(plus, [1, 2], [10, 20]).outcomes()]
    assert [(o.item, o.value) for o in found] == [((1, 10), 11), ((2, 20), 22)]


async def test_stream_outcomes_count_attempts():
    """The outcome of a stream's call counts its attempts."""
    failed = set()

    async def fail_once(x):
        if x not in failed:
            failed.add(x)
            raise ValueError(x)
        return x

    async with Pool(retry=Retry(2, wait_initial=0, wait_jitter=0)) as pool:
        found = [o async for o in pool.stream(fail_once, range(3)).outcomes()]
    assert [(o.value, o.attempts) for o in found] == [(0, 2), (1, 2), (2, 2)]
