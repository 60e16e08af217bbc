"""A limiter is entered before the call takes a worker and left whatever becomes of the call."""

import asyncio

import anyio
import pytest
from aiolimiter import AsyncLimiter

from aiopool import Pool, Priority, Retry, TaskTimeout
from tests import jobs
from tests.helpers import PATIENCE, wait_until
from tests.run.support import double, ended, forever, hold_back, settled, turns

SHORT = 0.02


class Counting:
    """A limiter for so many at once that counts who is in."""

    def __init__(self, most=1):
        self._semaphore = asyncio.Semaphore(most)
        self.inside = self.entered = self.left = self.most = 0

    async def __aenter__(self):
        await self._semaphore.acquire()
        self.inside += 1
        self.entered += 1
        self.most = max(self.most, self.inside)

    async def __aexit__(self, *exc_info):
        await asyncio.sleep(0)
        self.inside -= 1
        self.left += 1
        self._semaphore.release()


class Broken:
    """A limiter that cannot be entered, or left."""

    def __init__(self, where):
        self.where = where

    async def __aenter__(self):
        if self.where == "enter":
            raise OSError("no way in")

    async def __aexit__(self, *exc_info):
        if self.where == "exit":
            raise OSError("no way out")


async def raise_error(x=None):
    raise ValueError(x)


def at_once(attempts):
    return Retry(attempts, wait_initial=0, wait_jitter=0)


async def test_the_gate_closes_while_a_call_waits_for_room():
    """A call that waits for the backlog finds its limiter's gate though all others have gone."""
    limiter = Counting()
    async with Pool(1, max_pending=1, limit=1) as pool:
        first = asyncio.ensure_future(pool.run(double, 1, limiter=limiter))
        await asyncio.sleep(0)
        others = [asyncio.ensure_future(pool.run(double, number)) for number in range(2, 5)]
        await asyncio.sleep(0)
        last = asyncio.ensure_future(pool.run(double, 9, limiter=limiter))
        assert await asyncio.gather(first, *others, last) == [2, 4, 6, 8, 18]
    assert limiter.left == 2


@pytest.mark.parametrize("kind", ["capacity", "semaphore", "counting"])
@pytest.mark.parametrize("verb", ["run", "map", "stream"])
async def test_no_more_at_once(shop, kind, verb):
    """No more calls run at once than the limiter lets in."""
    limiter = {
        "capacity": lambda: anyio.CapacityLimiter(3),
        "semaphore": lambda: asyncio.Semaphore(3),
        "counting": lambda: Counting(3),
    }[kind]()
    async with Pool() as pool:

        async def consume():
            return [x async for x in pool.stream(shop.work, range(20), limiter=limiter)]

        calls = {
            "run": lambda: asyncio.gather(
                *(pool.run(shop.work, x, limiter=limiter) for x in range(20))
            ),
            "map": lambda: pool.map(shop.work, range(20), limiter=limiter),
            "stream": consume,
        }
        running = asyncio.ensure_future(calls[verb]())
        await wait_until(lambda: len(shop.started) == 3)
        await turns(20)
        assert len(shop.started) == 3
        shop.open()
        assert await running == list(range(20))
        assert shop.most == 3
        await settled(pool)


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 2, 10])
@pytest.mark.parametrize("place", ["loop", "process", "both"])
async def test_a_limiter_wider_or_narrower_than_the_pool(limit, most, place):
    """All calls get through a limiter, whether it or the pool is the narrower."""
    limiter = Counting(most)
    async with Pool(1, limit=limit) as pool:
        if place != "loop":
            await pool.run(jobs.inc, 1)  # so that nothing but the calls moves the loop
        calls = []
        if place != "process":
            calls += [pool.submit(double, x, limiter=limiter) for x in range(12)]
        if place != "loop":
            calls += [pool.submit(jobs.inc, x, limiter=limiter) for x in range(12)]
        _, pending = await asyncio.wait(calls, timeout=3)
        assert not pending, (pool, pending)
    assert limiter.entered == limiter.left == len(calls)
    assert limiter.most <= most


