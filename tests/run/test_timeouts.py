"""timeout bounds an attempt, deadline the whole; the work has stopped when they are told."""

import asyncio
import time

import pytest

from aiopool import Pool, Retry, TaskTimeout
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import double, ended, forever, hold_back, outlast, settled, turns

SHORT = 0.02


def at_once(attempts=3, **options):
    return Retry(attempts, wait_initial=0, wait_jitter=0, **options)


async def test_a_timeout_names_itself():
    """A call that ran out of time fails with what it is called, the bound, and its seconds."""
    async with Pool() as pool:
        with pytest.raises(TaskTimeout) as caught:
            await pool.run(forever, timeout=SHORT, name="slow one")
    error = caught.value
    assert (error.task, error.seconds, error.bound) == ("slow one", SHORT, "timeout")
    assert "slow one" in str(error) and "0.02 s" in str(error)


async def test_a_timeout_stops_the_work(shop):
    """When a timeout is told the coroutine has been cancelled and has cleaned up."""
    async with Pool() as pool:
        with pytest.raises(TaskTimeout):
            await pool.run(shop.work, 1, timeout=SHORT)
        assert shop.ended == [1] and not shop.inside
        assert pool.statistics().failed == 1


async def test_a_timeout_of_the_pool():
    """The pool's timeout is for calls that say nothing, and None takes it back."""
    async with Pool(timeout=SHORT) as pool:
        with pytest.raises(TaskTimeout):
            await pool.run(forever)
        with pytest.raises(TaskTimeout):
            await pool.map(forever_with, [1])

        async def long():
            await outlast(2 * SHORT)
            return "done"

        assert await pool.run(long, timeout=None) == "done"


async def forever_with(x):
    await forever()


async def test_waiting_is_not_timed(shop):
    """A timeout counts from the start of the attempt, not from submission."""
    async with Pool(limit=1) as pool:
        await hold_back(pool, shop, 1)
        handle = pool.submit(double, 1, timeout=SHORT)
        await outlast(2 * SHORT)
        shop.open()
        assert await handle == 2


async def test_own_timeout_errors_can_be_told_apart():
    """A TimeoutError of the call's own is not a TaskTimeout."""

    async def own():
        raise TimeoutError("my own")

    async with Pool() as pool:
        with pytest.raises(TimeoutError, match="my own") as caught:
            await pool.run(own, timeout=60)
        assert not isinstance(caught.value, TaskTimeout)
        with pytest.raises(TimeoutError) as caught:
            await pool.run(forever, timeout=SHORT)
        assert isinstance(caught.value, TaskTimeout)


async def test_a_value_in_time_is_kept():
    """A call that returned in time has its value though it is looked at after its timeout."""
    async with Pool() as pool:
        handle = pool.submit(double, 1, timeout=SHORT)
        await wait_until(handle.done)
        await outlast(2 * SHORT)
        assert await handle == 2


async def test_a_value_that_comes_while_the_loop_is_busy_is_kept():
    """A value that was there before the loop saw that the time is over is not lost."""

    async def work():
        time.sleep(2 * SHORT)  # the loop stands still; the timer is due when it goes on
        return "value"

    async with Pool() as pool:
        assert await pool.run(work, timeout=SHORT) == "value"
        assert await pool.run(work, deadline=SHORT) == "value"


async def test_a_thread_whose_value_came_while_the_loop_was_busy():
    """The value of a thread that was done in time is kept although the loop looked later."""
    async with Pool() as pool:
        handle = pool.submit(jobs.inc, 1, on="thread", timeout=0.2)
        await wait_until(lambda: handle.state == "running" or handle.done())
        time.sleep(0.3)
        assert await handle == 2


@pytest.mark.parametrize("attempt", range(3))
async def test_a_process_whose_value_came_while_the_loop_was_busy(tmp_path, attempt):
    """The value of a process that was done in time is kept although the loop looked later."""
    async with Pool(1) as pool:
        await pool.run(jobs.inc, 1)
        journal = tmp_path / "journal"
        handle = pool.submit(jobs.record, str(journal), "in time", timeout=0.2)
        await wait_until(lambda: handle.state == "running" or handle.done())
        time.sleep(0.3)
        assert journal.exists()
        assert await handle == "in time"


async def test_a_coroutine_that_suppresses_its_timeout():
    """A call that answers its timeout with a value either failed by timeout or returned."""
    cancelled = []

    async def deaf():
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.append(1)
        return "anyway"

    async with Pool() as pool:
        handle = pool.submit(deaf, timeout=SHORT)
        await ended(handle)
        assert cancelled == [1]
        assert handle.exception() is None or isinstance(handle.exception(), TaskTimeout)
        await settled(pool)


async def test_a_timeout_does_not_return_before_the_work_stopped():
    """A call that takes its time to clean up is timed out only when it has."""
    cleaned = asyncio.Event()
    cleaning = asyncio.Event()

    async def slow_cleanup():
        try:
            await forever()
        finally:
            cleaning.set()
            await cleaned.wait()

    async with Pool() as pool:
        handle = pool.submit(slow_cleanup, timeout=SHORT)
        await cleaning.wait()
        await turns()
        assert not handle.done()
        cleaned.set()
        with pytest.raises(TaskTimeout):
            await handle


async def test_a_timeout_of_a_thread_is_told_at_once(gate):
    """A call in a thread is timed out although it goes on, and its place stays taken meanwhile."""
    async with Pool() as pool:
        with pytest.raises(TaskTimeout):
            await pool.run(jobs.gate, *gate.paths, on="thread", timeout=SHORT)
        assert pool.statistics().running == 1
        gate.open()
        await settled(pool)
        assert await pool.run(jobs.inc, 1, on="thread") == 2


