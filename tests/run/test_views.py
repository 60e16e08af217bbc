"""A view is the pool with other defaults, and with places of its own if it has a limit."""

import asyncio

import pytest

from aiopool import Pool, PoolClosed, PoolView, Priority, TaskGroup, TaskTimeout
from tests import jobs
from tests.helpers import PATIENCE, wait_until
from tests.run.support import double, forever, hold_back, settled, turns


async def test_a_view_has_the_verbs():
    """Whatever is asked through a view, the pool does."""
    async with Pool(2, backend="inline") as pool:
        view = pool.view(priority=Priority.LOW)
        assert isinstance(view, PoolView)
        assert await view.run(double, 1) == 2
        assert await view.submit(jobs.inc, 1) == 2
        assert await view.map(double, range(3)) == [0, 2, 4]
        assert await view.starmap(jobs.add, [(1, 2)]) == [3]
        async with view.stream(double, range(3)) as results:
            assert [x async for x in results] == [0, 2, 4]
        async with view.task_group() as group:
            child = group.start_soon(double, 4)
        assert (child.result(), child.priority) == (8, Priority.LOW)
        async with TaskGroup(view, limit=1) as group:
            assert (await group.start_soon(double, 5), group._aging) == (10, 1.0)
        assert await view.run(jobs.length, view.share([1, 2])) == 2
        assert view.statistics().done == pool.statistics().done > 0
        assert len(await pool.collect()) == 1


async def test_options_come_from_the_nearest():
    """A call's own options win, then the view's, then those of what it is a view of."""
    async with Pool(timeout=7, retry=2) as pool:
        outer = pool.view(priority=5, timeout=3)
        inner = outer.view(priority=1, name="inner", timeout=None)
        settings = [
            one.submit(double, 1, **options).settings
            for one in (pool, outer, inner)
            for options in ({}, {"priority": -4})
        ]
        found = [(each.priority, each.timeout, each.name) for each in settings]
        assert found == [
            (0, 7, None),
            (-4, 7, None),
            (5, 3, None),
            (-4, 3, None),
            (1, None, "inner"),
            (-4, None, "inner"),
        ]
        assert {each.retry.attempts for each in settings} == {2}


async def test_a_default_has_its_effect():
    """What a view says holds for its calls, and only for those."""
    async with Pool() as pool:
        view = pool.view(timeout=0.01)
        with pytest.raises(TaskTimeout):
            await view.run(forever)
        assert await asyncio.gather(view.run(double, 1), pool.run(double, 2)) == [2, 4]


async def test_a_view_is_checked_when_it_is_made():
    """Options out of range are refused at once."""
    async with Pool() as pool:
        with pytest.raises(TypeError, match="did you mean 'priority'"):
            pool.view(prio=1)
        with pytest.raises(ValueError, match="limit=0"):
            pool.view(limit=0)
        with pytest.raises(TypeError, match=r"fairness_key=\[\]: must be hashable"):
            pool.view(fairness_key=[])


async def test_a_view_owns_nothing():
    """A view cannot be entered or closed, may be older than the open pool, and ends with it."""
    pool = Pool()
    view = pool.view(priority=1)
    with pytest.raises(PoolClosed, match="not open"):
        await view.run(double, 1)
    assert not hasattr(view, "aclose")
    async with pool:
        assert await view.run(double, 1) == 2
        with pytest.raises(TypeError, match="asynchronous context manager"):
            async with view:
                pass
    with pytest.raises(PoolClosed, match="takes no more work"):
        view.submit(double, 1)
    assert "PoolView of <Pool closed" in repr(view)


async def test_a_view_takes_nothing_of_the_pool():
    """Views that are made and dropped leave no venue, line or plan behind in the pool."""
    async with Pool() as pool:
        venues = dict(pool._parts.engine.venues)
        for number in range(100):
            view = pool.view(priority=1, fairness_key=number, limit=1)
            assert await view.map(double, range(2)) == [0, 2]
        assert pool._parts.engine.venues == venues
        assert len(venues["loop"].queue._tenants) == 0


async def test_a_limit_is_of_all_calls_of_a_view(shop):
    """Calls made by any verb share the places of their view."""
    async with Pool(limit=50) as pool:
        view = pool.view(limit=3)
        tasks = [asyncio.ensure_future(view.map(shop.work, range(10))) for _ in range(2)]
        tasks += [view.submit(shop.work, x) for x in range(20, 30)]
        await turns(20)
        assert len(shop.started) == 3
        assert await pool.run(double, 1) == 2
        shop.open()
        await asyncio.gather(*tasks)
    assert shop.most == 3
    assert len(shop.started) == 30