async def test_a_limiter_of_several_verbs_and_pools(shop):
    """One limiter may be shared by verbs, by pools and by code that knows no pool."""
    limiter = Counting(1)
    async with Pool() as one, Pool() as two, limiter:
        handles = [
            one.submit(shop.work, 1, limiter=limiter),
            two.submit(shop.work, 2, limiter=limiter),
            one.submit(jobs.inc, 2, limiter=limiter, on="thread"),
        ]
        await turns(20)
        assert shop.started == []
        limiter._semaphore.release()  # as if this block were left
        limiter.inside -= 1
        shop.open()
        assert await asyncio.gather(*handles) == [1, 2, 3]
        assert limiter.most == 1
        await limiter._semaphore.acquire()
        limiter.inside += 1


async def test_a_rate_limiter():
    """aiolimiter's AsyncLimiter spreads calls over time."""
    limiter = AsyncLimiter(2, 0.05)
    starts = []

    async def note():
        starts.append(asyncio.get_running_loop().time())

    async with Pool() as pool:
        await asyncio.gather(*(pool.run(note, limiter=limiter) for _ in range(6)))
    # Two at once, and from then on one every 25 ms: four more take 100 ms.
    assert starts[-1] - starts[0] >= 0.09


async def test_a_limiter_in_processes():
    """Calls in worker processes go through a limiter too, in any number."""
    limiter = Counting(2)
    async with Pool(2) as pool:
        assert await pool.map(jobs.inc, range(50), limiter=limiter) == list(range(1, 51))
    assert limiter.most <= 2 and limiter.inside == 0
    assert limiter.entered == limiter.left == 50


async def test_who_waits_at_the_limiter_takes_no_place(shop):
    """Calls that wait to be let in leave the pool's places to others."""
    limiter = asyncio.Semaphore(0)
    async with Pool(1, limit=1) as pool:
        waiting = [pool.submit(double, x, limiter=limiter) for x in range(3)]
        blocked = pool.submit(jobs.inc, 1, limiter=limiter)
        await turns(20)
        assert await pool.run(double, 1) == 2
        assert await pool.run(jobs.inc, 1) == 2
        assert [handle.state for handle in waiting] == ["queued"] * 3
        assert not blocked.done()
        for _ in range(4):
            limiter.release()
        assert await asyncio.wait_for(asyncio.gather(*waiting, blocked), 20) == [0, 2, 4, 2]


async def test_a_waiting_call_is_not_running(shop):
    """A call that stands at its limiter counts as queued, and its handle says so."""
    limiter = asyncio.Semaphore(0)
    async with Pool() as pool:
        handle = pool.submit(double, 1, limiter=limiter)
        await turns(20)
        assert handle.state == "queued"
        assert handle.attempts == 0
        assert pool.statistics().running == 0
        assert sum(pool.statistics().queued.values()) == 1
        limiter.release()
        await handle
        assert handle.attempts == 1


async def test_a_timeout_does_not_count_the_limiter():
    """The wait at the limiter is not part of an attempt's timeout."""
    limiter = asyncio.Semaphore(0)
    async with Pool() as pool:
        handle = pool.submit(double, 1, limiter=limiter, timeout=SHORT)
        await asyncio.wait([handle], timeout=2 * SHORT)
        limiter.release()
        assert await handle == 2


