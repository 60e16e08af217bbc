"""What a pool says of itself: names, statistics, repr, types."""

import asyncio
import functools

import pytest

from aiopool import Outcome, Pool, PoolStatistics, Priority, TaskHandle, WorkerCrashed
from tests import jobs
from tests.run.support import double, settled
from tests.run.test_verbs import Caller

# --- what the pool says ---------------------------------------------------------------------


async def test_names():
    """A handle is named after its function, or as the option says."""
    async with Pool() as pool:
        handles = [
            pool.submit(double, 1),
            pool.submit(double, 1, name="twice"),
            pool.submit(functools.partial(double, 1)),
            pool.submit(Caller(), 1),
        ]
        await asyncio.gather(*handles)
        assert [handle.name for handle in handles] == ["double", "twice", "double", "Caller"]


async def test_the_task_of_a_call_bears_its_name():
    """The asyncio task of a coroutine call has the name of the call."""

    async def who():
        return asyncio.current_task().get_name()

    async with Pool() as pool:
        assert await pool.run(who, name="me") == "me"


async def test_statistics_count(shop):
    """statistics tells queued by priority, running, done, failed, cancelled and retried calls."""
    async with Pool(limit=2) as pool:
        pool.submit(shop.work, "a")
        pool.submit(shop.fail, "b")
        pool.submit(shop.work, "c", priority=Priority.LOW)
        dropped = pool.submit(shop.work, "d", priority=Priority.LOW)
        await shop.has_started("a", "b")
        now = pool.statistics()
        assert isinstance(now, PoolStatistics)
        assert now.queued == {Priority.LOW: 2}
        assert (now.running, now.done, now.failed, now.cancelled) == (2, 0, 0, 0)
        dropped.cancel()
        shop.open()
        await pool.collect()
        after = pool.statistics()
        assert (after.running, after.done, after.failed, after.cancelled) == (0, 2, 1, 1)
        assert after.queued == {}
        assert now.running == 2, "a snapshot does not change"


async def test_statistics_count_what_waits_in_a_map(shop):
    """The items of a map that are not started count as queued under its priority."""
    async with Pool(limit=1) as pool:
        mapping = asyncio.ensure_future(pool.map(shop.work, range(10), priority=3))
        await shop.has_started(0)
        assert pool.statistics().queued == {3: 9}
        shop.open()
        await mapping
        assert pool.statistics().done == 10


async def test_statistics_count_every_call_of_a_map():
    """A call waits, runs, or has ended at any moment, whether it was sent to a worker or not."""
    async with Pool(2) as pool:
        await pool.map(jobs.inc, range(1_000))
        mapping = asyncio.ensure_future(pool.map(jobs.inc, range(50_000)))
        while not mapping.done():
            await asyncio.sleep(0)
            now = pool.statistics()
            if now.done + now.running + sum(now.queued.values()) != 1_000:
                assert now.done + now.running + sum(now.queued.values()) == 51_000
        assert pool.statistics().done == 51_000


async def test_statistics_of_workers(gate):
    """statistics tells each worker's pid, what it runs and how old it is."""
    async with Pool(1) as pool:
        handle = pool.submit(jobs.gate, *gate.paths, name="held")
        pid = await gate.entered()
        (worker,) = pool.statistics().workers
        assert (worker.pid, worker.task, worker.state) == (pid, "held", "busy")
        assert worker.age > 0
        assert pool.statistics().running == 1
        gate.open()
        await handle
        await settled(pool)
        assert pool.statistics().workers[0].task is None


async def test_statistics_count_crashes():
    """A worker that died in a call counts as crashed, its call as failed."""
    async with Pool(1) as pool:
        with pytest.raises(WorkerCrashed):
            await pool.run(jobs.exit_with, 3)
        now = pool.statistics()
        assert (now.crashed, now.failed) == (1, 1)


async def test_repr_tells_the_state(shop):
    """repr of a pool and of a handle tells what is going on."""
    pool = Pool(3)
    assert repr(pool) == "<Pool not open, max_workers=3>"
    async with pool:
        handle = pool.submit(shop.work, 1, name="one")
        await shop.has_started(1)
        assert "open" in repr(pool)
        assert "1 running" in repr(pool)
        assert "one running attempts=1" in repr(handle)
        shop.open()
        await handle
        assert "one done attempts=1" in repr(handle)
        assert "1 done" in repr(pool)
    assert "closed" in repr(pool)


async def test_types():
    """submit gives a TaskHandle and collect gives Outcomes."""
    async with Pool() as pool:
        assert isinstance(pool.submit(double, 1), TaskHandle)
        assert [type(outcome) for outcome in await pool.collect()] == [Outcome]
