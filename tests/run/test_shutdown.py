"""How a pool ends: drained or cut short, once, and with an outcome for every call."""

import asyncio

import pytest

from aiopool import Pool, PoolClosed, Retry
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import double, ended, forever, turns


class Bang(Exception):
    pass


async def test_a_normal_exit_drains(shop):
    """Leaving the block waits for every call, running, queued or resting."""
    failures = [ValueError()]

    async def fail_once():
        if failures:
            raise failures.pop()
        return "again"

    async with Pool(1, limit=1) as pool:
        handles = [
            pool.submit(shop.work, 1),
            pool.submit(shop.work, 2),
            pool.submit(fail_once, retry=Retry(2, on=lambda _: 0.01)),
            pool.submit(jobs.inc, 1),
            pool.submit(jobs.inc, 2, on="thread"),
        ]
        asyncio.get_running_loop().call_soon(shop.open)
    assert [handle.result() for handle in handles] == [1, 2, "again", 2, 3]


async def test_an_exception_cancels(shop):
    """Leaving the block by an exception cancels all calls and lets the exception through."""
    with pytest.raises(Bang):
        async with Pool(limit=1) as pool:
            handles = [pool.submit(shop.work, x) for x in range(3)]
            await shop.has_started(0)
            raise Bang
    assert all(handle.cancelled() for handle in handles)
    assert shop.started == shop.ended == [0]


async def test_an_exception_stops_processes(gate, make_gate, tmp_path):
    """Leaving the block by an exception stops a call in a process, whose clean-up runs."""
    held, cleaned = make_gate(), tmp_path / "cleaned"
    with pytest.raises(Bang):
        async with Pool(1) as pool:
            handle = pool.submit(jobs.gate_with_cleanup, *held.paths, str(cleaned))
            queued = pool.submit(jobs.inc, 1)
            await held.entered()
            raise Bang
    assert handle.cancelled() and queued.cancelled()
    assert cleaned.exists()


async def test_a_cancellation_cancels(shop):
    """Leaving the block by a cancellation cancels all calls, and the cancellation goes on."""
    handles = []

    async def use():
        async with Pool() as pool:
            handles.extend(pool.submit(shop.work, x) for x in range(3))
            await forever()

    task = asyncio.ensure_future(use())
    await shop.has_started(0, 1, 2)
    task.cancel()
    await ended(task)
    assert task.cancelled() and task.cancelling() == 1
    assert all(handle.cancelled() for handle in handles)
    assert sorted(shop.ended) == [0, 1, 2]


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_cancellation_in_aexit(shop, times):
    """A cancellation that comes while the block drains cuts that short and then goes on."""
    handles, leaving = [], asyncio.Event()

    async def use():
        async with Pool() as pool:
            handles.append(pool.submit(shop.work, 1))
            await shop.has_started(1)
            leaving.set()

    task = asyncio.ensure_future(use())
    await leaving.wait()
    await turns()
    assert not task.done()
    for _ in range(times):
        task.cancel()
        await turns(1)
    await ended(task)
    assert task.cancelled()
    assert handles[0].cancelled() and shop.ended == [1]


async def test_aclose_is_idempotent():
    """aclose may be called again, inside the block and after it."""
    async with Pool() as pool:
        handle = pool.submit(double, 1)
        await pool.aclose()
        assert handle.result() == 2
        await pool.aclose()
        await pool.aclose(drain=False, timeout=0)
    await pool.aclose()


async def test_aclose_by_several_at_once(shop):
    """Several tasks may close a pool at once, and each returns when all is gone."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, 1)
        await shop.has_started(1)
        closing = [asyncio.ensure_future(pool.aclose()) for _ in range(5)]
        await turns()
        assert not any(task.done() for task in closing)
        shop.open()
        await asyncio.gather(*closing)
        assert handle.result() == 1


async def test_a_cancelled_aclose_cuts_short(shop):
    """A task cancelled while it closes the pool stays until all has stopped, then is cancelled."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, 1)
        await shop.has_started(1)
        closing = asyncio.ensure_future(pool.aclose())
        other = asyncio.ensure_future(pool.aclose())
        await turns()
        closing.cancel()
        await ended(closing)
        assert closing.cancelled() and handle.cancelled() and shop.ended == [1]
        await other


async def test_aclose_without_draining(shop):
    """aclose(drain=False) cancels what runs and what waits."""
    async with Pool(limit=1) as pool:
        handles = [pool.submit(shop.work, x) for x in range(3)]
        await shop.has_started(0)
        await pool.aclose(drain=False)
        assert all(handle.cancelled() for handle in handles)
        assert shop.started == shop.ended == [0]


async def test_a_second_aclose_may_cut_the_first_short(shop):
    """aclose(drain=False) ends the draining another task waits for."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, 1)
        await shop.has_started(1)
        draining = asyncio.ensure_future(pool.aclose())
        await turns()
        await pool.aclose(drain=False)
        await draining
        assert handle.cancelled()


@pytest.mark.parametrize("timeout", [0, 0.01])
async def test_aclose_with_a_timeout(shop, timeout):
    """aclose(timeout=...) drains for so long and then cancels."""
    async with Pool() as pool:
        quick, slow = pool.submit(double, 1), pool.submit(shop.work, 1)
        await quick
        await shop.has_started(1)
        await pool.aclose(timeout=timeout)
        assert slow.cancelled() and shop.ended == [1]


async def test_a_timeout_that_is_not_needed(shop):
    """aclose(timeout=...) returns as soon as all is done, and leaves no timer behind."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, 1)
        asyncio.get_running_loop().call_soon(shop.open)
        await pool.aclose(timeout=3600)
        assert handle.result() == 1


