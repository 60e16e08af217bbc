"""Each public verb cancelled at every step it takes: nothing is lost, leaked or left running."""

import asyncio

import anyio
import pytest

from aiopool import Outcome, Pool, PoolClosed, Retry, TaskGroup, checkpoint
from tests import jobs
from tests.run.support import (
    Source,
    cancel_at_step,
    double,
    is_cancelled,
    settled,
    sweep,
    turn_then,
)

# In processes a step of the loop is no step of the work: try early ones and some later ones.
FAR_STEPS = [*range(1, 12), 15, 20, 30, 50, 80, 120, 200, 350, 600, 1000]


class Busy:
    """Coroutine calls of a few steps each, and whether any of them is under way."""

    def __init__(self):
        self.inside = 0
        self.begun = self.over = 0

    async def step(self, x):
        self.inside += 1
        self.begun += 1
        try:
            await turn_then(x)
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                self.inside -= 1
                self.over += 1
        return x

    async def fail_first(self, x):
        await self.step(x)
        if self.begun % 2:
            raise ValueError(x)
        return x


@pytest.fixture
def busy():
    """Give a `Busy`."""
    return Busy()


def checked(pool, busy, expected):
    """Give a check: the whole result or a cancellation, nothing under way, the pool in order."""

    async def check(task, step):
        if not is_cancelled(task):
            assert task.result() == expected
        assert busy.inside == 0, "calls still run after the verb returned"
        await settled(pool)
        assert busy.begun == busy.over
        for venue in pool._parts.engine.venues.values():
            venue.validate()
        assert not list(pool._parts.engine.live)
        assert await pool.run(double, step) == 2 * step

    return check


async def by_run(pool, busy):
    return await pool.run(busy.step, 7)


async def by_run_with_retry(pool, busy):
    policy = Retry(6, wait_initial=0, wait_jitter=0)
    return 7 if await pool.run(busy.fail_first, 7, retry=policy) == 7 else None


async def by_submit(pool, busy):
    return await pool.submit(busy.step, 7)


async def by_limiter(pool, busy):
    return await pool.run(busy.step, 7, limiter=anyio.CapacityLimiter(1))


async def by_nesting(pool, busy):
    async def parent():
        return sum(await pool.map(busy.step, [3, 4]))

    return await pool.run(parent)


async def by_map(pool, busy):
    return sum(await pool.map(busy.step, [0, 1, 2, 4]))


async def by_map_of_async_input(pool, busy):
    return 1 + sum(await pool.map(busy.step, Source(4).items()))


async def by_map_with_limiter(pool, busy):
    return sum(await pool.map(busy.step, [0, 1, 2, 4], limiter=asyncio.Semaphore(2)))


async def by_stream(pool, busy):
    async with pool.stream(busy.step, [0, 1, 2, 4], buffersize=2) as results:
        return sum([x async for x in results])


async def by_unordered_stream(pool, busy):
    async with pool.stream(busy.step, [0, 1, 2, 4], ordered=False, buffersize=3) as results:
        return sum([x async for x in results])


async def by_group(pool, busy):
    async with pool.task_group() as group:
        handles = [group.start_soon(busy.step, x) for x in (1, 2)]
        task = group.create_task(busy.step(4))
    return sum(handle.result() for handle in handles) + task.result()


async def by_limited_group(pool, busy):
    async with pool.task_group(limit=1) as group:
        handles = [group.start_soon(busy.step, x) for x in (1, 2)]
        task = group.create_task(busy.step(4))
    return sum(handle.result() for handle in handles) + task.result()


async def by_group_alone(_pool, busy):
    async with TaskGroup(limit=1) as group:
        handles = [group.start_soon(busy.step, 1), group.start_soon(busy.step, 2, timeout=60)]
        task = group.create_task(busy.step(4))
    assert group._floor.places.running == 0
    return sum(handle.result() for handle in handles) + task.result()


async def by_group_within(pool, busy):
    async def parent(x):
        return await group.start_soon(busy.step, x) + await group.create_task(busy.step(4))

    async with TaskGroup(limit=1) as group:
        handle = group.start_soon(parent, 3)
    return handle.result()


async def by_cancelled_group(pool, busy):
    async with pool.task_group(limit=2) as group:
        for x in range(3):
            group.start_soon(busy.step, x)
            group.create_task(busy.step(x))
        await turn_then(1)
        group.cancel()
    return 7


