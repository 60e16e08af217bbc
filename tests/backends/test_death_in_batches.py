"""A worker that dies in the middle of many calls fails the one it executed."""

import asyncio
import os
import signal
from collections import Counter
from functools import partial

import pytest

import aiopool
from tests import jobs
from tests.backends import deeds

FAST = aiopool.Retry(attempts=3, wait_initial=0.001, wait_jitter=0)


@pytest.mark.parametrize("killer", [0, 500, 999])
async def test_one_killer_in_a_map(killer, start_method):
    """In a map of a thousand tiny calls the one that ends its worker fails alone."""
    async with aiopool.Pool(2, mp_context=start_method) as pool:
        fn = partial(deeds.inc_unless, killer)
        found = await pool.map(fn, range(1000), return_exceptions=True)
        assert type(found[killer]) is aiopool.WorkerCrashed
        assert found[killer].exitcode == 9
        found[killer] = killer + 1
        assert found == list(range(1, 1001))


async def test_several_killers_in_a_map():
    """Each of several killers in one map fails and everything between them gives its value."""
    killers = {100, 101, 350, 998}
    async with aiopool.Pool(2) as pool:
        found = await pool.map(
            deeds.exit_if, [(n, n in killers) for n in range(1000)], return_exceptions=True
        )
    for n, end in enumerate(found):
        assert (type(end) is aiopool.WorkerCrashed) if n in killers else end == n


async def test_killer_in_a_map_raises():
    """A map whose call ends its worker raises WorkerCrashed and the pool goes on."""
    async with aiopool.Pool(2) as pool:
        with pytest.raises(aiopool.WorkerCrashed):
            await pool.map(partial(deeds.inc_unless, 500), range(1000))
        assert await pool.map(jobs.inc, range(100)) == list(range(1, 101))


async def test_killer_in_a_stream():
    """A stream tells of a crash in the outcome of the guilty call, and of one attempt of each."""
    async with aiopool.Pool(2) as pool:
        fn = partial(deeds.inc_unless, 70)
        async with pool.stream(fn, range(200)) as stream:
            outcomes = [outcome async for outcome in stream.outcomes()]
    assert [outcome.index for outcome in outcomes] == list(range(200))
    assert [outcome.index for outcome in outcomes if not outcome.ok] == [70]
    assert type(outcomes[70].error) is aiopool.WorkerCrashed
    assert {outcome.attempts for outcome in outcomes} == {1}


async def test_killer_in_a_map_is_retried_alone(tmp_path):
    """With a retry policy the killer's attempts are counted and nobody else's."""
    journal = tmp_path / "journal"
    async with aiopool.Pool(1) as pool:
        fn = partial(deeds.inc_unless_recorded, str(journal), 50)
        async with pool.stream(fn, range(100), retry=FAST) as stream:
            outcomes = [outcome async for outcome in stream.outcomes()]
    attempts = {outcome.index: outcome.attempts for outcome in outcomes}
    assert attempts.pop(50) == 3
    assert set(attempts.values()) == {1}
    assert Counter(journal.read_text().split())["50"] == 3


async def test_calls_sent_ahead_go_back(start_method, tmp_path):
    """Calls waiting behind a killer are executed once each, elsewhere, as first attempts."""
    journal = tmp_path / "journal"
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        fn = deeds.inc_unless_recorded
        # Its duration becomes known as short, so that several are sent ahead from now on.
        for n in range(100, 130):
            await pool.run(fn, str(journal), None, n)
        journal.unlink()
        handles = [pool.submit(fn, str(journal), 0, n, retry=FAST) for n in range(40)]
        ends = await asyncio.gather(*handles, return_exceptions=True)
        assert type(ends[0]) is aiopool.WorkerCrashed
        assert ends[1:] == list(range(2, 41))
        assert [handle.attempts for handle in handles] == [3, *[1] * 39]
    executions = Counter(journal.read_text().split())
    assert executions.pop("0") == 3
    assert executions == {str(n): 1 for n in range(1, 40)}


async def test_calls_behind_a_killed_worker(gate, tmp_path):
    """Calls behind one whose worker is killed from outside all give their values, once executed."""
    journal = tmp_path / "journal"
    async with aiopool.Pool(1) as pool:
        for n in range(30):
            await pool.run(jobs.record, str(journal), n)
        journal.unlink()
        held = pool.submit(jobs.gate, *gate.paths)
        behind = [pool.submit(jobs.record, str(journal), n) for n in range(20)]
        os.kill(await gate.entered(), signal.SIGKILL)
        with pytest.raises(aiopool.WorkerCrashed):
            await held
        assert await asyncio.gather(*behind) == list(range(20))
        assert {handle.attempts for handle in behind} == {1}
    assert journal.read_text().split() == [str(n) for n in range(20)]


async def test_results_before_a_crash_stand(tmp_path):
    """What finished before its worker died keeps its value and is not executed again."""
    journal = tmp_path / "journal"
    async with aiopool.Pool(1) as pool:
        fn = deeds.inc_unless_recorded
        for n in range(100, 130):
            await pool.run(fn, str(journal), None, n)
        journal.unlink()
        handles = [pool.submit(fn, str(journal), 19, n) for n in range(20)]
        ends = await asyncio.gather(*handles, return_exceptions=True)
        assert ends[:19] == list(range(1, 20))
        assert type(ends[19]) is aiopool.WorkerCrashed
    assert Counter(journal.read_text().split()) == {str(n): 1 for n in range(20)}


async def test_workers_killed_during_a_map(start_method):
    """A map of items that take their time survives its workers being killed, if it may retry."""
    async with aiopool.Pool(2, mp_context=start_method) as pool:
        async with pool.stream(jobs.pid_and, range(3000), retry=FAST) as stream:
            values, killed = [], set()
            async for pid, value in stream:
                values.append(value)
                if len(values) in (100, 800, 1500) and pid not in killed:
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)
        assert values == list(range(3000))
        assert await pool.run(jobs.add, 1, 2) == 3
