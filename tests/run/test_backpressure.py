"""max_pending, and inputs without end: who waits, who is refused, how much is pulled."""

import asyncio

import pytest

from aiopool import Pool, PoolClosed, PoolFull, Priority, Retry
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import Numbers, Source, double, ended, hold_back, settled, turns

# --- max_pending ----------------------------------------------------------------------------


async def test_submit_refuses_what_is_too_much(shop):
    """submit raises PoolFull, naming the bound, once max_pending calls wait."""
    async with Pool(limit=1, max_pending=2) as pool:
        await hold_back(pool, shop, 1)
        handles = [pool.submit(shop.work, x) for x in range(2)]
        with pytest.raises(PoolFull, match="2 calls are waiting") as caught:
            pool.submit(shop.work, "too much")
        assert caught.value.max_pending == 2
        shop.open()
        assert await asyncio.gather(*handles) == [0, 1]
        assert await pool.run(double, 1) == 2
    assert "too much" not in shop.started


async def test_what_runs_does_not_count(shop):
    """Only calls that wait count, so limit and max_pending calls may be under way."""
    async with Pool(limit=3, max_pending=1) as pool:
        for x in range(3):
            pool.submit(shop.work, x)
        pool.submit(shop.work, 3)
        with pytest.raises(PoolFull):
            pool.submit(shop.work, 4)
        shop.open()


async def test_a_resting_call_counts():
    """A call that waits for its next attempt counts as waiting."""

    async def fail():
        raise ValueError

    async with Pool(max_pending=1) as pool:
        handle = pool.submit(fail, retry=Retry(2, on=lambda _: 60.0))
        await wait_until(lambda: handle.state == "waiting")
        with pytest.raises(PoolFull):
            pool.submit(double, 1)
        handle.cancel()
        await ended(handle)
        assert await pool.run(double, 1) == 2


async def test_cancelling_a_queued_call_makes_room(shop):
    """A queued call that is cancelled leaves its room to the next."""
    async with Pool(limit=1, max_pending=1) as pool:
        await hold_back(pool, shop, 1)
        handle = pool.submit(shop.work, "dropped")
        handle.cancel()
        await ended(handle)
        pool.submit(shop.work, "next")
        with pytest.raises(PoolFull):
            pool.submit(shop.work, "too much")
        shop.open()


@pytest.mark.parametrize("verb", ["run", "map", "stream"])
async def test_verbs_wait_for_room(shop, verb):
    """run, map and stream wait while max_pending calls wait, and go on once there is room."""
    async with Pool(limit=1, max_pending=1) as pool:

        async def consume():
            return [x async for x in pool.stream(shop.work, ["new"])]

        await hold_back(pool, shop, 1)
        pool.submit(shop.work, "waiting")
        waiting = asyncio.ensure_future(
            {
                "run": lambda: pool.run(shop.work, "new"),
                "map": lambda: pool.map(shop.work, ["new"]),
                "stream": consume,
            }[verb]()
        )
        await turns()
        assert not waiting.done() and "new" not in shop.started
        assert sum(pool.statistics().queued.values()) == 1
        shop.open()
        assert await waiting == ("new" if verb == "run" else ["new"])


async def test_room_is_given_by_priority(shop):
    """Of those who wait for room the most important is let in first, then the oldest."""
    order = []

    async def note(x):
        order.append(x)

    async with Pool(limit=1, max_pending=1) as pool:
        await hold_back(pool, shop, 1)
        pool.submit(note, "first")
        waiting = []
        for x in ("a", "b", "low", "high"):
            priority = {"low": Priority.LOW, "high": Priority.HIGH}.get(x, 0)
            waiting.append(asyncio.ensure_future(pool.run(note, x, priority=priority)))
            await turns()
        shop.open()
        await asyncio.gather(*waiting)
    assert order == ["first", "high", "a", "b", "low"]


async def test_never_more_wait_than_allowed(shop):
    """However many callers there are, no more than max_pending calls are queued."""
    async with Pool(limit=2, max_pending=3) as pool:
        running = [asyncio.ensure_future(pool.run(shop.work, x)) for x in range(30)]
        most = 0
        for x in range(30):
            await shop.has_started(x)
            most = max(most, sum(pool.statistics().queued.values()))
            shop.let(x)
        assert await asyncio.gather(*running) == list(range(30))
        assert most == 3
        assert shop.most == 2


@pytest.mark.parametrize("verb", ["run", "map", "stream"])
async def test_a_cancelled_waiter_leaks_no_room(shop, verb):
    """Callers that are cancelled while they wait for room leave all of the room behind."""
    async with Pool(limit=1, max_pending=2) as pool:

        async def consume(x):
            async with pool.stream(shop.work, [x]) as results:
                return [value async for value in results]

        call = {
            "run": lambda x: pool.run(shop.work, x),
            "map": lambda x: pool.map(shop.work, [x]),
            "stream": consume,
        }[verb]
        await hold_back(pool, shop, 1)
        filling = [pool.submit(shop.work, x) for x in "ab"]
        waiting = [asyncio.ensure_future(call(x)) for x in range(10)]
        await turns()
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
        shop.open()
        await asyncio.gather(*filling)
        await settled(pool)
        assert not set(range(10)) & set(shop.started)
        again = [pool.submit(shop.work, x) for x in ("c", "d")]
        with pytest.raises(PoolFull):
            for x in range(3):
                again.append(pool.submit(shop.work, f"extra {x}"))


