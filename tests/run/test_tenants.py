"""Tenants take turns on the loop, however much one of them has submitted."""

import asyncio

from aiopool import Pool, Priority, Retry
from tests import jobs
from tests.run.support import double, hold_back, settled, turns


async def test_many_calls_of_one_hold_up_another_by_a_turn(shop):
    """Among 10,000 waiting calls of one tenant the single call of another comes second."""
    order = []

    async def note(x):
        order.append(x)

    async with Pool(limit=1) as pool:
        await hold_back(pool, shop, 1)
        a, b = pool.view(fairness_key="a"), pool.view(fairness_key="b")
        for _ in range(10_000):
            a.submit(note, "a")
        mine = b.submit(note, "b")
        shop.open()
        await mine
        assert order.index("b") <= 1
        assert len(order) < 10_000
    assert len(order) == 10_001


async def test_the_order_of_three(shop):
    """Calls and maps of three tenants come in turn, each tenant's own in order."""
    order = []

    async def note(x):
        order.append(x)

    async with Pool(limit=1) as pool:
        await hold_back(pool, shop, 1)
        for x in range(3):
            pool.submit(note, f"a{x}", fairness_key="a")
        maps = [
            asyncio.ensure_future(pool.map(note, [f"{key}{x}" for x in range(3)], fairness_key=key))
            for key in "bc"
        ]
        await turns()
        shop.open()
        await asyncio.gather(*maps)
    assert order == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


async def test_several_places_are_shared_alike(shop):
    """With several places at once each of two tenants has half of them."""
    async with Pool(limit=4) as pool:
        await hold_back(pool, shop, 4)
        for number in range(20):
            pool.submit(shop.work, ("a", number), fairness_key="a")
        for number in range(20):
            pool.submit(shop.work, ("b", number), fairness_key="b")
        shop.let(*(f"blocker{number}" for number in range(4)))
        await shop.has_started(("a", 1), ("b", 1))
        assert sorted(shop.inside) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
        shop.open()


async def test_importance_goes_before_turns(shop):
    """An urgent call of a tenant that was just served goes before a normal one of another."""
    order = []

    async def note(x):
        order.append(x)

    async with Pool(limit=1, aging=1000) as pool:
        await hold_back(pool, shop, 1)
        for x in range(3):
            pool.submit(note, f"a{x}", fairness_key="a")
            pool.submit(note, f"b{x}", fairness_key="b")
        for x in range(2):
            pool.submit(note, f"urgent{x}", fairness_key="a", priority=Priority.URGENT)
        shop.open()
    assert order == ["urgent0", "urgent1", "b0", "a0", "b1", "a1", "b2", "a2"]


async def test_what_waits_can_be_cancelled_and_moved(shop):
    """A tenant's waiting calls answer to cancel and to a new priority as others do."""
    order = []

    async def note(x):
        order.append(x)

    async with Pool(limit=1, aging=1000) as pool:
        await hold_back(pool, shop, 1)
        handles = [pool.submit(note, x, fairness_key="a") for x in range(4)]
        await turns()
        handles[1].cancel()
        handles[3].priority = Priority.HIGH
        await turns()
        assert handles[1].cancelled()
        shop.open()
    assert order == [3, 0, 2]


async def test_tenants_in_every_kind_of_place():
    """Keyed calls run in threads, through limiters and with retries as any others."""
    tried = []

    async def flaky(x):
        tried.append(x)
        if tried.count(x) < 2:
            raise OSError
        return x

    async with Pool(limit=2) as pool:
        a = pool.view(fairness_key=("tenant", 1), limiter=asyncio.Semaphore(1))
        assert await a.map(double, range(5)) == [0, 2, 4, 6, 8]
        assert await a.run(jobs.inc, 1, on="thread") == 2
        again = Retry(2, wait_initial=0.001, wait_jitter=0)
        assert await a.map(flaky, range(4), retry=again, limiter=None) == [0, 1, 2, 3]

        async def nested():
            return await a.run(double, 4, limiter=None)

        assert await a.map(nested_of(nested), range(5), limiter=None) == [8] * 5
        await settled(pool)


def nested_of(fn):
    async def call(_):
        return await fn()

    return call


async def test_tenants_wait_for_room_in_turns(shop):
    """With the backlog full the single call of one tenant is let in before most of another's."""
    order = []

    async def note(tenant):
        order.append(tenant)

    async with Pool(limit=1, max_pending=2) as pool:
        await hold_back(pool, shop, 1)
        big, small = pool.view(fairness_key="big"), pool.view(fairness_key="small")
        callers = [asyncio.ensure_future(big.run(note, "big")) for _ in range(50)]
        await turns()
        callers.append(asyncio.ensure_future(small.run(note, "small")))
        await turns()
        shop.open()
        await asyncio.gather(*callers)
    assert order.index("small") <= 4
    assert len(order) == 51
