"""How children of ``start_soon`` start and end: from the loop, in their own task, and fairly."""

import asyncio
from time import monotonic

import pytest

from aiopool import Pool, Priority, TaskGroup, checkpoint
from aiopool._backends.seats import innermost
from tests.run.support import double, ended, forever, turns

LIMITS = pytest.mark.parametrize("limit", [None, 1, 2])


@LIMITS
async def test_no_child_runs_inside_start_soon(limit):
    """A child takes its first step after the line that started it, in a task of its own."""
    ran = []

    async def child():
        ran.append(asyncio.current_task())

    async with TaskGroup(limit=limit) as group:
        group.start_soon(child)
        group.start_soon(child)
        assert not ran
    assert len({asyncio.current_task(), *ran}) == 3


async def test_children_that_never_wait_let_the_loop_run():
    """In one turn of the loop no more children start than there are places."""
    counts = [0]

    async def child():
        counts[-1] += 1

    async with TaskGroup(limit=3) as group:
        handles = [group.start_soon(child) for _ in range(30)]
        while not all(handle.done() for handle in handles):
            counts.append(0)
            await asyncio.sleep(0)
    assert sum(counts) == 30
    assert max(counts) == 3


async def test_a_child_that_starts_others_is_followed_by_the_most_important():
    """What the first step of a child starts is in line for the next place, by its priority."""
    order = []

    async def note(name):
        order.append(name)

    async def first():
        order.append("first")
        group.start_soon(note, "urgent", priority=Priority.URGENT)
        assert order == ["first"]

    async with TaskGroup(limit=1) as group:
        group.start_soon(first)
        group.start_soon(note, "last")
    assert order == ["first", "urgent", "last"]


@LIMITS
@pytest.mark.parametrize("whom", ["itself", "group"])
async def test_cancelling_in_the_first_step(whom, limit):
    """A child that cancels itself, or its group, in its first step is cancelled where it waits."""
    passed = []

    async def child():
        (handles[0] if whom == "itself" else group).cancel()
        await asyncio.sleep(0)
        passed.append(True)

    async with TaskGroup(limit=limit) as group:
        handles = [group.start_soon(child)]
        await ended(handles[0])
    assert handles[0].cancelled()
    assert not passed


@LIMITS
async def test_a_task_cancelled_by_a_stranger_before_its_first_step(limit):
    """A child whose task somebody else cancels before it begins ends its group, and no wait."""
    before = asyncio.all_tasks()

    def factory(loop, coro, **options):
        return asyncio.Task(coro, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)  # with which no child starts at once
    with pytest.raises(ExceptionGroup, match="TaskGroup"):
        async with TaskGroup(limit=limit) as group:
            handle = group.start_soon(forever)
            while not (made := asyncio.all_tasks() - before):
                await asyncio.sleep(0)
            made.pop().cancel()
    assert handle.state == "failed"
    assert group._floor.places.running == 0


@LIMITS
async def test_a_task_factory_that_fails(limit):
    """An error of the task factory is the child's."""

    def factory(*_, **__):
        raise OSError("no more tasks")

    asyncio.get_running_loop().set_task_factory(factory)
    try:
        with pytest.raises(ExceptionGroup) as raised:
            async with TaskGroup(limit=limit) as group:
                handle = group.start_soon(double, 1)
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    assert isinstance(raised.value.exceptions[0], OSError)
    assert isinstance(handle.exception(), OSError)


async def test_siblings_that_fail_in_their_first_step_are_all_heard():
    """Children that have places at the same time and fail at once are raised together."""

    async def fail(number):
        raise ValueError(number)

    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup(limit=3) as group:
            handles = [group.start_soon(fail, number) for number in range(5)]
    assert [error.args for error in raised.value.exceptions] == [(0,), (1,), (2,)]
    assert [handle.cancelled() for handle in handles] == [False, False, False, True, True]


async def test_a_child_of_a_busy_group_is_as_old_as_it_is():
    """A child that comes late is no older than that, when siblings have ended in the same turn."""
    ages = []

    async def idle():
        await asyncio.sleep(0)

    async def parent():
        for _ in range(5):
            before = monotonic()
            await asyncio.sleep(0)
            ages.append((before, group.start_soon(idle).since, monotonic()))

    async with TaskGroup(limit=2) as group:
        for child in (idle, parent, idle, idle):
            group.start_soon(child)
    assert all(before <= since <= after for before, since, after in ages), ages


async def test_lending_in_the_first_step():
    """A child that waits for a sibling in its first step has lent it its place by then."""

    async def parent():
        child = group.start_soon(double, 4)
        await checkpoint()
        return await child

    async with Pool(limit=1), TaskGroup(limit=1) as group:
        handle = group.start_soon(parent)
    assert handle.result() == 8
    assert innermost.get() is None
    await turns()
    assert group._floor.places.running == 0
    group._floor.places.validate()
