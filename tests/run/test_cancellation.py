"""Cancellation from outside: scopes of anyio and asyncio around every verb, again and again."""

import asyncio
import time

import anyio
import pytest

from aiopool import Pool, TaskGroup, TaskTimeout
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import Numbers, Source, double, ended, forever, settled, turns


async def by_run(pool, shop):
    await pool.run(shop.work, 1)


async def by_map(pool, shop):
    await pool.map(shop.work, range(3))


async def by_starmap(pool, shop):
    await pool.starmap(shop.work, [(x,) for x in range(3)])


async def by_handle(pool, shop):
    await pool.submit(shop.work, 1)


async def by_gather(pool, shop):
    await asyncio.gather(*(pool.submit(shop.work, x) for x in range(3)))


async def by_stream(pool, shop):
    async for _ in pool.stream(shop.work, range(3)):
        pass


async def by_stream_block(pool, shop):
    async with pool.stream(shop.work, Source().items(), ordered=False) as results:
        async for _ in results:
            pass


async def by_outcomes(pool, shop):
    async with pool.stream(shop.work, Numbers(), buffersize=3) as results:
        async for _ in results.outcomes():
            pass


async def by_limiter(pool, shop):
    await pool.map(shop.work, range(3), limiter=anyio.CapacityLimiter(2))


async def by_group(pool, shop):
    async with pool.task_group() as group:
        group.start_soon(shop.work, 1)
        group.create_task(forever())


async def by_nesting(pool, shop):
    async def parent():
        await pool.run(shop.work, 1)

    await pool.run(parent)


WAYS = pytest.mark.parametrize(
    "way",
    [
        by_run,
        by_map,
        by_starmap,
        by_handle,
        by_gather,
        by_stream,
        by_stream_block,
        by_outcomes,
        by_limiter,
        by_group,
        by_nesting,
    ],
    ids=lambda way: way.__name__,
)


async def nothing_left(pool, shop):
    assert not shop.inside, "what was stopped had ended when the verb returned"
    assert sorted(shop.started) == sorted(shop.ended)
    await settled(pool)
    assert await pool.run(double, 1) == 2


@WAYS
async def test_a_cancel_scope(shop, way):
    """An anyio scope cancelled around a verb ends it, with all of its work stopped."""
    async with Pool() as pool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_when_started, shop, scope)
                await way(pool, shop)
        assert scope.cancelled_caught
        await nothing_left(pool, shop)


async def _cancel_when_started(shop, scope):
    await wait_until(lambda: shop.started)
    scope.cancel()


@WAYS
async def test_a_scope_that_is_cancelled_already(shop, way):
    """A verb called within a cancelled anyio scope leaves nothing running."""
    async with Pool() as pool:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await way(pool, shop)
        assert scope.cancelled_caught
        await nothing_left(pool, shop)


@WAYS
async def test_anyio_move_on_after(shop, way):
    """anyio.move_on_after around a verb stops its work."""
    async with Pool() as pool:
        with anyio.move_on_after(0.02) as scope:
            await way(pool, shop)
        assert scope.cancelled_caught
        await nothing_left(pool, shop)


@WAYS
async def test_asyncio_timeout(shop, way):
    """asyncio.timeout around a verb raises TimeoutError, with the work stopped."""
    async with Pool() as pool:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.02):
                await way(pool, shop)
        assert not isinstance(caught.value, TaskTimeout)
        assert asyncio.current_task().cancelling() == 0
        await nothing_left(pool, shop)


@pytest.mark.parametrize("limit", [None, 1])
async def test_a_cancellation_that_a_failure_hides(limit):
    """Cancelling a group's host whose child then fails counts on and strikes at the next wait."""
    under_way = asyncio.Event()

    async def fail_when_cancelled():
        under_way.set()
        try:
            await forever()
        finally:
            raise ValueError

    async def host():
        with pytest.raises(ExceptionGroup):
            async with TaskGroup(limit=limit) as group:
                group.create_task(fail_when_cancelled())
        assert asyncio.current_task().cancelling() == 1
        await forever()

    task = asyncio.ensure_future(host())
    await under_way.wait()
    task.cancel()
    await ended(task)
    assert task.cancelled() and task.cancelling() == 1


@pytest.mark.parametrize("limit", [None, 1])
async def test_a_failure_leaves_no_cancellation(limit):
    """A child's failure cancels the block of its group and takes that back."""

    async def fail():
        raise ValueError

    with pytest.raises(ExceptionGroup):
        async with TaskGroup(limit=limit) as group:
            group.create_task(fail())
            await forever()
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


@WAYS
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_cancelled_again_and_again(shop, way, times):
    """A verb's caller cancelled several times in a row ends cancelled, its work stopped."""
    async with Pool() as pool:
        task = asyncio.ensure_future(way(pool, shop))
        await wait_until(lambda: shop.started)
        for _ in range(times):
            task.cancel()
            await turns(1)
        await ended(task)
        assert task.cancelled()
        await nothing_left(pool, shop)


