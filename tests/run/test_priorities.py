"""Who is next: priority with aging, first in first out among equals, maps share turn by turn."""

import asyncio
import math

import pytest

from aiopool import Pool, Priority
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import Numbers, hold_back, outlast, settled, turns


class Log:
    """Notes the order in which calls run."""

    def __init__(self):
        self.order = []

    async def note(self, x):
        self.order.append(x)
        await asyncio.sleep(0)


@pytest.fixture
def log():
    """Give a `Log`."""
    return Log()


async def test_lower_runs_first(shop, log):
    """Among calls that wait, those of lower number run first, whatever ints they are."""
    async with Pool(limit=1, aging=1000) as pool:
        await hold_back(pool, shop, 1)
        for priority in (19, 0, -20, 10, -10, 12345, -99):
            pool.submit(log.note, priority, priority=priority)
        shop.open()
    assert log.order == [-99, -20, -10, 0, 10, 19, 12345]


@pytest.mark.parametrize("aging", [0, 1, math.inf])
async def test_ties_are_first_in_first_out(shop, log, aging):
    """Calls of equal priority run in the order of submission."""
    async with Pool(limit=1, aging=aging) as pool:
        await hold_back(pool, shop, 1)
        for x in range(50):
            pool.submit(log.note, x)
        shop.open()
    assert log.order == list(range(50))


async def test_no_aging_is_first_in_first_out(shop, log):
    """With aging=0 a priority makes no difference."""
    async with Pool(limit=1, aging=0) as pool:
        await hold_back(pool, shop, 1)
        for x, priority in enumerate((10, 0, -10)):
            pool.submit(log.note, x, priority=priority)
            await outlast(0.001)
        shop.open()
    assert log.order == [0, 1, 2]


async def test_an_aged_call_goes_first(shop, log):
    """A call that waited longer than the difference in priority times aging is first."""
    async with Pool(limit=1, aging=0.001) as pool:
        await hold_back(pool, shop, 1)
        pool.submit(log.note, "low", priority=Priority.LOW)
        await outlast(0.011)
        pool.submit(log.note, "normal")
        shop.open()
    assert log.order == ["low", "normal"]


async def test_infinite_aging_is_strict(shop, log):
    """With aging=inf the more important call is first however long the other waited."""
    async with Pool(limit=1, aging=math.inf) as pool:
        await hold_back(pool, shop, 1)
        pool.submit(log.note, "low", priority=1)
        await outlast(0.05)
        pool.submit(log.note, "normal")
        shop.open()
    assert log.order == ["normal", "low"]


async def test_nobody_starves(log):
    """A call of low priority gets its turn although urgent ones never cease."""
    ran_low = asyncio.Event()

    async with Pool(limit=1, aging=0.0001) as pool:

        async def urgent(count):
            if not ran_low.is_set() and count < 100_000:
                pool.submit(urgent, count + 1, priority=Priority.URGENT)

        async def low():
            ran_low.set()

        pool.submit(urgent, 0, priority=Priority.URGENT)
        pool.submit(urgent, 0, priority=Priority.URGENT)
        await pool.run(low, priority=Priority.IDLE)


async def test_strict_priority_starves_as_told(log):
    """With aging=inf a less important call waits until no urgent one is left."""
    async with Pool(limit=1, aging=math.inf) as pool:

        async def urgent(count):
            log.order.append(count)
            if count < 50:
                pool.submit(urgent, count + 1, priority=Priority.URGENT)

        low = pool.submit(log.note, "low", priority=Priority.LOW)
        pool.submit(urgent, 0, priority=Priority.URGENT)
        await low
    assert log.order == [*range(51), "low"]


async def test_two_maps_share(log):
    """Two maps of equal priority take turns."""
    async with Pool(limit=1) as pool:
        await asyncio.gather(
            pool.map(log.note, ["a"] * 50),
            pool.map(log.note, ["b"] * 50),
        )
    assert abs(log.order[:50].count("a") - 25) <= 2


async def test_a_small_map_behind_a_huge_one(log):
    """A map of ten items is done while a huge one that came first has hardly begun."""
    numbers = Numbers(1_000_000)
    async with Pool(limit=2) as pool:
        huge = asyncio.ensure_future(pool.map(log.note, numbers))
        await wait_until(lambda: numbers.pulled > 10)
        before = numbers.pulled
        await pool.map(log.note, range(10))
        assert numbers.pulled - before < 50
        huge.cancel()
        await asyncio.wait([huge])


