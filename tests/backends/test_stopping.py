"""Timeouts and cancellation stop the work itself, and nothing but it."""

import asyncio
import os
import time
from functools import partial

import pytest

import aiopool
from tests import jobs
from tests.backends import deeds
from tests.helpers import is_alive, wait_until

LONG = 120.0
# A number of terms whose sum takes minutes in one C call.
ENDLESS = 10**12


async def test_timeout_runs_the_cleanup(start_method, gate, tmp_path):
    """A timeout runs the finally clause of a call that waits and spares its worker."""
    cleaned = tmp_path / "cleaned"
    async with aiopool.Pool(1, mp_context=start_method, grace_period=20) as pool:
        worker = await pool.run(jobs.pid)
        with pytest.raises(aiopool.TaskTimeout):
            await pool.run(jobs.gate_with_cleanup, *gate.paths, str(cleaned), timeout=0.2)
        assert cleaned.read_text() == str(worker)
        assert await pool.run(jobs.pid) == worker


async def test_timeout_of_a_sleep(start_method):
    """A call that sleeps in C is woken by its timeout and its worker goes on."""
    async with aiopool.Pool(1, mp_context=start_method, grace_period=20) as pool:
        worker = await pool.run(jobs.pid)
        with pytest.raises(aiopool.TaskTimeout):
            await pool.run(jobs.sleep_for, LONG, timeout=0.2)
        assert await pool.run(jobs.pid) == worker


async def test_timeout_of_a_busy_loop(start_method):
    """A call busy in Python code is interrupted by its timeout and its worker goes on."""
    async with aiopool.Pool(1, mp_context=start_method, grace_period=20) as pool:
        worker = await pool.run(jobs.pid)
        with pytest.raises(aiopool.TaskTimeout):
            await pool.run(jobs.spin, LONG, timeout=0.2)
        assert await pool.run(jobs.pid) == worker


STUBBORN = {
    "swallows": (deeds.swallow_interrupts, ()),
    "in C": (deeds.deaf_then, (jobs.spin_in_c, ENDLESS)),
    "ignores signals": (deeds.deaf_then, (jobs.spin_ignoring_signals, LONG)),
}


@pytest.mark.parametrize("way", STUBBORN)
async def test_timeout_of_a_stubborn_call(way, start_method, tmp_path):
    """A call that cannot be interrupted is killed with its worker after the grace period."""
    fn, args = STUBBORN[way]
    marker = tmp_path / "marker"
    async with aiopool.Pool(1, mp_context=start_method, grace_period=0.1) as pool:
        worker = await pool.run(jobs.pid)
        started = time.monotonic()
        with pytest.raises(aiopool.TaskTimeout):
            await pool.run(fn, str(marker), *args, timeout=0.2)
        assert time.monotonic() - started < 10
        assert marker.read_text() == str(worker)
        assert not is_alive(worker)
        assert await pool.run(jobs.add, 1, 2) == 3
        assert pool.statistics().failed == 1


@pytest.mark.parametrize("way", STUBBORN)
async def test_cancel_of_a_stubborn_call(way, start_method, tmp_path):
    """A cancelled caller of a call that cannot be interrupted resumes once its worker is dead."""
    fn, args = STUBBORN[way]
    marker = tmp_path / "marker"
    async with aiopool.Pool(1, mp_context=start_method, grace_period=0.1) as pool:
        caller = asyncio.ensure_future(pool.run(fn, str(marker), *args))
        await wait_until(marker.exists, "the call has begun")
        worker = int(marker.read_text())
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(caller, 15)
        assert not is_alive(worker)
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_innocents_behind_a_stubborn_call(tmp_path):
    """Calls waiting behind one that is killed for its timeout all give their values, once."""
    marker, journal = tmp_path / "marker", tmp_path / "journal"
    async with aiopool.Pool(1, grace_period=0.2) as pool:
        await pool.map(partial(jobs.record, str(tmp_path / "warm")), range(50))
        guilty = pool.submit(deeds.swallow_interrupts, str(marker), timeout=0.3)
        innocents = [pool.submit(jobs.record, str(journal), n) for n in range(20)]
        with pytest.raises(aiopool.TaskTimeout):
            await guilty
        assert await asyncio.gather(*innocents) == list(range(20))
        assert {handle.attempts for handle in innocents} == {1}
    assert sorted(map(int, journal.read_text().split())) == list(range(20))


async def test_innocents_behind_an_interrupted_call(start_method, gate, tmp_path):
    """Calls sent to the same worker as one that is cancelled run there, and once each."""
    journal = tmp_path / "journal"
    async with aiopool.Pool(1, mp_context=start_method, grace_period=20) as pool:
        worker = await pool.run(jobs.pid)
        victim = pool.submit(jobs.gate, *gate.paths)
        others = [pool.submit(jobs.record, str(journal), n) for n in range(20)]
        await gate.entered()
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        assert await asyncio.gather(*others) == list(range(20))
        assert await pool.run(jobs.pid) == worker
    assert journal.read_text().split() == [str(n) for n in range(20)]


