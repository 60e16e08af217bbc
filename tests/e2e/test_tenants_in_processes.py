"""Tenants, views and shared calls where calls run in real worker processes."""

import asyncio

import pytest

from aiopool import Pool, WorkerCrashed
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import is_cancelled


async def test_a_busy_tenant_does_not_hold_up_another(gate, tmp_path):
    """One call of a tenant runs among the first few of the hundreds another has submitted."""
    journal = tmp_path / "journal"
    async with Pool(1) as pool:
        pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        for _ in range(300):
            pool.submit(jobs.record, str(journal), "a", fairness_key="a")
        mine = pool.submit(jobs.record, str(journal), "b", fairness_key="b")
        await asyncio.sleep(0)
        gate.open()
        await mine
    lines = journal.read_text().split()
    assert len(lines) == 301
    assert lines.index("b") <= 2


async def test_tenants_share_workers_turn_by_turn(gate, tmp_path):
    """Of two tenants with many calls each neither is ever far ahead of the other."""
    journal = tmp_path / "journal"
    async with Pool(1) as pool:
        pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        for key in "ab":
            for _ in range(200):
                pool.submit(jobs.record, str(journal), key, fairness_key=key)
        await asyncio.sleep(0)
        gate.open()
    lines = journal.read_text().split()
    ahead = [lines[:count].count("a") - count / 2 for count in range(401)]
    assert max(map(abs, ahead)) <= 3


async def test_a_view_with_a_limit_leaves_workers_to_others(gate):
    """A view of one place keeps to one worker, and its map and single calls share it."""
    async with Pool(2) as pool:
        view = pool.view(limit=1)
        first = view.submit(jobs.gate, *gate.paths)
        pid = await gate.entered()
        more = [view.submit(jobs.pid), asyncio.ensure_future(view.map(jobs.inc, range(100)))]
        assert await pool.run(jobs.pid) != pid
        assert more[0].state == "queued"
        gate.open()
        assert await first == pid
        assert await more[1] == list(range(1, 101))
        await more[0]


async def test_callers_share_one_call_of_a_worker(gate, tmp_path):
    """A call with a key is executed once, and its worker's death is every caller's failure."""
    journal = tmp_path / "journal"
    async with Pool(1) as pool:
        held = pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        callers = [
            asyncio.ensure_future(pool.run(jobs.record, str(journal), x, key="row"))
            for x in range(5)
        ]
        await asyncio.sleep(0)
        gate.open()
        assert await asyncio.gather(*callers) == [0] * 5
        assert journal.read_text().split() == ["0"]
        await held
        killed = (pool.run(jobs.exit_with, 3, key="end") for _ in range(3))
        errors = await asyncio.gather(*killed, return_exceptions=True)
    assert [type(error) for error in errors] == [WorkerCrashed] * 3
    assert len(set(map(id, errors))) == 1


@pytest.mark.parametrize("leavers", [1, 3])
async def test_the_last_caller_stops_a_worker(gate, tmp_path, leavers):
    """A call in a worker runs on while anybody waits, and is interrupted when nobody does."""
    cleanup = tmp_path / "cleanup"
    async with Pool(1) as pool:
        call = (jobs.gate_with_cleanup, *gate.paths, str(cleanup))
        callers = [asyncio.ensure_future(pool.run(*call, key="held")) for _ in range(3)]
        pid = await gate.entered()
        for caller in callers[:leavers]:
            caller.cancel()
        await asyncio.wait(callers[:leavers])
        assert all(map(is_cancelled, callers[:leavers]))
        if leavers == 3:
            assert cleanup.exists()
            await wait_until(lambda: not pool.statistics().running)
        else:
            assert not cleanup.exists()
            gate.open()
            assert await asyncio.gather(*callers[leavers:]) == [pid] * 2