@pytest.mark.parametrize("how", ["value", "error", "timeout", "deadline", "cancel", "close"])
@pytest.mark.parametrize("place", ["loop", "thread"])
async def test_left_in_every_outcome(gate, how, place):
    """However a call ends, its limiter is left exactly as often as it was entered."""
    limiter = Counting(1)
    entered = asyncio.Event()

    async def hang():
        entered.set()
        await forever()

    async with Pool() as pool:
        options = {"limiter": limiter, "on": place}
        if how in ("timeout", "deadline"):
            options[how] = SHORT
        if how == "value":
            fn = double if place == "loop" else jobs.inc
            await pool.run(fn, 1, **options)
        elif how == "error":
            with pytest.raises(ValueError):
                await pool.run(raise_error if place == "loop" else jobs.fail, 1, **options)
        else:
            call = (hang,) if place == "loop" else (jobs.gate, *gate.paths)
            handle = pool.submit(*call, **options)
            await (entered.wait() if place == "loop" else gate.entered())
            if how == "cancel":
                handle.cancel()
            elif how == "close":
                await pool.aclose(drain=False)
            with pytest.raises((asyncio.CancelledError, TaskTimeout)):
                await handle
        gate.open()
        assert limiter.inside == 0 or await wait_until(lambda: limiter.inside == 0)
        assert limiter.entered == limiter.left == 1


async def test_left_while_a_retry_waits():
    """A call that waits for its next attempt holds no limiter, and enters it again."""
    limiter = Counting(1)
    async with Pool() as pool:
        handle = pool.submit(raise_error, limiter=limiter, retry=Retry(2, on=lambda _: 0.05))
        await wait_until(lambda: handle.state == "waiting")
        assert limiter.inside == 0
        assert await pool.run(double, 1, limiter=limiter) == 2
        await ended(handle)
        assert handle.attempts == 2
    assert limiter.entered == limiter.left == 3


async def test_retries_through_a_limiter_are_exact():
    """Each attempt enters the limiter once."""
    limiter = Counting(1)
    async with Pool() as pool:
        with pytest.raises(ValueError):
            await pool.run(raise_error, limiter=limiter, retry=at_once(4))
        assert pool.statistics().retried == 3
        assert pool.statistics().failed == 1
    assert limiter.entered == limiter.left == 4


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
async def test_stopped_while_it_waits_at_the_limiter(how):
    """A call that is stopped at the limiter never starts, and those behind it go on."""
    limiter = Counting(1)
    started = []

    async def note(x):
        started.append(x)

    async with Pool() as pool, limiter:
        first = pool.submit(note, 1, limiter=limiter, deadline=SHORT if how == "deadline" else None)
        await turns(20)
        if how == "cancel":
            first.cancel()
        elif how == "close":
            await pool.aclose(drain=False)
        with pytest.raises((asyncio.CancelledError, TaskTimeout)):
            await first
        if how != "close":
            second = pool.submit(note, 2, limiter=limiter)
            limiter._semaphore.release()
            await second
            await limiter._semaphore.acquire()
    assert started == ([] if how == "close" else [2])
    assert limiter.inside == 0


async def test_priority_at_the_limiter(shop):
    """Of the calls that wait for a limiter the most important is let in first."""
    limiter = Counting(1)
    order = []

    async def note(x):
        order.append(x)

    async with Pool(aging=1000) as pool:
        pool.submit(shop.work, "first", limiter=limiter)
        await shop.has_started("first")
        # One more may stand at the limiter's door already.
        pool.submit(note, "at the door", limiter=limiter)
        await turns(20)
        for priority in (10, 0, -10):
            pool.submit(note, priority, limiter=limiter, priority=priority)
        shop.open()
    assert order == ["at the door", -10, 0, 10]


async def test_priority_behind_the_limiter(shop):
    """A call that has passed its limiter waits for its place by its own priority."""
    order = []

    async def note(x):
        order.append(x)

    async with Pool(limit=1, aging=1000) as pool:
        await hold_back(pool, shop, 1)
        pool.submit(note, "plain")
        urgent = Priority.URGENT
        pool.submit(note, "limited", limiter=asyncio.Semaphore(5), priority=urgent)
        await turns(20)
        shop.open()
    assert order == ["limited", "plain"]