@pytest.mark.parametrize("through", ["handle", "caller"])
async def test_awaiting_resumes_when_the_work_has_stopped(through, make_gate, tmp_path):
    """Whoever waits for a cancelled call resumes after its clean-up and not before."""
    gate, end = make_gate(), tmp_path / "1.release"
    cleaning, cleaned = tmp_path / "cleaning", tmp_path / "cleaned"
    args = (str(gate.marker), str(end), str(cleaning), str(cleaned))
    async with aiopool.Pool(1, grace_period=60) as pool:
        if through == "handle":
            waiting = pool.submit(deeds.clean_up_at_gate, *args)
        else:
            waiting = asyncio.ensure_future(pool.run(deeds.clean_up_at_gate, *args))
        await gate.entered()
        waiting.cancel()
        await wait_until(cleaning.exists, "the clean-up has begun")
        waiting.cancel()
        assert not waiting.done()
        end.touch()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert cleaned.exists()


async def test_map_cancelled(start_method, gate):
    """Cancelling the caller of a map stops its running calls and starts no more of them."""
    fn = partial(jobs.gate_then, *gate.paths, jobs.inc)
    async with aiopool.Pool(2, mp_context=start_method, grace_period=20) as pool:
        mapped = asyncio.ensure_future(pool.map(fn, range(100)))
        await gate.entered()
        mapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mapped
        statistics = pool.statistics()
        assert statistics.running == 0
        assert not sum(statistics.queued.values())
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_timeout_in_a_map_fails_one_item():
    """A timeout in a map is of one item: its finished and waiting neighbours have their values."""
    async with aiopool.Pool(1, grace_period=20) as pool:
        found = await pool.map(deeds.stay_at_7, range(100), timeout=0.2, return_exceptions=True)
    assert type(found[7]) is aiopool.TaskTimeout
    found[7] = 7
    assert found == list(range(100))


async def test_retry_after_timeout(tmp_path):
    """A call that was stopped for its timeout is tried again where its policy says so."""
    journal = tmp_path / "journal"
    policy = aiopool.Retry(attempts=3, wait_initial=0.001, wait_jitter=0)
    async with aiopool.Pool(1, grace_period=20) as pool:
        handle = pool.submit(deeds.stay_twice, str(journal), timeout=0.2, retry=policy)
        assert await handle == 3
        assert handle.attempts == 3


async def test_late_interrupts_touch_nobody():
    """Calls whose timeouts fall about where they end each give a value or time out, no other."""
    async with aiopool.Pool(1, grace_period=20) as pool:
        worker = await pool.run(jobs.pid)
        ends = []
        for _ in range(40):
            racing = pool.submit(jobs.sleep_for, 0.01, timeout=0.01)
            innocent = pool.submit(jobs.add, 1, 2)
            ends += await asyncio.gather(racing, return_exceptions=True)
            assert await innocent == 3
        assert {type(end) for end in ends} <= {float, aiopool.TaskTimeout}
        assert await pool.run(jobs.pid) == worker


async def test_cancel_storm(gate):
    """Ten thousand queued calls can be cancelled at once and leave the pool in working order."""
    async with aiopool.Pool(1) as pool:
        held = pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        handles = [pool.submit(jobs.inc, n) for n in range(10_000)]
        for handle in handles:
            handle.cancel()
        await asyncio.wait(handles)
        assert all(handle.cancelled() for handle in handles)
        gate.open()
        assert await held > 0
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_cancel_while_the_worker_starts():
    """A call cancelled while the first worker is still starting leaves nothing half-made."""
    async with aiopool.Pool(1, mp_context="spawn") as pool:
        handle = pool.submit(jobs.sleep_for, LONG)
        await asyncio.sleep(0)
        handle.cancel()
        await asyncio.wait([handle], timeout=20)
        assert handle.cancelled()
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_leaving_by_an_exception_stops_the_work(gate, tmp_path):
    """Leaving the block by an exception interrupts what runs and ends its process."""
    cleaned = tmp_path / "cleaned"
    with pytest.raises(KeyError):
        async with aiopool.Pool(1) as pool:
            handle = pool.submit(jobs.gate_with_cleanup, *gate.paths, str(cleaned))
            worker = await gate.entered()
            raise KeyError
    assert cleaned.exists()
    assert handle.cancelled()
    assert not is_alive(worker)


async def test_leaving_by_an_exception_kills_the_stubborn(tmp_path):
    """Leaving the block by an exception ends a call that ignores interrupts within seconds."""
    marker = tmp_path / "marker"
    started = time.monotonic()
    with pytest.raises(KeyError):
        async with aiopool.Pool(1, grace_period=0.2) as pool:
            handle = pool.submit(deeds.swallow_interrupts, str(marker))
            await wait_until(marker.exists, "the call has begun")
            raise KeyError
    assert time.monotonic() - started < 15
    assert handle.done()
    assert not is_alive(int(marker.read_text()))


async def test_worker_ignoring_sigterm_is_let_go(tmp_path):
    """Closing takes no notice of a call that made its worker deaf to signals."""
    async with aiopool.Pool(1, grace_period=0.2) as pool:
        await pool.run(jobs.spin_ignoring_signals, 0)
        worker = await pool.run(jobs.pid)
    assert not is_alive(worker)
    assert worker != os.getpid()