async def test_a_waiter_cancelled_as_it_is_let_in_leaks_no_room(shop):
    """A caller cancelled in the turn in which it is given room passes the room on."""
    async with Pool(limit=1, max_pending=1) as pool:
        for after in range(6):
            await hold_back(pool, shop, 1, f"blocker {after} ")
            filling = pool.submit(double, 1)
            first = asyncio.ensure_future(pool.run(double, 2))
            second = asyncio.ensure_future(pool.run(double, 3))
            await turns()
            shop.let(f"blocker {after} 0")
            await turns(after)
            first.cancel()
            assert await asyncio.wait_for(second, 20) == 6
            assert await filling == 2
            await ended(first)
            await settled(pool)


async def test_closing_refuses_those_who_wait_for_room(shop):
    """Callers that wait for room when the pool closes get PoolClosed, and nothing of them runs."""
    async with Pool(limit=1, max_pending=1) as pool:
        await hold_back(pool, shop, 1)
        pool.submit(shop.work, "waiting")
        refused = [
            asyncio.ensure_future(pool.run(shop.work, "no")),
            asyncio.ensure_future(pool.map(shop.work, ["no"])),
        ]
        await turns()
        closing = asyncio.ensure_future(pool.aclose())
        await asyncio.wait(refused)
        for task in refused:
            assert isinstance(task.exception(), PoolClosed)
        shop.open()
        await closing
    assert "no" not in shop.started and "waiting" in shop.started


async def test_a_deadline_counts_the_wait_for_room(shop):
    """A call whose deadline passes while it waits for room fails instead of waiting on."""
    async with Pool(limit=1, max_pending=1) as pool:
        await hold_back(pool, shop, 1)
        pool.submit(shop.work, "waiting")
        late = asyncio.ensure_future(pool.run(double, 1, deadline=0.02))
        done, _ = await asyncio.wait([late], timeout=2)
        assert done, "it waits for room beyond its deadline"
        assert isinstance(late.exception(), TimeoutError)
        shop.open()


# --- inputs without end ---------------------------------------------------------------------


async def test_map_over_an_endless_input_that_fails():
    """A map over an endless input ends at its first failure, having pulled little."""
    numbers = Numbers()

    async def fail_at(x):
        if x == 50:
            raise ValueError(x)

    async with Pool(limit=10) as pool:
        with pytest.raises(ValueError):
            await pool.map(fail_at, numbers)
        assert numbers.pulled <= 50 + 2 * 10


async def test_map_over_an_endless_input_in_processes():
    """In worker processes too a map over an endless input ends at its first failure."""
    numbers = Numbers()
    async with Pool(1) as pool:
        with pytest.raises(ValueError):
            await pool.map(jobs.fail_if_odd, numbers)
        assert await pool.run(jobs.inc, 1) == 2


async def test_map_over_an_endless_input_can_be_cancelled():
    """Cancelling a map over an endless input ends it."""
    numbers = Numbers()
    async with Pool() as pool:
        mapping = asyncio.ensure_future(pool.map(double, numbers))
        await wait_until(lambda: numbers.pulled > 100)
        mapping.cancel()
        await ended(mapping)
        assert mapping.cancelled()
        pulled = numbers.pulled
        await turns()
        assert numbers.pulled == pulled


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("buffersize", [1, 2, 7, 64])
@pytest.mark.parametrize("place", ["loop", "inline", "process"])
async def test_a_stream_pulls_no_further_ahead(ordered, buffersize, place):
    """A stream has never pulled more than buffersize items beyond what it has yielded."""
    numbers = Numbers()
    fn = double if place == "loop" else jobs.inc
    backend = "inline" if place == "inline" else None
    yielded = 0
    async with Pool(1, backend=backend) as pool:
        options = {"ordered": ordered, "buffersize": buffersize}
        async with pool.stream(fn, numbers, **options) as results:
            assert numbers.pulled <= buffersize
            async for _ in results:
                # One that was just yielded is in the consumer's hands.
                assert numbers.pulled - yielded <= buffersize + 1
                yielded += 1
                await asyncio.sleep(0)
                assert numbers.pulled - yielded <= buffersize
                if yielded == 150:
                    break


async def test_a_stream_pulls_no_further_ahead_of_a_slow_consumer():
    """While the consumer does something else the stream pulls up to its bound and stops."""
    source = Numbers()
    async with Pool() as pool, pool.stream(double, source, buffersize=8) as results:
        await anext(results)
        await settled(pool)
        await turns(50)
        assert source.pulled <= 9
        assert pool.statistics().done <= 9


@pytest.mark.parametrize("ordered", [True, False])
async def test_async_input_is_pulled_no_further_ahead(ordered):
    """An async generator given to a stream is not pulled beyond buffersize either."""
    source = Source()
    yielded = 0
    async with Pool() as pool:
        stream = pool.stream(double, source.items(), ordered=ordered, buffersize=5)
        async with stream as results:
            async for _ in results:
                yielded += 1
                await turns(20)
                assert source.pulled - yielded <= 5
                if yielded == 20:
                    break
    assert source.closed


async def test_an_ordered_stream_whose_first_call_is_slow(shop):
    """Behind a slow first call no more than buffersize items are pulled."""
    numbers = Numbers()
    shop.let(*range(1, 100))
    async with Pool() as pool, pool.stream(shop.work, numbers, buffersize=10) as results:
        await shop.has_started(*range(10))
        await turns(50)
        assert numbers.pulled == 10
        shop.open()
        assert [await anext(results) for _ in range(20)] == list(range(20))


async def test_the_default_window_is_bounded():
    """Without buffersize a stream over an endless input is bounded too."""
    numbers = Numbers()
    async with Pool(limit=5) as pool, pool.stream(double, numbers) as results:
        await anext(results)
        await settled(pool)
        await turns(50)
        assert numbers.pulled <= 5000
