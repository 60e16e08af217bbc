"""Calls that wait for their own pool lend their place, so nesting does not deadlock."""

import asyncio

import pytest

from aiopool import Pool, Priority
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import double, ended, settled, turns

LIMITS = pytest.mark.parametrize("limit", [1, 2, 5])


async def by_run(pool):
    return await pool.run(double, 1)


async def by_map(pool):
    return sum(await pool.map(double, range(5)))


async def by_handle(pool):
    return await pool.submit(double, 1)


async def by_gather(pool):
    return await asyncio.gather(*(pool.submit(double, x) for x in range(5)))


async def by_gather_of_runs(pool):
    return await asyncio.gather(*(pool.run(double, x) for x in range(5)))


async def by_wait_for(pool):
    return await asyncio.wait_for(pool.submit(double, 1), 60)


async def by_shield(pool):
    return await asyncio.shield(pool.submit(double, 1))


async def by_asyncio_wait(pool):
    done, _ = await asyncio.wait([pool.submit(double, x) for x in range(3)])
    return sorted(handle.result() for handle in done)


async def by_stream(pool):
    async with pool.stream(double, range(5)) as results:
        return [x async for x in results]


async def by_group(pool):
    async with pool.task_group() as group:
        handles = [group.start_soon(double, x) for x in range(3)]
    return [handle.result() for handle in handles]


async def by_task(pool):
    return await asyncio.create_task(pool.run(double, 1))


async def by_tasks(pool):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(pool.map(double, range(3))) for _ in range(3)]
    return [task.result() for task in tasks]


async def by_thread(pool):
    return await pool.run(jobs.inc, 1, on="thread")


WAYS = [
    by_run,
    by_map,
    by_handle,
    by_gather,
    by_gather_of_runs,
    by_wait_for,
    by_shield,
    by_asyncio_wait,
    by_stream,
    by_group,
    by_task,
    by_tasks,
    by_thread,
]


@LIMITS
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_call_may_wait_for_its_pool(way, limit):
    """A call of the pool may wait for its own pool in any way, at any limit."""
    async with Pool(limit=limit) as pool:
        expected = await way(pool)
        handles = [pool.submit(way, pool) for _ in range(2 * limit)]
        done, pending = await asyncio.wait(handles, timeout=3)
        assert not pending, "a deadlock"
        assert [handle.result() for handle in handles] == [expected] * len(done)
        await settled(pool)


@LIMITS
async def test_deep_nesting(limit):
    """Calls nested fifty deep end, at any limit."""
    async with Pool(limit=limit) as pool:

        async def dive(depth):
            return depth if depth == 50 else await pool.run(dive, depth + 1)

        assert await asyncio.wait_for(pool.run(dive, 0), 20) == 50
        assert pool.statistics().running == 0


async def test_wide_and_deep_nesting():
    """A tree of maps at limit 1 ends with all of its leaves."""
    async with Pool(limit=1) as pool:

        async def grow(depth):
            if depth == 4:
                return 1
            return sum(await pool.map(grow, [depth + 1] * 3))

        assert await asyncio.wait_for(pool.run(grow, 0), 20) == 81


@LIMITS
async def test_lent_places_are_taken_back(limit):
    """Calls that do not wait for the pool never run in more than limit at once."""
    busy = most = 0

    async def work():
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        for _ in range(3):
            await asyncio.sleep(0)
        busy -= 1

    async with Pool(limit=limit) as pool:

        async def parent():
            await work()
            await pool.map(work_with, range(3))
            await work()
            await pool.run(work)
            await work()

        async def work_with(_):
            await work()

        await asyncio.gather(*(pool.run(parent) for _ in range(4 * limit)))
        assert most == limit
        assert pool.statistics().running == 0
        # And all places are there again.
        barrier = asyncio.Barrier(limit)

        async def meet():
            await barrier.wait()

        await asyncio.wait_for(asyncio.gather(*(pool.run(meet) for _ in range(limit))), 20)


async def test_a_lent_place_is_used(shop):
    """While a call waits for its pool another call has its place."""
    async with Pool(1, limit=1) as pool:
        inner = asyncio.Event()

        async def parent():
            inner.set()
            return await pool.run(shop.work, "child")

        handle = pool.submit(parent)
        await inner.wait()
        await shop.has_started("child")
        shop.let("child")
        assert await handle == "child"