@WAYS
async def test_cancelled_during_cleanup(way):
    """Cancellations that come while the work cleans up do not disturb the clean-up."""
    cleaning, may_end, done = asyncio.Event(), asyncio.Event(), []

    class Slow:
        started = ended = inside = ()

        async def work(self, x):
            try:
                await forever()
            finally:
                cleaning.set()
                await may_end.wait()
                done.append(x)

    async with Pool() as pool:
        task = asyncio.ensure_future(way(pool, Slow()))
        await wait_until(lambda: pool.statistics().running)
        await turns(20)
        task.cancel()
        await cleaning.wait()
        for _ in range(3):
            task.cancel()
            await turns()
        assert not task.done()
        may_end.set()
        await ended(task)
        assert task.cancelled()
        assert done
        await settled(pool)


@pytest.mark.parametrize("place", ["loop", "process"])
async def test_level_cancellation_around_a_pool(shop, gate, place):
    """A pool opened within an anyio scope that is cancelled closes completely."""
    with anyio.CancelScope() as scope:
        async with Pool(1, grace_period=0.2) as pool:
            if place == "loop":
                handle = pool.submit(shop.work, 1)
                await shop.has_started(1)
            else:
                handle = pool.submit(jobs.gate, *gate.paths)
                await gate.entered()
            scope.cancel()
            await handle
    assert scope.cancelled_caught
    assert handle.cancelled()
    assert "closed" in repr(pool)


async def test_a_scope_cancelled_while_the_pool_drains(shop):
    """An anyio scope cancelled while a pool in it drains cuts that short."""
    with anyio.CancelScope() as scope:
        async with Pool() as pool:
            handle = pool.submit(shop.work, 1)
            await shop.has_started(1)
            asyncio.get_running_loop().call_soon(scope.cancel)
    assert scope.cancelled_caught and handle.cancelled()


async def test_a_shielded_scope_within_a_call():
    """A call may shield its clean-up with anyio and use the pool there."""
    entered, cleaned = asyncio.Event(), []

    async with Pool(limit=1) as pool:

        async def work():
            entered.set()
            try:
                await forever()
            finally:
                with anyio.CancelScope(shield=True):
                    cleaned.append(await pool.run(double, 1))

        task = asyncio.ensure_future(pool.run(work))
        await entered.wait()
        task.cancel()
        await ended(task)
        assert task.cancelled() and cleaned == [2]


async def test_a_call_that_uses_anyio():
    """A call may use anyio's scopes and groups inside, and its own timeouts stay its own."""

    async def work():
        with anyio.move_on_after(0.01):
            await forever()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        return "done"

    async with Pool() as pool:
        assert await pool.run(work) == "done"


async def test_cancelling_one_of_several_runs(shop):
    """Cancelling one caller stops its own call and no other."""
    async with Pool() as pool:
        tasks = [asyncio.ensure_future(pool.run(shop.work, x)) for x in range(3)]
        await shop.has_started(0, 1, 2)
        tasks[1].cancel()
        await ended(tasks[1])
        assert shop.ended == [1]
        shop.open()
        assert await asyncio.gather(tasks[0], tasks[2]) == [0, 2]


async def test_a_storm_of_cancels(shop):
    """Ten thousand queued calls can be cancelled at once, none starts, and nothing is left."""
    async with Pool(limit=1) as pool:
        handles = [pool.submit(shop.work, x) for x in range(10_000)]
        await shop.has_started(0)
        started = time.monotonic()
        for handle in reversed(handles):
            handle.cancel()
        await asyncio.wait(handles)
        assert time.monotonic() - started < 20, "not quadratic"
        assert all(handle.cancelled() for handle in handles)
        assert shop.started == [0]
        assert pool.statistics().cancelled == 10_000
        assert pool.statistics().queued == {}
        assert await pool.run(double, 1) == 2


async def test_a_storm_of_cancelled_callers(shop):
    """Ten thousand callers cancelled at once leave nothing queued."""
    async with Pool(limit=1) as pool:
        tasks = [asyncio.ensure_future(pool.run(shop.work, x)) for x in range(10_000)]
        await shop.has_started(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert pool.statistics().queued == {} and shop.started == [0]


async def test_a_storm_of_running_calls():
    """Cancelling sixteen times as many running calls takes far less than 256 times as long."""
    took = {}
    async with Pool(limit=4000) as pool:
        for count in (4000, 250) * 3:
            handles = [pool.submit(forever) for _ in range(count)]
            await wait_until(lambda handles=handles: handles[-1].state == "running")
            started = time.process_time()
            for handle in handles:
                handle.cancel()
            await asyncio.wait(handles)
            took[count] = min(took.get(count, 1e9), time.process_time() - started)
            assert all(handle.cancelled() for handle in handles)
    assert took[4000] < 100 * took[250], took


async def test_cancelling_a_map_of_many(shop):
    """Cancelling a map of a million items is done at once and touches none of them."""
    numbers = Numbers(1_000_000)
    async with Pool(limit=10) as pool:
        task = asyncio.ensure_future(pool.map(shop.work, numbers))
        await shop.has_started(9)
        task.cancel()
        await ended(task)
        assert task.cancelled()
        assert numbers.pulled <= 11