async def by_group_that_continues(pool, busy):
    try:
        async with pool.task_group(limit=1, on_error="continue") as group:
            group.start_soon(busy.fail_first, 1)
            group.create_task(busy.fail_first(2))
    except* ValueError:
        pass
    return 7


async def by_checkpoint(pool, busy):
    async def long():
        group.start_soon(busy.step, 1, priority=-10)
        await checkpoint()
        return await busy.step(7)

    async with pool.task_group(limit=1) as group:
        handle = group.start_soon(long)
    return handle.result()


async def by_checkpoint_of_the_pool(pool, busy):
    async def long():
        for x in range(3):
            group.start_soon(busy.step, x, priority=-10)
        await checkpoint()
        return await busy.step(7)

    async with pool.task_group() as group:
        handle = group.start_soon(long)
    return handle.result()


async def by_starmap(pool, busy):
    return sum(await pool.starmap(busy.step, [(0,), (1,), (2,), (4,)]))


async def by_outcomes(pool, busy):
    async with pool.stream(busy.step, [0, 1, 2, 4], buffersize=2) as results:
        return sum([outcome.unwrap() async for outcome in results.outcomes()])


async def by_broken_stream(pool, busy):
    async with pool.stream(busy.step, range(100), buffersize=3) as results:
        async for x in results:
            if x == 3:
                break
    return 7


async def by_inline(pool, busy):
    return sum(await pool.map(jobs.echo, [0, 1, 2, 4]))


async def by_thread(pool, busy):
    return sum(await pool.map(jobs.echo, [0, 1, 2, 4], on="thread"))


async def by_thread_run(pool, busy):
    return await pool.run(jobs.echo, 7, on="thread")