async def test_a_limit_within_a_limit(shop):
    """A map's own limit holds within the view's."""
    async with Pool() as pool:
        view = pool.view(limit=3)
        narrow = asyncio.ensure_future(view.map(shop.work, range(10), limit=1))
        await turns(20)
        assert len(shop.started) == 1
        others = [view.submit(shop.work, x) for x in range(20, 30)]
        await turns(20)
        assert len(shop.started) == 3
        shop.open()
        await asyncio.gather(narrow, *others)


async def test_views_of_a_view_share_its_places_or_have_their_own(shop):
    """A view that says nothing of a limit is within that of the one it came from."""
    async with Pool() as pool:
        view = pool.view(limit=2)
        same, wider, free = view.view(priority=-1), view.view(limit=3), view.view(limit=None)
        handles = [each.submit(shop.work, x) for x, each in enumerate([view, same] * 5)]
        await turns(20)
        assert len(shop.started) == 2
        handles += [wider.submit(shop.work, x) for x in range(20, 30)]
        await turns(20)
        assert len(shop.started) == 5
        handles += [free.submit(shop.work, x) for x in range(40, 44)]
        await turns(20)
        assert len(shop.started) == 9
        shop.open()
        await asyncio.wait(handles)


async def test_a_limit_spans_the_loop_and_threads(shop):
    """A place that a coroutine of a view has is none for its calls in threads."""
    async with Pool() as pool:
        view = pool.view(limit=1)
        first = view.submit(shop.work, 1)
        second = view.submit(jobs.inc, 1, on="thread")
        await turns(20)
        assert second.state == "queued"
        assert pool.statistics().queued == {0: 1}
        shop.open()
        assert (await first, await second) == (1, 2)


async def test_cancelling_what_waits_for_a_place(shop):
    """A call that is cancelled while its view is full leaves the line, and a stopped one goes."""
    async with Pool() as pool:
        view = pool.view(limit=1)
        handles = [view.submit(shop.work, x) for x in range(4)]
        await turns(20)
        handles[1].cancel()
        await turns()
        assert handles[1].cancelled()
        handles[3].priority = -5
        handles[0].cancel()
        await shop.has_started(3)
        shop.open()
        await asyncio.wait(handles)
        assert shop.started == [0, 3, 2]
        await settled(pool)


async def test_those_who_wait_for_a_place_count_for_the_backlog(shop):
    """Calls that wait for their view's places wait in the backlog."""
    async with Pool(max_pending=2) as pool:
        view = pool.view(limit=1)
        handles = [view.submit(shop.work, x) for x in range(2)]
        await shop.has_started(0)
        handles.append(view.submit(shop.work, 2))
        waiting = asyncio.ensure_future(pool.run(double, 1))
        await turns(20)
        assert not waiting.done()
        shop.open()
        await asyncio.gather(waiting, *handles)


@pytest.mark.parametrize("limit", [1, 2])
async def test_nesting_in_a_view_does_not_deadlock(limit):
    """A call that waits for another of its own view lends it its place."""
    async with Pool(limit=2) as pool:
        view = pool.view(limit=limit)

        async def outer(x):
            inner = await view.map(double, range(x))
            return await view.run(double, sum(inner))

        assert await view.map(outer, range(6)) == [2 * x * (x - 1) for x in range(6)]
        await settled(pool)


async def test_retries_give_the_place_back(shop):
    """A call of a view that waits out its backoff leaves its place to the next."""
    async with Pool() as pool:
        view = pool.view(limit=1, retry=2)

        async def fail_once(seen=[]):  # noqa: B006 - that is how it knows
            seen.append(1)
            if len(seen) == 1:
                raise OSError
            return "again"

        first = view.submit(fail_once)
        second = view.submit(double, 1)
        assert await second == 2
        assert await first == "again"


async def test_a_limiter_and_a_limit(shop):
    """A call of a view with a limiter of its own keeps to both."""
    limiter = asyncio.Semaphore(2)
    async with Pool() as pool:
        view = pool.view(limit=3, limiter=limiter)
        mapping = asyncio.ensure_future(view.map(shop.work, range(9)))
        await wait_until(lambda: len(shop.started) == 2)
        shop.open()
        await mapping
    assert shop.most == 2


async def test_a_stream_of_a_view(shop):
    """The calls of a stream share the places of its view."""
    async with Pool() as pool:
        view = pool.view(limit=2)
        blocker = await hold_back(view, shop, 1)
        async with view.stream(double, range(20)) as results:
            assert [x async for x in results] == [2 * x for x in range(20)]
        shop.open()
        await asyncio.wait(blocker)


async def test_a_place_of_a_view_is_free_again_behind_a_limiter():
    """A call through a limiter gives its view's place back also when nobody else is at the gate."""
    async with Pool(1) as pool:
        view = pool.view(limit=1, limiter=asyncio.Semaphore(5))
        for number in range(3):
            async with asyncio.timeout(PATIENCE):
                assert await view.run(double, number) == 2 * number