async def test_a_parent_returns_in_its_turn(shop):
    """A parent whose child is done waits for at most one of the calls submitted after it."""
    order = []

    async with Pool(limit=1) as pool:

        async def parent():
            await pool.run(child)
            order.append("parent")

        async def child():
            for x in range(3):
                pool.submit(note, x)
            await turns()

        async def note(x):
            order.append(x)

        await pool.run(parent)
        await settled(pool)
    assert order.index("parent") <= 1
    assert [x for x in order if x != "parent"] == [0, 1, 2]


async def test_cancelling_a_parent_cancels_its_child(shop):
    """Cancelling a call that waits for another of the pool stops both, the inner one first."""
    async with Pool(limit=1) as pool:

        async def parent():
            try:
                await pool.run(shop.work, "child")
            finally:
                assert shop.ended == ["child"]

        handle = pool.submit(parent)
        await shop.has_started("child")
        handle.cancel()
        await ended(handle)
        assert handle.cancelled() and shop.ended == ["child"]
        await settled(pool)
        assert await pool.run(double, 1) == 2


async def test_a_parent_cancelled_while_it_waits_for_its_place(shop):
    """A call cancelled while it waits to have its place back leaves the count of places right."""
    async with Pool(limit=1) as pool:
        child_done = asyncio.Event()

        async def parent():
            handle = pool.submit(child)
            await handle

        async def child():
            pool.submit(shop.work, "other", priority=Priority.URGENT)
            child_done.set()

        handle = pool.submit(parent, priority=Priority.LOW)
        await child_done.wait()
        await shop.has_started("other")
        await turns()
        assert not handle.done()
        handle.cancel()
        await ended(handle)
        assert handle.cancelled()
        shop.open()
        await settled(pool)
        assert await asyncio.wait_for(pool.run(double, 1), 20) == 2
        assert pool.statistics().running == 0


async def test_cleanup_that_uses_the_pool():
    """A cancelled call may use the pool in its clean-up, at limit 1."""
    entered, cleaned = asyncio.Event(), []

    async with Pool(limit=1) as pool:

        async def work():
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append(await pool.run(double, 1))

        handle = pool.submit(work)
        await entered.wait()
        handle.cancel()
        await ended(handle)
        assert handle.cancelled() and cleaned == [2]


async def test_a_failing_child_fails_its_parent_only():
    """The error of an inner call comes out in its parent, where it can be handled."""

    async def fail():
        raise ValueError("inner")

    async with Pool(limit=1) as pool:

        async def parent():
            try:
                await pool.run(fail)
            except ValueError as error:
                return f"handled {error}"

        assert await pool.run(parent) == "handled inner"
        assert pool.statistics().failed == 1


async def test_parents_of_processes():
    """Calls on the loop may wait for calls in worker processes, more of them than workers."""
    async with Pool(1, limit=1) as pool:

        async def parent(x):
            return await pool.run(jobs.inc, x)

        assert await pool.map(parent, range(20)) == list(range(1, 21))


async def test_a_call_may_use_another_pool():
    """A call of one pool may wait for another pool, more of them than either has places."""
    async with Pool(limit=1) as one, Pool(limit=1) as two:

        async def ask(x):
            return await two.run(double, x)

        assert await asyncio.wait_for(one.map(ask, range(20)), 20) == list(range(0, 40, 2))


async def test_a_task_left_behind_by_a_call():
    """A task that outlives the call which made it may use the pool too."""
    left = []

    async with Pool(limit=1) as pool:
        go = asyncio.Event()

        async def later():
            await go.wait()
            return await pool.run(double, 21)

        async def parent():
            left.append(asyncio.create_task(later()))

        await pool.run(parent)
        go.set()
        assert await asyncio.wait_for(left[0], 20) == 42
        await settled(pool)
        assert pool.statistics().running == 0


async def test_lending_is_seen_in_statistics(shop):
    """A call that waits for its own pool still counts as running."""
    async with Pool(limit=1) as pool:

        async def parent():
            return await pool.run(shop.work, "child")

        handle = pool.submit(parent)
        await shop.has_started("child")
        assert pool.statistics().running == 2
        assert handle.state == "running"
        shop.open()
        await handle
        await wait_until(lambda: not pool.statistics().running)
