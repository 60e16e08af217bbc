"""Pools never entered, entered twice, used elsewhere, dropped, or left open."""

import asyncio
import gc

import pytest

from aiopool import Pool, PoolClosed
from tests import jobs
from tests.helpers import run_python, wait_until
from tests.run.support import double, ended, forever, is_cancelled

# --- pools out of place ---------------------------------------------------------------------


async def test_a_pool_never_entered():
    """A pool that was not entered says how to use it, and closing it is no mistake."""
    pool = Pool()
    for refused in (
        lambda: pool.submit(double, 1),
        lambda: pool.stream(double, [1]),
        pool.task_group,
        pool.statistics,
    ):
        with pytest.raises(PoolClosed, match="async with"):
            refused()
    with pytest.raises(PoolClosed, match="async with"):
        await pool.run(double, 1)
    with pytest.raises(PoolClosed, match="async with"):
        await pool.collect()
    await pool.aclose()
    with pytest.raises(PoolClosed):
        async with pool:
            pass


async def test_a_pool_is_entered_once():
    """A pool cannot be entered twice, neither nested nor one time after the other."""
    async with Pool() as pool:
        with pytest.raises(PoolClosed, match="new one"):
            await pool.__aenter__()
        assert await pool.run(double, 1) == 2
    with pytest.raises(PoolClosed, match="new one"):
        async with pool:
            pass


async def test_a_pool_in_another_thread():
    """Using a pool in a thread that is not its loop's is refused with the way to do it."""
    async with Pool() as pool:
        for call in (
            lambda: pool.submit(double, 1),
            lambda: pool.stream(double, [1]),
            pool.statistics,
        ):
            with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
                await asyncio.to_thread(call)


async def test_a_pool_in_another_loop():
    """Using a pool in another loop is refused with the way to do it, and closing it too."""
    async with Pool() as pool:
        handle = pool.submit(double, 1)

        async def use(what):
            await what()

        for what in (lambda: pool.run(double, 1), lambda: pool.map(double, [1]), pool.aclose):
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, use(what))
        assert await handle == 2
        assert await pool.run(double, 2) == 4, "a refused close closes nothing"


def test_a_pool_of_a_loop_that_is_gone():
    """A pool that belongs to a loop of the past refuses instead of hanging."""

    async def make():
        async with Pool() as pool:
            return pool

    pool = asyncio.run(make())

    async def use():
        await pool.run(double, 1)

    with pytest.raises(RuntimeError):
        asyncio.run(use())


def test_one_pool_after_the_other():
    """Any number of loops one after the other may have a pool each."""

    async def main():
        async with Pool(1) as pool:
            return await pool.run(jobs.inc, 1)

    assert [asyncio.run(main()) for _ in range(3)] == [2, 2, 2]


def test_two_loops_in_two_threads():
    """Two loops in two threads may have a pool each at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    async def main(x):
        async with Pool(1) as pool:
            return await pool.map(jobs.inc, range(x))

    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(asyncio.run, main(x)) for x in (50, 60)]
        assert [len(future.result()) for future in futures] == [50, 60]


async def test_a_dropped_pool_is_closed():
    """A pool dropped without closing warns once, and what it ran is cancelled."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def work():
        entered.set()
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    pool = await Pool().__aenter__()
    handle = pool.submit(work)
    await entered.wait()
    kept = [pool]
    del pool
    with pytest.warns(ResourceWarning, match="unclosed pool"):
        kept.clear()
    gc.collect()
    await asyncio.wait_for(cancelled.wait(), 20)
    await ended(handle)
    assert handle.cancelled()


def test_a_loop_that_ends_closes_the_pool():
    """A pool left open when asyncio.run ends is closed by then, and its calls are cancelled."""

    async def main():
        pool = await Pool(1).__aenter__()
        handle = pool.submit(jobs.sleep_for, 60)
        await wait_until(lambda: handle.state == "running")
        return pool, handle

    pool, handle = asyncio.run(main())
    assert handle.cancelled()
    assert "closed" in repr(pool)


def test_an_unclosed_pool_does_not_hang_the_interpreter():
    """An interpreter that ends without closing its pool ends, and is not noisy."""
    code = """
import asyncio, aiopool
async def main():
    global pool
    pool = await aiopool.Pool(1).__aenter__()
    print(await pool.run(len, "abc"))
    pool.submit(__import__("time").sleep, 60)
    await asyncio.sleep(0.05)
asyncio.run(main())
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert "Traceback" not in done.stderr


async def test_cancelled_outcome_is_seen_by_waiters(shop):
    """Tasks that wait for calls which a closing pool cancels are woken."""
    async with Pool() as pool:
        waiters = [
            asyncio.ensure_future(pool.run(shop.work, 1)),
            asyncio.ensure_future(pool.map(shop.work, [2, 3])),
            asyncio.ensure_future(asyncio.wait([pool.submit(shop.work, 4)])),
        ]
        await shop.has_started(1, 2, 3, 4)
        await pool.aclose(drain=False)
        await asyncio.wait(waiters)
        assert is_cancelled(waiters[0]) and is_cancelled(waiters[1])
        done, _ = waiters[2].result()
        assert all(handle.cancelled() for handle in done)