@pytest.mark.parametrize("where", ["enter", "exit"])
async def test_a_limiter_that_raises(where):
    """What a limiter raises fails the call it was for, and no other."""
    async with Pool() as pool:
        handles = [pool.submit(double, x, limiter=Broken(where)) for x in range(3)]
        await asyncio.wait(handles)
        assert [type(handle.exception()) for handle in handles] == [OSError] * 3
        broken = Broken(where)
        results = await pool.map(double, range(3), limiter=broken, return_exceptions=True)
        assert [type(result) for result in results] == [OSError] * 3
        assert await pool.run(double, 1) == 2
        assert pool.statistics().running == 0


async def test_a_limiter_that_raises_is_retried():
    """What a limiter raises falls under the call's policy as its own errors do."""
    failures = [OSError(), OSError()]

    class Hesitant(Counting):
        async def __aenter__(self):
            if failures:
                raise failures.pop()
            await super().__aenter__()

    limiter = Hesitant()
    async with Pool() as pool:
        assert await pool.run(double, 1, limiter=limiter, retry=at_once(3)) == 2
    assert limiter.entered == limiter.left == 1


async def test_a_limiter_that_swallows_the_error():
    """A limiter whose exit swallows exceptions changes nothing about how the call ends."""

    class Swallowing(Counting):
        async def __aexit__(self, *exc_info):
            await super().__aexit__(*exc_info)
            return True

    limiter = Swallowing()
    async with Pool() as pool:
        with pytest.raises(ValueError):
            await asyncio.wait_for(pool.run(raise_error, 1, limiter=limiter), 20)
        handle = pool.submit(forever, limiter=limiter)
        await wait_until(lambda: limiter.inside)
        await turns()
        handle.cancel()
        await ended(handle)
        assert handle.cancelled()


async def test_a_call_through_a_limiter_knows_its_context():
    """A call that went through a limiter sees its submitter's context variables."""
    from contextvars import ContextVar

    variable = ContextVar("variable")
    async with Pool() as pool:

        async def read():
            return variable.get()

        variable.set("mine")
        assert await pool.run(read, limiter=asyncio.Semaphore(1)) == "mine"


async def test_nesting_through_a_limiter():
    """A call that went through a limiter may wait for its own pool at limit 1."""
    async with Pool(limit=1) as pool:
        limiter = asyncio.Semaphore(5)

        async def parent():
            return await pool.run(double, 1, limiter=limiter)

        assert await asyncio.wait_for(pool.run(parent, limiter=limiter), 20) == 2
        assert pool.statistics().running == 0


async def test_many_calls_through_a_limiter_leave_nothing():
    """After calls through limiters the pool knows none of them any more."""
    async with Pool() as pool:
        for _ in range(50):
            await pool.run(double, 1, limiter=Counting(1))
        await settled(pool)
        assert len(pool._parts.engine.venues) == 3
        assert pool.statistics().done == 50


async def test_a_failing_map_behind_a_limiter_stops_its_other_calls():
    """A call that fails in a map is told of once, so the map ends when its other calls have."""
    began, stopped = asyncio.Event(), []

    async def work(x):
        if not x:
            await began.wait()
            raise ValueError(x)
        began.set()
        try:
            await forever()
        finally:
            await turns(20)
            stopped.append(x)

    async with Pool() as pool:
        view = pool.view(limit=2)
        with pytest.raises(ValueError, match="0"):
            await view.map(work, range(2), limiter=Counting(2))
        assert stopped == [1]
        await settled(pool)
        statistics = pool.statistics()
        assert (view._own.quota.running, statistics.failed, statistics.cancelled) == (0, 1, 1)


async def test_who_submits_to_a_limiter_lends_nothing(shop):
    """A call that submits another through a limiter keeps its place while it does not wait."""
    passed = []

    async def outer():
        passed.append(pool.submit(pow, 2, 3, on="thread", limiter=Counting(1)))
        await wait_until(passed[0].done)
        return list(shop.started)

    async with Pool(limit=1) as pool:
        running = pool.submit(outer)
        pool.submit(shop.work, 1)
        try:
            assert await asyncio.wait_for(running, PATIENCE) == []
        finally:
            shop.open()
        assert await passed[0] == 8
