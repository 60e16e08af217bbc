"""`progress.track`: all that a pool does, while it does it."""

import asyncio

import pytest

from aiopool import Pool, PoolClosed, progress
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import Shop, double


async def fail(x):
    raise ValueError(x)


async def test_what_a_pool_did(capsys):
    """The last line tells all calls that ended since the block began, and how they ended."""
    async with Pool() as pool:
        await pool.map(double, range(7))
        with progress.track(pool, "calls"):
            await pool.map(double, range(5))
            await pool.map(fail, [1, 2], return_exceptions=True, retry=1)
            with pytest.raises(ValueError, match="3"):
                await pool.run(fail, 3, retry=2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "calls: 0 of 0"
    assert lines[-1].startswith("calls: 8 of 8 in ")
    assert lines[-1].endswith(", 3 failed, 1 retried")


async def test_what_a_pool_is_doing(gate):
    """What runs and what waits counts among all there is, and each worker tells what it runs."""
    shop = Shop()
    async with Pool(1, limit=1) as pool:
        tracking = progress._Tracking(pool)
        assert tracking.counts() == (0, 0, "")
        held = pool.submit(jobs.gate, *gate.paths, name="held")
        pid = await gate.entered()
        mapping = asyncio.ensure_future(pool.map(shop.work, range(9)))
        await shop.has_started(0)
        ended, total, beside, worker = tracking.counts()
        assert (ended, total, beside) == (0, 10, "2 running")
        assert worker.startswith(f"worker {pid}: held, ")
        gate.open()
        await held
        mapping.cancel()
        await asyncio.wait([mapping])
        await wait_until(lambda: tracking.counts()[:3] == (2, 2, "1 cancelled"))
        assert tracking.counts()[3].startswith(f"worker {pid}: ready, ")


async def test_a_pool_that_is_not_open(caplog):
    """Nothing can be tracked of a pool that is not open, which is logged and stops nobody."""
    with progress.track(Pool()):
        pass
    assert "the progress display of pool ended" in caplog.text
    assert PoolClosed.__name__ in caplog.text


async def test_tracking_beyond_the_pools_end(capsys):
    """A pool may end within the block."""
    async with Pool() as pool:
        tracking = progress.track(pool)
        tracking.begin()
        await pool.run(double, 1)
    tracking.end()
    assert capsys.readouterr().err.splitlines()[-1].startswith("pool: 1 of 1 in ")