async def test_no_verb_after_closing():
    """After closing every verb raises PoolClosed, and an input that was passed stays untouched."""
    async with Pool() as pool:
        pass
    pulled = []
    for refused in (
        lambda: pool.submit(double, 1),
        lambda: pool.stream(double, pulled),
        pool.task_group,
    ):
        with pytest.raises(PoolClosed, match="clos"):
            refused()
    for waiting in (
        pool.run(double, 1),
        pool.map(double, iter(pulled)),
        pool.starmap(double, [(1,)]),
        pool.__aenter__(),
    ):
        with pytest.raises(PoolClosed):
            await waiting


async def test_no_submit_while_closing(shop):
    """While a pool drains it takes no more work."""
    async with Pool() as pool:
        pool.submit(shop.work, 1)
        await shop.has_started(1)
        closing = asyncio.ensure_future(pool.aclose())
        await turns()
        with pytest.raises(PoolClosed):
            pool.submit(double, 1)
        with pytest.raises(PoolClosed):
            await pool.run(double, 1)
        assert "closing" in repr(pool)
        shop.open()
        await closing


async def test_a_call_cannot_close_its_pool():
    """A call that closes its own pool is refused, because closing would wait for it."""
    async with Pool() as pool:
        with pytest.raises(RuntimeError, match="cannot close"):
            await pool.run(pool.aclose)


async def test_a_refused_close_closes_nothing():
    """After a call was refused to close its pool the pool still takes work."""
    async with Pool() as pool:
        with pytest.raises(RuntimeError):
            await pool.run(pool.aclose)
        assert await pool.run(double, 1) == 2


async def test_aclose_from_a_done_callback():
    """A handle's done callback may have the pool closed."""
    async with Pool() as pool:
        closing = []
        handle = pool.submit(double, 1)
        handle.add_done_callback(lambda _: closing.append(asyncio.ensure_future(pool.aclose())))
        await handle
        await wait_until(lambda: closing)
        await closing[0]
        with pytest.raises(PoolClosed):
            pool.submit(double, 1)


async def test_every_handle_is_done_after_closing(shop):
    """After closing no handle is pending, in whatever state it was."""
    failures = [ValueError()]

    async def fail_once():
        raise failures[0]

    async with Pool(1, limit=1) as pool:
        handles = [
            pool.submit(fail_once, retry=Retry(2, on=lambda _: 60.0)),
            pool.submit(shop.work, "running"),
            pool.submit(shop.work, "queued"),
            pool.submit(jobs.sleep_for, 60),
            pool.submit(jobs.inc, 1),
            pool.submit(shop.work, "fresh"),
        ]
        await shop.has_started("running")
        handles.append(pool.submit(shop.work, "just now"))
        await pool.aclose(drain=False)
        assert [handle.state for handle in handles] == ["cancelled"] * 7


async def test_a_call_that_ignores_its_cancellation(caplog):
    """A coroutine that suppresses its cancellation cannot keep a pool from closing."""
    stop = asyncio.Event()

    async def deaf():
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                continue

    async with Pool(grace_period=0.05) as pool:
        handle = pool.submit(deaf)
        await wait_until(lambda: handle.state == "running")
        await pool.aclose(drain=False)
        assert handle.cancelled()
    assert "ignores its cancellation" in caplog.text
    stop.set()
    await turns()


async def test_a_thread_that_does_not_end(gate):
    """A call in a thread cannot keep a pool from closing without draining."""
    async with Pool(grace_period=0.05) as pool:
        handle = pool.submit(jobs.gate, *gate.paths, on="thread")
        await gate.entered()
        await pool.aclose(drain=False)
        assert handle.cancelled()
    gate.open()


async def test_draining_turns_newcomers_away(shop):
    """`drain` ends when no call is left; meanwhile calls are taken, and `admit` refuses."""
    async with Pool() as pool:
        pool.admit()
        first = pool.submit(shop.work, 1)
        draining = asyncio.ensure_future(pool.drain())
        await shop.has_started(1)
        with pytest.raises(PoolClosed, match="finishes what it was given"):
            pool.view(priority=1).admit()
        second = pool.submit(double, 2)
        assert not draining.done()
        shop.open()
        await draining
        assert first.done() and second.done()
        assert await pool.run(double, 3) == 6


async def test_draining_has_an_end():
    """After `timeout` seconds `drain` returns and leaves alone what still runs."""
    async with Pool() as pool:
        handle = pool.submit(forever)
        await pool.drain(timeout=0.01)
        assert not handle.done()
        handle.cancel()


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan")])
async def test_draining_for_no_time(timeout):
    """A timeout that is no number of seconds is refused, and nobody is turned away."""
    async with Pool() as pool:
        with pytest.raises((TypeError, ValueError), match="timeout"):
            await pool.drain(timeout)
        pool.admit()


async def test_draining_what_is_not_open():
    """A pool that was not opened cannot be drained."""
    with pytest.raises(PoolClosed, match="not open"):
        await Pool().drain()
