"""Arguments that take long to pickle hold up neither the loop nor the calls beside them."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

import aiopool
from aiopool._wire import hooks
from tests import jobs
from tests.helpers import PATIENCE

VARIABLE = ContextVar("VARIABLE", default="nobody's")


@pytest.fixture(autouse=True)
def _know_nothing(monkeypatch):
    """Begin with no type known to be quick."""
    monkeypatch.setattr(hooks, "_quick", {})


class Held:
    """Is being pickled until it is let go; arrives as a number."""

    def __init__(self, number=7):
        self.number = number
        self.count = 0  # of how often it was pickled
        self.begun = threading.Event()
        self.go = threading.Event()
        self.error = None

    def __reduce__(self):
        self.count += 1
        self.begun.set()
        assert self.go.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return int, (self.number,)


class Reads:
    """Arrives as what a context variable holds where it is pickled."""

    def __reduce__(self):
        return str, (VARIABLE.get(),)


@pytest.fixture
def held():
    held = Held()
    yield held
    held.go.set()


async def begun(held):
    assert await asyncio.to_thread(held.begun.wait, PATIENCE)


async def test_innocents_pass(held):
    """While an argument is being pickled, the one worker runs what came later."""
    async with aiopool.Pool(1) as pool:
        handle = pool.submit(jobs.inc, held, priority=aiopool.Priority.URGENT)
        await begun(held)
        assert handle.state == "queued"
        assert await pool.map(jobs.inc, range(10)) == list(range(1, 11))
        assert await pool.run(jobs.inc, 1) == 2
        held.go.set()
        assert await handle == 8


async def test_map(held):
    """A map with such an argument gives all results in order, and lets others pass."""
    async with aiopool.Pool(1) as pool:
        items = [1, [2], held, 4, Held(9), [5]]
        items[4].go.set()
        mapping = asyncio.ensure_future(pool.map(jobs.echo, items))
        await begun(held)
        assert pool.statistics().queued[0] >= 4
        assert await pool.run(jobs.inc, 1) == 2
        held.go.set()
        assert await mapping == [1, [2], 7, 4, 9, [5]]


async def test_map_reads_no_further_ahead(held):
    """A map whose argument is being pickled pulls no more of its input meanwhile."""
    pulled = []

    def items():
        yield held
        for number in range(100_000):
            pulled.append(number)
            yield [number]

    pool = aiopool.Pool(1)
    async with pool, pool.stream(jobs.echo, items(), buffersize=50) as results:
        first = asyncio.ensure_future(anext(results))
        await begun(held)
        await pool.run(jobs.inc, 1)
        assert len(pulled) <= 50
        held.go.set()
        assert await first == 7
        assert await anext(results) == [0]


@pytest.mark.parametrize("verb", ["submit", "map", "run"])
async def test_cancelled_meanwhile(held, verb):
    """A call cancelled while its argument is being pickled ends at once and never starts."""
    async with aiopool.Pool(1) as pool:
        if verb == "submit":
            ending = pool.submit(jobs.inc, held)
        elif verb == "run":
            ending = asyncio.ensure_future(pool.run(jobs.inc, held))
        else:
            ending = asyncio.ensure_future(pool.map(jobs.echo, [1, [], held]))
        await begun(held)
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
        assert not held.go.is_set()
        assert await pool.run(jobs.inc, 1) == 2
        held.go.set()
        assert await pool.run(jobs.inc, 2) == 3


async def test_map_that_fails_at_an_item_before(held):
    """A map that fails at one item does not begin to pickle those after it."""
    async with aiopool.Pool(1) as pool:
        await pool.map(jobs.echo, range(100))
        with pytest.raises(aiopool.NotTransferable):
            await pool.map(jobs.echo, [threading.Lock(), held, [2], [3]])
        assert not held.go.is_set()
        assert await pool.run(jobs.inc, 1) == 2


async def test_such_calls_count_as_pending(held):
    """Calls whose arguments are being pickled count towards ``max_pending``."""
    async with aiopool.Pool(1, max_pending=2) as pool:
        handles = [pool.submit(jobs.inc, held) for _ in range(2)]
        with pytest.raises(aiopool.PoolFull):
            pool.submit(jobs.inc, 1)
        handles[1].cancel()
        third = pool.submit(jobs.inc, 1)
        held.go.set()
        assert await handles[0] == 8
        assert await third == 2


@pytest.mark.parametrize("packed_first", [True, False])
async def test_child_of_a_group(held, packed_first):
    """A child's argument is pickled once, whether it has to wait for its place longer or not."""
    place = asyncio.Event()
    async with aiopool.Pool(1) as pool, pool.task_group(limit=1) as group:
        group.start_soon(place.wait)
        child = group.start_soon(jobs.inc, held)
        await begun(held)
        if packed_first:
            held.go.set()
            await asyncio.sleep(0.05)
            place.set()
        else:
            place.set()
            await asyncio.sleep(0.05)
            held.go.set()
        assert await child == 8
        assert held.count == 1


