"""Pools that close while their workers are still starting, and workers that start under load."""

import asyncio

import pytest

import aiopool
from tests import jobs


@pytest.mark.parametrize("delay", [0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1])
async def test_closing_while_workers_start(delay, start_method):
    """A pool closed at any moment of its workers' start leaves nothing of them."""
    with pytest.raises(KeyError):
        async with aiopool.Pool(2, mp_context=start_method, grace_period=0.2) as pool:
            handles = [pool.submit(jobs.sleep_for, 60) for _ in range(2)]
            await asyncio.sleep(delay)  # not for an order: every moment has to be right
            raise KeyError
    assert all(handle.cancelled() for handle in handles)


@pytest.mark.parametrize("delay", [0, 0.002, 0.005, 0.01, 0.02, 0.04])
async def test_closing_while_a_replacement_starts(delay):
    """A pool closed while the replacement of a dead worker starts leaves nothing of it."""
    async with aiopool.Pool(1) as pool:
        with pytest.raises(aiopool.WorkerCrashed):
            await pool.run(jobs.exit_with, 1)
        await asyncio.sleep(delay)  # as above


async def test_workers_replaced_after_every_call():
    """Workers that serve one call each, dozens of them, lose no call and crash at none."""
    async with aiopool.Pool(2, max_tasks_per_worker=1) as pool:
        handles = [pool.submit(jobs.pid_and, n) for n in range(40)]
        found = await asyncio.wait_for(asyncio.gather(*handles), 60)
        assert [value for _, value in found] == list(range(40))
        assert len({pid for pid, _ in found}) == 40
        assert pool.statistics().crashed == 0
