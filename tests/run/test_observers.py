"""Observers are told what happens, each fact once, and can disturb nothing."""

import asyncio

import pytest

from aiopool import Pool, Retry, TaskTimeout, WorkerCrashed, events
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import double, ended, forever, settled, turns


class Observer(list):
    def __call__(self, event):
        self.append(event)

    def of(self, kind):
        return [event for event in self if type(event) is kind]


@pytest.fixture
def seen():
    """Give an observer that keeps what it is told."""
    return Observer()


async def test_a_call_that_returns(seen):
    """A call that returned is told once, with name, index, attempt and seconds."""
    async with Pool(observers=[seen]) as pool:
        await pool.run(double, 1, name="twice")
    (event,) = seen
    assert type(event) is events.TaskFinished
    assert (event.task, event.index, event.attempt, event.pid) == ("twice", 0, 1, None)
    assert event.seconds >= 0 and event.at > 0


async def test_a_map(seen):
    """Every item of a map is told with its place in the input."""
    async with Pool(observers=[seen]) as pool:
        await pool.map(double, range(5))
    assert sorted(event.index for event in seen.of(events.TaskFinished)) == [0, 1, 2, 3, 4]


async def test_a_map_in_processes(seen):
    """Items in worker processes are told with the process that ran them."""
    async with Pool(1, observers=[seen]) as pool:
        await pool.map(jobs.inc, range(50))
    (started,), (stopped,) = seen.of(events.WorkerStarted), seen.of(events.WorkerEnded)
    finished = seen.of(events.TaskFinished)
    assert sorted(event.index for event in finished) == list(range(50))
    assert {event.pid for event in finished} == {started.pid} == {stopped.pid}
    assert stopped.crashed is False


async def test_a_call_that_fails(seen):
    """A final failure is told once, with the very error."""
    async with Pool(observers=[seen]) as pool:
        with pytest.raises(ValueError) as caught:
            await pool.run(jobs.fail, 1, on="thread")
    (event,) = seen
    assert type(event) is events.TaskFailed and event.error is caught.value


async def test_retries(seen):
    """Each attempt that is followed by another is told with its number, error and delay."""

    async def fail():
        raise ValueError

    async with Pool(observers=[seen]) as pool:
        policy = Retry(3, on=lambda _: 0.01)
        handle = pool.submit(fail, retry=policy)
        await ended(handle)
    assert [type(event) for event in seen] == [
        events.TaskRetrying,
        events.TaskRetrying,
        events.TaskFailed,
    ]
    assert [event.attempt for event in seen] == [1, 2, 3]
    assert [event.delay for event in seen[:2]] == [0.01, 0.01]


@pytest.mark.parametrize("when", ["queued", "running", "resting"])
async def test_cancellation(seen, shop, when):
    """A cancelled call is told once, whenever it was cancelled."""

    async def fail():
        raise ValueError

    async with Pool(limit=1, observers=[seen]) as pool:
        if when == "resting":
            handle = pool.submit(fail, retry=Retry(2, on=lambda _: 60.0), name="it")
            await wait_until(lambda: handle.state == "waiting")
        else:
            if when == "queued":
                pool.submit(shop.work, 1)
            handle = pool.submit(shop.work, 2, name="it")
            await shop.has_started(1 if when == "queued" else 2)
        handle.cancel()
        await ended(handle)
        shop.open()
    assert [event.task for event in seen.of(events.TaskCancelled)] == ["it"]


@pytest.mark.parametrize("bound", ["timeout", "deadline"])
async def test_time_out(seen, bound):
    """A call that ran out of time is told as failed with TaskTimeout."""
    async with Pool(observers=[seen]) as pool:
        with pytest.raises(TaskTimeout):
            await pool.run(forever, **{bound: 0.02})
    (event,) = seen
    assert type(event) is events.TaskFailed and isinstance(event.error, TaskTimeout)


async def test_a_crash(seen):
    """A worker that dies is told as crashed, its call as failed."""
    async with Pool(1, observers=[seen]) as pool:
        with pytest.raises(WorkerCrashed):
            await pool.run(jobs.exit_with, 3)
        assert await pool.run(jobs.inc, 1) == 2
    assert [event.crashed for event in seen.of(events.WorkerEnded)] == [True, False]
    assert len(seen.of(events.WorkerStarted)) == 2
    (failed,) = seen.of(events.TaskFailed)
    assert isinstance(failed.error, WorkerCrashed)


async def test_a_limiter_is_not_told(seen):
    """A call that goes through a limiter is told once, as any other."""
    async with Pool(observers=[seen]) as pool:
        await pool.map(double, range(3), limiter=asyncio.Semaphore(2))
    assert sorted(event.index for event in seen) == [0, 1, 2]


async def test_several_observers(seen):
    """Every observer is told the same events in the same order."""
    other = Observer()
    async with Pool(observers=(seen, other)) as pool:
        await pool.map(double, range(3))
    assert seen == other and len(seen) == 3


async def test_an_observer_that_raises(seen, caplog):
    """An observer that raises is logged and disturbs neither calls nor other observers."""

    def broken(event):
        raise RuntimeError("the observer broke")

    async with Pool(1, observers=[broken, seen]) as pool:
        assert await pool.run(double, 1) == 2
        assert await pool.map(jobs.inc, range(3)) == [1, 2, 3]
        handle = pool.submit(forever)
        await turns()
        handle.cancel()
        await ended(handle)
    assert len(seen.of(events.TaskFinished)) == 4
    text = caplog.text
    caplog.clear()  # its records hold frames, which hold the worker's pipes
    assert "the observer broke" in text


async def test_an_observer_that_uses_the_pool():
    """An observer may submit to the pool it observes."""
    submitted = []

    def observer(event):
        if len(submitted) < 3:
            submitted.append(pool.submit(double, len(submitted)))

    async with Pool(limit=1, observers=[observer]) as pool:
        await pool.run(double, 1)
        await wait_until(lambda: len(submitted) == 3)
        assert await asyncio.gather(*submitted) == [0, 2, 4]
        await settled(pool)


async def test_events_are_frozen(seen):
    """An event cannot be changed, because all observers get the same one."""
    async with Pool(observers=[seen]) as pool:
        await pool.run(double, 1)
    with pytest.raises(AttributeError):
        seen[0].task = "other"


async def test_events_and_statistics_agree(seen, shop):
    """What observers were told adds up to the pool's statistics."""
    async with Pool(limit=2, observers=[seen]) as pool:
        tasks = [
            asyncio.ensure_future(pool.map(double, range(10))),
            asyncio.ensure_future(pool.run(jobs.fail, 1, on="thread")),
            asyncio.ensure_future(pool.run(shop.work, 1)),
        ]
        await shop.has_started(1)
        tasks[2].cancel()
        await asyncio.wait(tasks)
        tasks[1].exception()
        now = pool.statistics()
    assert (now.done, now.failed, now.cancelled) == (10, 1, 1)
    assert len(seen.of(events.TaskFinished)) == now.done
    assert len(seen.of(events.TaskFailed)) == now.failed
    assert len(seen.of(events.TaskCancelled)) == now.cancelled