WAYS = [
    by_run,
    by_run_with_retry,
    by_submit,
    by_limiter,
    by_nesting,
    by_map,
    by_map_of_async_input,
    by_map_with_limiter,
    by_stream,
    by_unordered_stream,
    by_group,
    by_limited_group,
    by_group_alone,
    by_group_within,
    by_cancelled_group,
    by_group_that_continues,
    by_checkpoint,
    by_checkpoint_of_the_pool,
    by_starmap,
    by_outcomes,
    by_broken_stream,
    by_inline,
    by_thread,
    by_thread_run,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("times", [1, 3])
async def test_verbs(busy, way, times):
    """A verb cancelled at any step, once or in three steps on end, leaves nothing behind."""
    async with Pool(limit=2, backend="inline") as pool:
        cancelled = await sweep(
            lambda: way(pool, busy), checked(pool, busy, 7), times=times, longest=80
        )
        assert cancelled or way in (by_inline, by_thread, by_thread_run)


@pytest.mark.parametrize("way", [by_run, by_map, by_stream, by_limiter], ids=lambda w: w.__name__)
async def test_verbs_that_wait_for_room(busy, way):
    """A verb cancelled at any step while max_pending holds it back leaks no room."""
    async with Pool(limit=1, max_pending=1, backend="inline") as pool:

        async def scenario():
            others = [asyncio.ensure_future(pool.run(busy.step, x)) for x in range(3)]
            try:
                return await way(pool, busy)
            finally:
                for other in others:
                    other.cancel()
                await asyncio.wait(others)

        await sweep(scenario, checked(pool, busy, 7), longest=80)


@pytest.mark.parametrize("verb", ["run", "submit", "map", "stream", "group"])
async def test_processes(busy, verb):
    """A verb in worker processes cancelled at any step leaves nothing running or broken."""
    async with Pool(1, grace_period=0.5) as pool:
        assert await pool.run(jobs.echo, 1) == 1

        async def stream():
            async with pool.stream(jobs.echo, [0, 1, 2, 4], buffersize=2) as results:
                return sum([x async for x in results])

        async def mapping():
            return sum(await pool.map(jobs.echo, [0, 1, 2, 4]))

        async def group():
            async with pool.task_group() as tasks:
                handles = [tasks.start_soon(jobs.echo, x) for x in (3, 4)]
            return sum(handle.result() for handle in handles)

        async def submit():
            return await pool.submit(jobs.echo, 7)

        scenario = {
            "run": lambda: pool.run(jobs.echo, 7),
            "submit": submit,
            "map": mapping,
            "stream": stream,
            "group": group,
        }[verb]
        assert await sweep(scenario, checked(pool, busy, 7), steps=FAR_STEPS) >= 3
        assert await pool.run(jobs.echo, "still") == "still"


async def test_a_worker_that_starts():
    """A run cancelled at any step while its worker is being started leaves nothing behind."""
    for step in (1, 2, 3, 5, 10, 100, 1000):
        async with Pool(1) as pool:
            task, _ = await cancel_at_step(lambda pool=pool: pool.run(jobs.echo, 7), step)
            assert is_cancelled(task) or task.result() == 7
            assert await pool.run(jobs.echo, step) == step


async def test_collect(busy):
    """collect cancelled at any step stops no call, and gives all outcomes when asked again."""

    async def check(task, step):
        assert is_cancelled(task) or all(type(x) is Outcome for x in task.result())

    for step in range(1, 30):
        async with Pool(limit=2) as pool:
            for x in range(4):
                pool.submit(busy.step, x)
            task, asked = await cancel_at_step(pool.collect, step)
            await check(task, step)
            assert [outcome.unwrap() for outcome in await pool.collect()] == [0, 1, 2, 3]
        if not asked:
            return


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("times", [1, 2])
async def test_aclose(busy, drain, times):
    """aclose cancelled at any step still closes the pool, and every handle has its outcome."""
    for step in range(1, 40):
        pool = await Pool(limit=2, backend="inline").__aenter__()
        handles = [pool.submit(busy.step, x) for x in range(4)]
        handles.append(pool.submit(jobs.echo, 4))
        task, asked = await cancel_at_step(
            lambda pool=pool: pool.aclose(drain=drain), step, times=times
        )
        assert is_cancelled(task) or task.result() is None
        assert busy.inside == 0
        assert all(handle.done() for handle in handles)
        assert "closed" in repr(pool)
        await pool.aclose()
        with pytest.raises(PoolClosed):
            pool.submit(double, 1)
        if not asked:
            return


@pytest.mark.parametrize("times", [1, 2, 4])
async def test_a_whole_pool(busy, times):
    """A task cancelled at any step of opening, using and closing a pool leaves nothing behind."""
    handles = []

    async def scenario():
        async with Pool(limit=2, backend="inline") as pool:
            handles[:] = [pool.submit(busy.step, x) for x in range(3)]
            values = await pool.map(busy.step, range(3))
            async with pool.task_group() as group:
                group.start_soon(busy.step, 1)
            return sum(values)

    async def check(task, step):
        assert is_cancelled(task) or task.result() == 3
        assert busy.inside == 0
        assert all(handle.done() for handle in handles)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    await sweep(scenario, check, times=times, longest=120)


async def test_a_whole_pool_with_a_process():
    """A task cancelled at any step of a pool with a worker process leaves nothing behind."""

    async def scenario():
        async with Pool(1, grace_period=0.2) as pool:
            return await pool.map(jobs.echo, range(3))

    async def check(task, step):
        assert is_cancelled(task) or task.result() == [0, 1, 2]

    await sweep(scenario, check, steps=[1, 2, 3, 4, 6, 9, 14, 25, 60, 200, 600, 2000])


LEVELLED = [
    by_run,
    by_map,
    by_stream,
    by_group,
    by_limited_group,
    by_group_alone,
    by_group_within,
    by_cancelled_group,
    by_checkpoint,
]


@pytest.mark.parametrize("way", LEVELLED, ids=lambda w: w.__name__)
async def test_level_cancellation(busy, way):
    """A verb in an anyio scope that is cancelled at any step is left with nothing running."""
    loop = asyncio.get_running_loop()
    async with Pool(limit=2) as pool:
        for step in range(1, 60):
            with anyio.CancelScope() as scope:
                countdown(loop, step, scope.cancel)
                result = await way(pool, busy)
                assert result == 7
                scope.cancel()  # too late, which leaves the countdown without effect
            assert busy.inside == 0
            await settled(pool)
            assert busy.begun == busy.over
            assert asyncio.current_task().cancelling() == 0
        assert await pool.run(double, 1) == 2


def countdown(loop, steps, call):
    if steps:
        loop.call_soon(countdown, loop, steps - 1, call)
    else:
        call()