@pytest.mark.parametrize("verb", ["submit", "map"])
async def test_refused_late(held, verb):
    """An argument that turns out not to be transferable after a while fails its call alone."""
    held.error = RuntimeError("no")
    async with aiopool.Pool(1) as pool:
        if verb == "submit":
            ending = pool.submit(jobs.inc, held)
            await begun(held)
            held.go.set()
            await asyncio.wait([ending])
            error = ending.exception()
        else:
            mapping = pool.map(jobs.echo, [1, held, [3]], return_exceptions=True)
            ending = asyncio.ensure_future(mapping)
            await begun(held)
            held.go.set()
            first, error, third = await ending
            assert (first, third) == (1, [3])
        assert isinstance(error, aiopool.NotTransferable)
        assert "no" in str(error)


async def test_refused_at_once():
    """What an argument raises within a moment is raised where the call is made."""
    held = Held()
    held.error = RuntimeError("no")
    held.go.set()
    async with aiopool.Pool(1) as pool:
        with pytest.raises(aiopool.NotTransferable):
            pool.submit(jobs.inc, held)
        with pytest.raises(aiopool.NotTransferable):
            await pool.run(jobs.inc, held)


async def test_stuck_while_closing(held):
    """A pool closes without waiting for an argument that never gets pickled."""
    with pytest.raises(ZeroDivisionError):
        async with aiopool.Pool(1, grace_period=0.1) as pool:
            handle = pool.submit(jobs.inc, held)
            mapping = asyncio.ensure_future(pool.map(jobs.inc, [Held(), held]))
            await begun(held)
            raise ZeroDivisionError
    assert handle.cancelled()
    await asyncio.wait([mapping])
    held.go.set()


async def test_many_stuck(held):
    """Stuck arguments take one thread each, up to eight, and the others wait for one."""
    held.go.set()
    stuck = [Held(number) for number in range(8)]
    async with aiopool.Pool(1) as pool:
        handles = [pool.submit(jobs.inc, one) for one in [*stuck, held]]
        for one in stuck:
            await begun(one)
        assert not held.begun.is_set()
        for one in stuck:
            one.go.set()
        assert await asyncio.gather(*handles) == [*range(1, 9), 8]


async def test_a_deadline_counts_meanwhile(held):
    """The time an argument takes to be pickled counts towards its call's deadline."""
    async with aiopool.Pool(1) as pool:
        with pytest.raises(aiopool.TaskTimeout):
            await pool.run(jobs.inc, held, deadline=0.05)


async def test_a_retried_call_is_pickled_once():
    """Another attempt sends the same pickle again."""
    held = Held("no number")
    held.go.set()
    async with aiopool.Pool(1) as pool:
        with pytest.raises(ValueError, match="no number"):
            await pool.run(jobs.echo, held, retry=aiopool.Retry(2, wait_initial=0))
        items = [[0], Held("no number")]
        items[1].go.set()
        first, second = await pool.map(jobs.echo, items, return_exceptions=True)
        assert first == [0]
        assert isinstance(second, ValueError)


async def test_the_submitters_context():
    """The argument is pickled in the context of whoever submitted it."""
    async with aiopool.Pool(1) as pool:
        VARIABLE.set("mine")
        assert await pool.run(jobs.echo, Reads()) == "mine"


async def test_no_thread_to_be_had(held, monkeypatch):
    """Where no thread can be started the argument is pickled at once."""

    def start(self):
        raise RuntimeError("can't start new thread")

    held.go.set()
    async with aiopool.Pool(1) as pool:
        await pool.run(jobs.inc, 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert await pool.submit(jobs.inc, held) == 8
            assert await pool.map(jobs.echo, [[1], held]) == [[1], 7]