async def test_a_small_map_behind_a_huge_one_in_processes():
    """In worker processes too a map of ten items does not wait for a huge one to end."""
    numbers = Numbers(10_000_000)
    async with Pool(1) as pool:
        huge = asyncio.ensure_future(pool.map(jobs.inc, numbers))
        await wait_until(lambda: numbers.pulled > 1000)
        assert await pool.map(jobs.inc, range(10)) == list(range(1, 11))
        assert not huge.done()
        huge.cancel()
        await asyncio.wait([huge])


async def test_an_urgent_call_overtakes_a_map(log):
    """An urgent call runs before the items of a map that waits."""
    async with Pool(limit=1) as pool:
        mapping = asyncio.ensure_future(pool.map(log.note, range(200)))
        await wait_until(lambda: len(log.order) > 5)
        before = len(log.order)
        await pool.run(log.note, "urgent", priority=Priority.URGENT)
        assert log.order.index("urgent") - before <= 3
        await mapping


async def test_a_more_important_map_goes_first(shop, log):
    """Of two maps that wait the more important one is served before the other."""
    async with Pool(limit=1, aging=1000) as pool:
        await hold_back(pool, shop, 1)
        low = asyncio.ensure_future(pool.map(log.note, range(5), priority=Priority.LOW))
        high = asyncio.ensure_future(pool.map(log.note, range(10, 15), priority=Priority.HIGH))
        await turns()
        shop.open()
        await asyncio.gather(low, high)
    assert log.order == [10, 11, 12, 13, 14, 0, 1, 2, 3, 4]


async def test_priority_in_processes(gate, tmp_path):
    """Calls that wait for a worker process run by priority."""
    journal = str(tmp_path / "journal")
    async with Pool(1, aging=1000) as pool:
        pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        for x in (5, 0, -5):
            pool.submit(jobs.record, journal, x, priority=x)
        await turns()
        gate.open()
    assert (tmp_path / "journal").read_text().split() == ["-5", "0", "5"]


async def test_priority_in_threads(tmp_path):
    """Calls that wait for a thread run by priority."""
    import threading

    hold, order = threading.Event(), []
    async with Pool(backend=(executor := _one_thread()), max_workers=1, aging=1000) as pool:
        first = pool.submit(hold.wait)
        await wait_until(lambda: first.state == "running")
        for x in (5, 0, -5):
            pool.submit(order.append, x, priority=x)
        await turns()
        hold.set()
        await settled(pool)
    executor.shutdown()
    assert order == [-5, 0, 5]


def _one_thread():
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)


# --- late binding ---------------------------------------------------------------------------


async def test_a_late_urgent_call_is_next(gate, tmp_path):
    """A call is chosen when a worker is free, so an urgent one that came last is next."""
    journal = str(tmp_path / "journal")
    async with Pool(1) as pool:
        pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        mapping = asyncio.ensure_future(pool.map(jobs.record, [journal] * 5, range(5)))
        await turns()
        pool.submit(jobs.record, journal, "urgent", priority=Priority.URGENT)
        await turns()
        gate.open()
        await mapping
    assert (tmp_path / "journal").read_text().split()[0] == "urgent"


@pytest.mark.parametrize("verb", ["submit", "map"])
async def test_no_call_waits_behind_a_long_one(make_gate, verb):
    """While one worker is busy for long, all other calls go through the other one."""
    held = make_gate()
    async with Pool(2) as pool:
        await asyncio.gather(*(pool.run(jobs.inc, x) for x in range(200)))
        long = pool.submit(jobs.gate, *held.paths)
        await held.entered()
        if verb == "submit":
            short = asyncio.gather(*(pool.submit(jobs.inc, x) for x in range(200)))
        else:
            short = pool.map(jobs.inc, range(2000))
        assert len(await asyncio.wait_for(short, 20)) in (200, 2000)
        assert not long.done()
        held.open()


async def test_a_map_whose_first_item_is_long_uses_all_workers(gate):
    """A long item of a map holds up none of the others while a worker is idle."""
    async with Pool(2) as pool:
        items = [(jobs.gate, *gate.paths), *((jobs.inc, x) for x in range(300))]
        ended = []
        stream = pool.stream(_call, items, ordered=False, buffersize=400)
        async with stream:
            async for value in stream:
                ended.append(value)
                if len(ended) == 300:
                    gate.open()
    assert len(ended) == 301


def _call(item):
    fn, *args = item
    return fn(*args)
