"""A worker that dies costs the one call it was executing, whatever killed it."""

import asyncio
import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

import aiopool
from aiopool._backends.fleet import Fleet
from tests import jobs
from tests.backends import deeds
from tests.helpers import is_alive, wait_until


async def dies(pool, handle, exitcode, word):
    """Check that a call failed as the one that ended its worker."""
    with pytest.raises(aiopool.WorkerCrashed) as caught:
        await asyncio.wait_for(handle, 20)
    error = caught.value
    assert isinstance(error, BrokenProcessPool)
    assert error.exitcode == exitcode
    assert word in str(error)
    assert str(error.pid) in str(error)
    assert not is_alive(error.pid)
    return error


async def test_killed_from_outside_while_busy(start_method, gate, company):
    """A worker killed by somebody else while it is busy fails its call, with a hint at memory."""
    async with aiopool.Pool(3, mp_context=start_method) as pool:
        innocents = company(pool)
        await innocents.gather_round()
        guilty = pool.submit(jobs.gate, *gate.paths)
        innocents.queue_up()
        victim = await gate.entered()
        os.kill(victim, signal.SIGKILL)
        error = await dies(pool, guilty, -signal.SIGKILL, "memory")
        assert error.pid == victim
        await innocents.leave_well()


async def test_killed_while_idle(start_method):
    """A worker killed while idle is replaced and nobody hears of it."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        for _ in range(3):
            victim = await pool.run(jobs.pid)
            os.kill(victim, signal.SIGKILL)
            assert await asyncio.wait_for(pool.run(jobs.add, 1, 2), 20) == 3
            assert await pool.run(jobs.pid) != victim
        assert pool.statistics().failed == 0


async def test_killed_while_idle_and_noticed(start_method):
    """A worker that dies idle is replaced before the next call asks for one."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        victim = await pool.run(jobs.pid)
        os.kill(victim, signal.SIGKILL)

        def replaced():
            pids = {worker.pid for worker in pool.statistics().workers}
            return pids and not pids & {victim, None}

        await wait_until(replaced, "another worker")
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_all_workers_at_once(start_method, make_gate):
    """When all workers die at once each call they executed fails and the pool is whole again."""
    gates = [make_gate() for _ in range(3)]
    async with aiopool.Pool(3, mp_context=start_method) as pool:
        running = [pool.submit(jobs.gate, *gate.paths) for gate in gates]
        pids = [await gate.entered() for gate in gates]
        waiting = [pool.submit(jobs.square, n) for n in range(10)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert [type(end) for end in ends] == [aiopool.WorkerCrashed] * 3
        assert {end.pid for end in ends} == set(pids)
        assert await asyncio.gather(*waiting) == [n * n for n in range(10)]
        assert pool.statistics().crashed == 3


async def test_submit_when_all_workers_just_died(gate):
    """A submission made between the death of the only worker and its discovery succeeds."""
    async with aiopool.Pool(1) as pool:
        victim = await pool.run(jobs.pid)
        os.kill(victim, signal.SIGKILL)
        handles = [pool.submit(jobs.square, n) for n in range(5)]
        assert await asyncio.gather(*handles) == [0, 1, 4, 9, 16]


async def test_crash_loop(start_method):
    """Thirty calls that crash mixed with thirty that do not fail one each and no other."""
    async with aiopool.Pool(2, mp_context=start_method) as pool:
        handles = [
            pool.submit(jobs.exit_with, 7) if n % 2 else pool.submit(jobs.square, n)
            for n in range(60 if start_method == "forkserver" else 20)
        ]
        ends = await asyncio.gather(*handles, return_exceptions=True)
        for n, end in enumerate(ends):
            if n % 2:
                assert type(end) is aiopool.WorkerCrashed
                assert end.exitcode == 7
            else:
                assert end == n * n
        assert {handle.attempts for handle in handles} == {1}
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_crashes_in_a_row(monkeypatch):
    """Where calls do nothing but crash, workers are started ever later, one at a time."""
    waits = []
    monkeypatch.setattr(Fleet, "_wait", _remembering(waits, Fleet._wait))
    async with aiopool.Pool(2) as pool:
        handles = [pool.submit(jobs.exit_with, 7) for _ in range(14)]
        ends = await asyncio.wait_for(asyncio.gather(*handles, return_exceptions=True), 30)
        assert {type(end) for end in ends} == {aiopool.WorkerCrashed}
        assert len(waits) >= 4
        assert waits == sorted(waits)
        assert waits[-1] >= 8 * waits[0]
        assert await pool.run(jobs.add, 1, 2) == 3
        with pytest.raises(aiopool.WorkerCrashed):
            await pool.run(jobs.exit_with, 7)
        assert await pool.run(jobs.add, 1, 2) == 3


def _remembering(waits, wait):
    def remember(fleet, delay):
        waits.append(delay)
        wait(fleet, delay)

    return remember


async def test_argument_that_kills_when_freed(start_method):
    """An argument whose destructor kills the worker harms neither its own call nor the next."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        first = pool.submit(id, deeds.DelKills())
        rest = [pool.submit(jobs.square, n) for n in range(4)]
        assert isinstance(await first, int)
        assert await asyncio.gather(*rest) == [0, 1, 4, 9]
        assert pool.statistics().failed == 0


async def test_retry_after_crash(start_method, tmp_path):
    """With a retry policy a call that crashed its worker is tried again, as often as it says."""
    policy = aiopool.Retry(attempts=3, wait_initial=0.001, wait_jitter=0)
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        good = pool.submit(deeds.kill_times, str(tmp_path / "good"), 2, "x", retry=policy)
        assert await good == "x"
        assert good.attempts == 3
        bad = pool.submit(deeds.kill_times, str(tmp_path / "bad"), 9, "x", retry=policy)
        with pytest.raises(aiopool.WorkerCrashed):
            await bad
        assert bad.attempts == 3
    assert (tmp_path / "bad").read_text() == "x\n" * 3


async def test_retry_given_as_a_number(tmp_path):
    """A plain number of attempts covers crashes, too."""
    async with aiopool.Pool(1) as pool:
        assert await pool.run(deeds.kill_times, str(tmp_path / "j"), 1, "x", retry=3) == "x"


async def test_crash_without_retry_is_executed_once(tmp_path):
    """A call that crashes its worker is not executed again unless its policy says so."""
    journal = tmp_path / "journal"
    async with aiopool.Pool(1) as pool:
        with pytest.raises(aiopool.WorkerCrashed):
            await pool.run(deeds.kill_times, str(journal), 9, "x")
        assert await pool.run(jobs.add, 1, 2) == 3
    assert journal.read_text() == "x\n"


async def test_grandchild_holding_the_socket(tmp_path):
    """The death of a worker is noticed though a process it forked holds its socket."""
    path = tmp_path / "grandchild"
    async with aiopool.Pool(1) as pool:
        worker = await pool.run(jobs.pid)
        grandchild = await pool.run(jobs.start_grandchild, str(path))
        try:
            handle = pool.submit(jobs.kill_self, signal.SIGKILL)
            error = await dies(pool, handle, -signal.SIGKILL, "SIGKILL")
            assert error.pid == worker
            assert await asyncio.wait_for(pool.run(jobs.add, 1, 2), 20) == 3
        finally:
            os.kill(grandchild, signal.SIGKILL)
