"""Calls that outgrow the memory their worker may hold, and the figures behind it."""

import sys

import numpy as np
import pytest

import aiopool
from aiopool._backends import memory
from aiopool._backends.memory import MemoryWatch
from tests import jobs
from tests.backends import writers
from tests.helpers import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")

MIB = 1 << 20


async def test_call_that_outgrows_its_worker(start_method, make_gate):
    """A call that takes more than twice the bound is killed and says so, and harms no other."""
    gate = make_gate()
    async with aiopool.Pool(2, mp_context=start_method, max_worker_memory=200 * MIB) as pool:
        innocent = pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        with pytest.raises(aiopool.WorkerCrashed) as caught:
            await pool.run(writers.fill, 20 * MIB)
        text = str(caught.value)
        assert "more than 2 times max_worker_memory (200 MiB)" in text
        assert "may have run out of memory" not in text
        gate.open()
        assert await innocent == gate.pid
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_call_between_the_bounds(make_gate):
    """A call that takes more than the bound and less than twice that is left alone."""
    gate = make_gate()
    async with aiopool.Pool(1, max_worker_memory=300 * MIB) as pool:
        large = pool.submit(writers.hold_and_wait, 350 * MIB, *gate.paths)
        await gate.entered()
        await _look(pool._parts.fleet._memory)
        gate.open()
        assert await large == 350 * MIB
        assert await pool.run(jobs.inc, 1) == 2
        assert pool.statistics().crashed == 0


class Worker:
    """A lane that is only asked how much it holds."""

    def __init__(self, load):
        self.slot = self
        self.load = load
        self.pid = 1
        self.why = None

    def condemn(self, why):
        self.why = why


@pytest.fixture
def held(monkeypatch):
    """Give what all processes hold, in a list of one, and look as often as can be."""
    held = [0]
    monkeypatch.setattr(memory, "_resident", lambda pid: held[0])
    monkeypatch.setattr(memory, "_INTERVAL", 0)
    return held


async def test_watch(held):
    """The watch condemns who is busy and holds more than twice the bound, and nobody else."""
    idle, busy = Worker(0), Worker(1)
    watch = MemoryWatch(100 * MIB, lambda: [idle, busy])
    watch.arm()
    held[0] = 200 * MIB
    await _look(watch)
    assert busy.why is None
    held[0] = 200 * MIB + 1
    await _look(watch)
    assert busy.why == "it held 200 MiB, more than 2 times max_worker_memory (100 MiB)"
    assert idle.why is None
    watch.stop()


async def test_watch_rests(held):
    """The watch looks at nothing while no worker is busy, and again once calls are sent."""
    worker = Worker(1)
    watch = MemoryWatch(100, lambda: [worker])
    watch.arm()
    await _look(watch)
    assert watch._timer is not None
    worker.load = 0
    await wait_until(lambda: watch._timer is None, "the watch to rest")
    worker.load, held[0] = 1, 1000
    watch.arm()
    await wait_until(lambda: worker.why, "the watch to see it")
    watch.stop()


async def _look(watch):
    timer = watch._timer
    await wait_until(lambda: watch._timer is not timer, "a look")


def test_memory_of_nobody():
    """A process that is gone holds nothing."""
    assert memory._resident(None) == 0


async def test_shared_memory_is_not_counted(gate):
    """A call may read a shared object larger than its worker may be, and the worker is kept."""
    async with aiopool.Pool(1, max_worker_memory=120 * MIB) as pool:
        worker = await pool.run(jobs.pid)
        held = pool.share(np.ones(300 * MIB, np.uint8))
        reading = pool.submit(writers.count_and_wait, held, *gate.paths)
        await gate.entered()
        await _look(pool._parts.fleet._memory)
        gate.open()
        assert await reading == 300 * MIB
        assert await pool.run(jobs.pid) == worker