async def test_a_cancelled_thread_is_told_at_once(gate):
    """Cancelling a call in a thread ends its handle at once and drops its result."""
    async with Pool() as pool:
        handle = pool.submit(jobs.gate, *gate.paths, on="thread")
        await gate.entered()
        handle.cancel()
        await ended(handle)
        assert handle.cancelled()
        assert pool.statistics().running == 1
        gate.open()


async def test_a_timeout_in_a_process(gate):
    """A call in a worker process is stopped at its timeout, and the pool goes on."""
    async with Pool(1) as pool:
        with pytest.raises(TaskTimeout):
            await pool.run(jobs.gate, *gate.paths, timeout=0.1)
        assert await pool.run(jobs.inc, 1) == 2


async def test_a_timeout_in_a_map(shop):
    """An item of a map that runs out of time fails the map, or stands in its list."""
    shop.let(0, 2)
    async with Pool() as pool:
        results = await pool.map(shop.work, range(3), timeout=SHORT, return_exceptions=True)
        assert results[::2] == [0, 2] and isinstance(results[1], TaskTimeout)
        with pytest.raises(TaskTimeout):
            await pool.map(shop.work, range(3), timeout=SHORT)
        assert not shop.inside


async def test_each_attempt_has_its_timeout():
    """Every attempt of a retried call has the whole timeout for itself."""
    attempts = []

    async def work():
        attempts.append(1)
        await forever()

    async with Pool() as pool:
        with pytest.raises(TaskTimeout):
            await pool.run(work, timeout=SHORT, retry=at_once(3))
    assert len(attempts) == 3


# --- deadline -------------------------------------------------------------------------------


async def test_a_deadline_of_a_running_call(shop):
    """A call that runs when its deadline passes is stopped and fails with TaskTimeout."""
    async with Pool() as pool:
        with pytest.raises(TaskTimeout, match=r"deadline of 0\.02 s") as caught:
            await pool.run(shop.work, 1, deadline=SHORT)
        assert caught.value.bound == "deadline"
        assert shop.ended == [1]


async def test_a_deadline_of_a_queued_call(shop):
    """A call that still waits when its deadline passes fails without having started."""
    async with Pool(limit=1) as pool:
        await hold_back(pool, shop, 1)
        handle = pool.submit(shop.work, "never", deadline=SHORT)
        with pytest.raises(TaskTimeout):
            await handle
        assert handle.attempts == 0
        shop.open()
        await settled(pool)
    assert "never" not in shop.started


async def test_a_deadline_of_a_resting_call():
    """A call that waits for its next attempt when its deadline passes fails."""

    async def fail():
        raise ValueError

    async with Pool() as pool:
        handle = pool.submit(fail, deadline=SHORT, retry=Retry(2, on=lambda _: 60.0))
        with pytest.raises(TaskTimeout):
            await handle
        assert handle.attempts == 1
        assert pool.statistics().queued == {}


async def test_a_deadline_is_final():
    """A passed deadline is not retried."""
    attempts = []

    async def work():
        attempts.append(1)
        await forever()

    async with Pool() as pool:
        with pytest.raises(TaskTimeout):
            await pool.run(work, deadline=SHORT, retry=at_once(5))
    assert len(attempts) == 1


async def test_a_deadline_of_a_map(shop):
    """A map that runs out of time stops all of its calls and fails."""
    async with Pool(limit=2) as pool:
        with pytest.raises(TaskTimeout):
            await pool.map(shop.work, range(5), deadline=SHORT)
        assert sorted(shop.ended) == [0, 1]
        await settled(pool)


async def test_a_deadline_of_a_map_keeps_results(shop):
    """With return_exceptions a map that ran out of time has the results there were."""
    shop.let(0, 1)
    async with Pool(limit=1) as pool:
        results = await pool.map(shop.work, range(5), deadline=0.1, return_exceptions=True)
        assert results[:2] == [0, 1]
        assert [type(result) for result in results[2:]] == [TaskTimeout] * 3


async def test_a_deadline_of_an_endless_map():
    """A map over an endless input ends at its deadline."""
    import itertools

    async with Pool() as pool:
        with pytest.raises(TaskTimeout):
            await pool.map(double, itertools.count(), deadline=SHORT)
        await settled(pool)


async def test_a_deadline_of_a_stream(shop):
    """A stream that runs out of time yields what there was and then raises."""
    shop.let(0, 1)
    async with Pool() as pool:
        got = []
        with pytest.raises(TaskTimeout):
            async with pool.stream(shop.work, range(5), deadline=0.1) as results:
                async for value in results:
                    got.append(value)
        assert got == [0, 1]
        assert not shop.inside


async def test_a_deadline_that_is_not_needed():
    """A call done in time leaves no timer that would act later."""
    async with Pool() as pool:
        handle = pool.submit(double, 1, deadline=SHORT)
        await handle
        await outlast(2 * SHORT)
        assert handle.result() == 2
        assert pool.statistics().failed == 0


async def test_timeout_and_deadline_together():
    """Of timeout and deadline the one that is over first is told."""
    async with Pool() as pool:
        with pytest.raises(TaskTimeout) as caught:
            await pool.run(forever, timeout=SHORT, deadline=60)
        assert caught.value.bound == "timeout"
        with pytest.raises(TaskTimeout) as caught:
            await pool.run(forever, timeout=60, deadline=SHORT)
        assert caught.value.bound == "deadline"
