"""pool.task_group: a structured scope whose children may run anywhere the pool runs calls."""

import asyncio

import pytest

from aiopool import Pool, PoolClosed, PoolFull, Priority, TaskHandle
from tests import jobs
from tests.run.support import double, ended, forever, hold_back, settled, turns


async def fail(x="failed"):
    raise ValueError(x)


async def test_leaving_waits_for_every_child(shop):
    """Leaving the block waits for children on the loop, in threads and in processes."""
    async with Pool(1) as pool:
        async with pool.task_group() as group:
            handles = [
                group.start_soon(double, 1),
                group.start_soon(jobs.inc, 2),
                group.start_soon(jobs.inc, 3, on="thread"),
            ]
            task = group.create_task(double(4))
            assert all(isinstance(handle, TaskHandle) for handle in handles)
        assert [handle.result() for handle in handles] == [2, 3, 4]
        assert task.result() == 8


async def test_a_failure_cancels_the_siblings(shop):
    """A child that fails cancels all others, and its error comes in a group."""
    async with Pool() as pool:
        with pytest.raises(ExceptionGroup) as caught:
            async with pool.task_group() as group:
                handle = group.start_soon(shop.work, 1)
                task = group.create_task(shop.work(2))
                await shop.has_started(1, 2)
                group.start_soon(fail)
                await forever()
        assert [error.args for error in caught.value.exceptions] == [("failed",)]
        assert handle.cancelled() and task.cancelled()
        assert sorted(shop.ended) == [1, 2]
        assert await pool.run(double, 1) == 2, "the pool goes on"


async def test_a_failure_in_the_body_cancels_the_children(shop):
    """An error in the body cancels the children and comes in a group."""
    async with Pool() as pool:
        with pytest.raises(ExceptionGroup) as caught:
            async with pool.task_group() as group:
                group.start_soon(shop.work, 1)
                await shop.has_started(1)
                raise KeyError("body")
        assert isinstance(caught.value.exceptions[0], KeyError)
        assert shop.ended == [1]


async def test_a_failure_in_a_process_cancels_the_siblings(shop):
    """A child that fails in a worker process cancels its siblings."""
    async with Pool(1) as pool:
        with pytest.raises(ExceptionGroup):
            async with pool.task_group() as group:
                group.start_soon(shop.work, 1)
                group.start_soon(jobs.fail, 2)
        assert shop.ended == shop.started


async def test_a_sibling_in_a_process_is_stopped(gate):
    """A failure stops a sibling that runs in a worker process."""
    async with Pool(1) as pool:
        with pytest.raises(ExceptionGroup):
            async with pool.task_group() as group:
                handle = group.start_soon(jobs.gate, *gate.paths)
                await gate.entered()
                group.start_soon(fail)
        assert handle.cancelled()
        await settled(pool)


async def test_two_failures_come_together():
    """Errors of several children come in one group."""
    async with Pool() as pool:
        barrier = asyncio.Barrier(2)

        async def fail_together(x):
            await barrier.wait()
            raise ValueError(x)

        with pytest.raises(ExceptionGroup) as caught:
            async with pool.task_group() as group:
                group.start_soon(fail_together, 1)
                group.start_soon(fail_together, 2)
        assert sorted(error.args for error in caught.value.exceptions) == [(1,), (2,)]


async def test_cancelling_a_child_is_no_failure(shop):
    """A child that is cancelled by its handle ends alone."""
    async with Pool() as pool:
        async with pool.task_group() as group:
            first = group.start_soon(shop.work, 1)
            second = group.start_soon(shop.work, 2)
            await shop.has_started(1, 2)
            first.cancel()
            await ended(first)
            shop.let(2)
        assert first.cancelled() and second.result() == 2


async def test_cancelling_the_host_cancels_the_children(shop):
    """Cancelling the task in the block cancels every child and then the task."""
    async with Pool() as pool:

        async def host():
            async with pool.task_group() as group:
                group.start_soon(shop.work, 1)
                group.create_task(shop.work(2))

        task = asyncio.ensure_future(host())
        await shop.has_started(1, 2)
        task.cancel()
        await ended(task)
        assert task.cancelled() and sorted(shop.ended) == [1, 2]
        await settled(pool)


async def test_children_obey_the_pool(shop):
    """Children are calls of the pool: limit, priority and name are theirs too."""
    order = []

    async def note(x):
        order.append(x)

    async with Pool(limit=1, aging=1000) as pool:
        await hold_back(pool, shop, 1)
        async with pool.task_group() as group:
            group.start_soon(note, "low", priority=Priority.LOW)
            handle = group.start_soon(note, "high", priority=Priority.HIGH, name="a name")
            assert handle.name == "a name"
            await turns()
            shop.open()
        assert order == ["high", "low"]


async def test_a_child_may_start_children():
    """A child of a group may start siblings while the group waits."""
    async with Pool(limit=1) as pool:
        done = []

        async def child(depth):
            done.append(depth)
            if depth < 5:
                group.start_soon(child, depth + 1)

        async with pool.task_group() as group:
            group.start_soon(child, 0)
        assert done == [0, 1, 2, 3, 4, 5]


async def test_groups_within_groups(shop):
    """An inner group's failure is the outer one's, within its own group of errors."""
    async with Pool() as pool:
        with pytest.raises(ExceptionGroup) as caught:
            async with pool.task_group() as outer:
                outer.start_soon(shop.work, 1)
                async with pool.task_group() as inner:
                    inner.start_soon(fail)
        assert isinstance(caught.value.exceptions[0], ExceptionGroup)
        assert shop.started == shop.ended


async def test_closing_the_pool_ends_a_group(shop):
    """A group whose pool is closed without draining ends, its children cancelled."""
    async with Pool() as pool:

        async def host():
            async with pool.task_group() as group:
                return group.start_soon(shop.work, 1)

        task = asyncio.ensure_future(host())
        await shop.has_started(1)
        await pool.aclose(drain=False)
        await ended(task)
        assert shop.ended == [1]
        assert task.result().cancelled()


async def test_a_group_refuses_what_its_pool_refuses(shop):
    """start_soon raises what submit would, and the group goes on."""
    async with Pool(limit=1, max_pending=1) as pool:
        await hold_back(pool, shop, 1)
        async with pool.task_group() as group:
            group.start_soon(double, 1)
            with pytest.raises(PoolFull):
                group.start_soon(double, 2)
            with pytest.raises(TypeError, match="unknown option"):
                group.start_soon(double, 2, priorty=1)
            shop.open()
        await pool.collect()
        with pytest.raises(PoolClosed):
            pool.task_group()


async def test_start_soon_after_the_end():
    """A group that has ended takes no children, and none is left running."""
    async with Pool() as pool:
        async with pool.task_group() as group:
            pass
        with pytest.raises(RuntimeError):
            group.start_soon(forever)
        await turns()
        await settled(pool)


async def test_start_soon_while_it_is_being_cancelled(shop):
    """A group that is shutting down takes no children, and none is left running."""
    refused = []
    async with Pool() as pool:
        with pytest.raises(ExceptionGroup):
            async with pool.task_group() as group:

                async def late():
                    try:
                        await forever()
                    finally:
                        try:
                            group.start_soon(shop.work, "late")
                        except RuntimeError:
                            refused.append(1)

                group.create_task(late())
                await turns()
                group.start_soon(fail)
        await settled(pool)
        assert refused == [1] or shop.started == shop.ended
