"""The event loop keeps turning while workers are given, and give, what is heavy.

A pulse measures how late the loop wakes. What is asserted are generous multiples of what an idle
machine shows (a few milliseconds); `benchmarks/loop_health.py` has the figures.
"""

import asyncio
import contextlib
import threading
import time

import pytest

import aiopool
from tests import jobs
from tests.backends import mischief
from tests.helpers import PATIENCE

BEAT = 0.001
# The longest pause that counts as the loop turning, in seconds, on a machine shared with others.
PAUSE = 0.5


class Pulse:
    """How late a timer of a millisecond woke, beat by beat."""

    def __init__(self):
        self.late = []

    async def beat(self):
        while True:
            due = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            self.late.append(time.perf_counter() - due)


@contextlib.asynccontextmanager
async def pulse(longest=PAUSE):
    """Fail if the loop paused longer than that within the block, or did not turn at all."""
    pulse = Pulse()
    beating = asyncio.ensure_future(pulse.beat())
    try:
        yield pulse
        await asyncio.sleep(2 * BEAT)
    finally:
        beating.cancel()
        await asyncio.wait([beating])
    assert pulse.late
    assert max(pulse.late) < longest


METHODS = pytest.mark.parametrize("method", ["forkserver", "spawn"])


@pytest.mark.parametrize(("kind", "size"), [(bytes, 200 << 20), (bytearray, 50 << 20)])
async def test_large_arguments(kind, size):
    """Arguments and results of 200 MB pass while the loop turns."""
    block = kind(size)
    async with aiopool.Pool(1) as pool:
        await pool.run(jobs.inc, 1)
        async with pulse(longest=4 * PAUSE) as beats:
            assert await pool.run(jobs.length, block) == len(block)
            assert len(await pool.run(jobs.make_bytes, len(block))) == len(block)
        assert len(beats.late) > 10


@pytest.mark.parametrize("verb", ["run", "map"])
async def test_argument_that_is_slow_to_pickle(verb):
    """While an argument takes its time to be pickled the loop turns."""
    seconds = 2 * PAUSE
    async with aiopool.Pool(1) as pool:
        await pool.run(jobs.inc, 1)
        async with pulse() as beats:
            slow = mischief.SlowToPickle(seconds)
            if verb == "run":
                assert await pool.run(jobs.echo, slow) == "pickled"
            else:
                assert await pool.map(jobs.echo, [[1], slow, 3]) == [[1], "pickled", 3]
        assert len(beats.late) > 10


async def test_arguments_slow_to_pickle_in_a_map():
    """Between and within items of a map that are slow to pickle the loop turns."""
    seconds, count = 0.05, 24
    async with aiopool.Pool(2) as pool:
        await pool.map(jobs.inc, range(10))
        async with pulse() as beats:
            items = [mischief.SlowToPickle(seconds) for _ in range(count)]
            assert await pool.map(jobs.echo, items) == ["pickled"] * count
        assert len(beats.late) > count


async def from_thread(items):
    iterator, end = iter(items), object()
    while (item := await asyncio.to_thread(next, iterator, end)) is not end:
        yield item


async def test_input_that_blocks():
    """An input that waits for what the loop does is pulled in a thread and holds up nothing."""
    told = threading.Event()

    def waiting():
        yield 1
        assert told.wait(PATIENCE)
        yield 2

    pool = aiopool.Pool(1)
    async with pool, pool.stream(jobs.inc, from_thread(waiting())) as results:
        assert await anext(results) == 2
        told.set()
        assert [value async for value in results] == [3]


async def test_storm_of_cancels(gate):
    """Ten thousand calls cancelled at once hold up the loop no longer than it takes to ask."""
    async with aiopool.Pool(1) as pool:
        held = pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        handles = [pool.submit(jobs.inc, n) for n in range(10_000)]
        async with pulse(longest=4 * PAUSE):
            for handle in handles:
                handle.cancel()
            await asyncio.wait(handles)
        assert all(handle.cancelled() for handle in handles)
        gate.open()
        assert await held


async def test_flood_of_results():
    """A hundred thousand results that come at once, and those of a talkative call, are taken in."""
    async with aiopool.Pool(2) as pool:
        await pool.map(jobs.inc, range(10))
        async with pulse(longest=2 * PAUSE):
            values = await pool.map(jobs.inc, range(100_000))
        assert values == list(range(1, 100_001))


@METHODS
async def test_flood_of_output(method, capfd):
    """A worker that writes megabytes to its standard output holds up nobody."""
    async with aiopool.Pool(2, mp_context=method) as pool:
        await pool.map(jobs.inc, range(10))
        async with pulse():
            flood = pool.submit(mischief.flood, 2000)
            assert await pool.map(jobs.inc, range(1000)) == list(range(1, 1001))
            assert await flood == 2000
        assert await pool.run(jobs.inc, 1) == 2
    capfd.readouterr()


async def test_crashes_in_a_row():
    """Fifteen workers that die one after the other do not hold up the loop."""
    async with aiopool.Pool(2) as pool:
        await pool.map(jobs.inc, range(10))
        async with pulse():
            ends = await asyncio.gather(
                *[pool.submit(jobs.exit_with, 3) for _ in range(15)], return_exceptions=True
            )
        assert {type(end) for end in ends} == {aiopool.WorkerCrashed}
