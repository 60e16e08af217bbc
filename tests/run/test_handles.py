"""A TaskHandle is an asyncio.Future, and knows how its call fares."""

import asyncio

import pytest

from aiopool import Pool, Priority, Retry
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import double, ended, hold_back, outlast, settled, turns

AT_ONCE = Retry(3, wait_initial=0, wait_jitter=0)


# --- as a future ----------------------------------------------------------------------------


async def test_a_handle_is_a_future():
    """A handle is an asyncio.Future, done with the value of the call."""
    async with Pool() as pool:
        handle = pool.submit(double, 2)
        assert asyncio.isfuture(handle)
        assert isinstance(handle, asyncio.Future)
        assert not handle.done()
        assert await handle == 4
        assert handle.done() and handle.result() == 4 and handle.exception() is None
        assert await handle == 4, "it can be awaited again"


async def test_asyncio_wait():
    """asyncio.wait tells handles that are done from those that are not."""
    shop_open = asyncio.Event()
    async with Pool() as pool:
        first, second = pool.submit(double, 1), pool.submit(shop_open.wait)
        done, pending = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({first}, {second})
        shop_open.set()


async def test_asyncio_gather():
    """asyncio.gather gives handles' values in order, and their exceptions if asked to."""

    async def fail():
        raise ValueError("no")

    async with Pool() as pool:
        assert await asyncio.gather(*(pool.submit(double, x) for x in range(5))) == [0, 2, 4, 6, 8]
        good, bad = await asyncio.gather(
            pool.submit(double, 1), pool.submit(fail), return_exceptions=True
        )
        assert good == 2 and isinstance(bad, ValueError)


async def test_cancelling_a_gather_stops_the_calls(shop):
    """A cancelled asyncio.gather cancels the calls behind its handles."""
    async with Pool() as pool:
        handles = [pool.submit(shop.work, x) for x in range(3)]
        gathering = asyncio.gather(*handles)
        await shop.has_started(0, 1, 2)
        gathering.cancel()
        await asyncio.wait(handles)
        assert all(handle.cancelled() for handle in handles)
        with pytest.raises(asyncio.CancelledError):
            await gathering
        assert sorted(shop.ended) == [0, 1, 2]


async def test_asyncio_wait_for(shop):
    """asyncio.wait_for raises TimeoutError once the call has stopped."""
    async with Pool() as pool:
        assert await asyncio.wait_for(pool.submit(double, 1), 30) == 2
        handle = pool.submit(shop.work, 1)
        await shop.has_started(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle, 0.01)
        assert shop.ended == [1]
        assert handle.cancelled()


async def test_asyncio_shield(shop):
    """asyncio.shield keeps a cancelled waiter from stopping the call."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, 1)
        waiter = asyncio.ensure_future(asyncio.shield(handle))
        await shop.has_started(1)
        waiter.cancel()
        await ended(waiter)
        assert waiter.cancelled() and handle.state == "running"
        shop.open()
        assert await handle == 1


async def test_asyncio_as_completed(shop):
    """asyncio.as_completed gives results in the order in which calls end."""
    async with Pool() as pool:
        handles = [pool.submit(shop.work, x) for x in range(3)]
        await shop.has_started(0, 1, 2)
        order = []
        shop.let(1)
        for waiting in asyncio.as_completed(handles):
            order.append(await waiting)
            shop.let({1: 2, 2: 0}.get(order[-1]))
        assert order == [1, 2, 0]


async def test_done_callbacks():
    """A done callback is called once, with the handle, also if it is added late."""
    async with Pool() as pool:
        called = []
        handle = pool.submit(double, 1)
        handle.add_done_callback(called.append)
        await handle
        handle.add_done_callback(called.append)
        await turns()
        assert called == [handle, handle]
        assert called[0] is handle


async def test_awaiting_task_that_is_cancelled_cancels_the_call(shop):
    """Cancelling the task that awaits a handle stops the call before the task goes on."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, 1)

        async def wait():
            try:
                await handle
            finally:
                assert shop.ended == [1]

        waiter = asyncio.ensure_future(wait())
        await shop.has_started(1)
        waiter.cancel()
        await ended(waiter)
        assert waiter.cancelled() and handle.cancelled()


async def test_several_waiters():
    """Any number of tasks may await the same handle."""
    async with Pool() as pool:
        handle = pool.submit(double, 4)
        assert await asyncio.gather(*(asyncio.wait_for(handle, 30) for _ in range(3))) == [8] * 3


# --- cancel ---------------------------------------------------------------------------------


async def test_cancel_of_a_queued_call(shop):
    """Cancelling a queued call removes it before it starts."""
    async with Pool(limit=1) as pool:
        await hold_back(pool, shop, 1)
        handle = pool.submit(shop.work, "never")
        await turns()
        assert handle.cancel()
        assert (await ended(handle)).cancelled()
        shop.open()
        await settled(pool)
        assert "never" not in shop.started
        assert handle.attempts == 0
        assert pool.statistics().cancelled == 1


async def test_cancel_before_the_loop_turned(shop):
    """A call cancelled in the turn that submitted it never starts."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, "never")
        handle.cancel()
        await ended(handle)
    assert handle.cancelled() and shop.started == []


async def test_cancel_is_a_request():
    """A cancelled handle is done only when the call's clean-up has ended."""
    entered, cleaning, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work():
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await cleaned.wait()

    async with Pool() as pool:
        handle = pool.submit(work)
        await entered.wait()
        assert handle.cancel()
        await cleaning.wait()
        await turns()
        assert not handle.done() and handle.state == "running"
        cleaned.set()
        await ended(handle)
        assert handle.cancelled() and handle.state == "cancelled"


async def test_cancel_of_a_done_call():
    """cancel of a handle that is done says False and changes nothing."""
    async with Pool() as pool:
        handle = pool.submit(double, 1)
        await handle
        assert handle.cancel() is False
        assert handle.result() == 2 and handle.state == "done"


async def test_cancel_wins_over_a_value_that_comes_after_it():
    """A call that returns although it was cancelled leaves its handle cancelled."""
    entered = asyncio.Event()

    async def stubborn():
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "ignored"

    async with Pool() as pool:
        handle = pool.submit(stubborn)
        await entered.wait()
        handle.cancel()
        await ended(handle)
        assert handle.cancelled()


@pytest.mark.parametrize("first", ["end", "cancel"])
async def test_cancel_in_the_turn_the_call_ends(shop, first):
    """A call that ends in the loop turn of its cancellation has one outcome."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, 1)
        await shop.has_started(1)
        steps = [lambda: shop.let(1), handle.cancel]
        for step in steps if first == "end" else reversed(steps):
            step()
        await ended(handle)
        assert handle.cancelled() or handle.result() == 1
        assert await pool.run(double, 1) == 2
        assert pool.statistics().running == 0


# --- what it knows --------------------------------------------------------------------------


async def test_states_of_a_call_that_returns(shop):
    """A handle goes from queued over running to done."""
    async with Pool(limit=1) as pool:
        await hold_back(pool, shop, 1)
        handle = pool.submit(shop.work, 1)
        await turns()
        assert (handle.state, handle.attempts) == ("queued", 0)
        shop.let("blocker0")
        await shop.has_started(1)
        assert (handle.state, handle.attempts) == ("running", 1)
        shop.let(1)
        await handle
        assert (handle.state, handle.attempts) == ("done", 1)


async def test_states_of_a_call_that_is_retried(shop):
    """A handle is waiting between attempts, and failed after the last."""
    async with Pool() as pool:
        handle = pool.submit(shop.fail, 1, retry=Retry(2, on=lambda _: 0.05))
        await shop.has_started(1)
        shop.open()
        await wait_until(lambda: handle.state == "waiting")
        assert handle.attempts == 1
        await ended(handle)
        assert (handle.state, handle.attempts) == ("failed", 2)
        assert handle.exception().args == (1,)


@pytest.mark.parametrize("place", ["thread", "process"])
async def test_states_elsewhere(gate, place):
    """A call in a thread or a process is running once it is there, and then done."""
    async with Pool(1) as pool:
        handle = pool.submit(jobs.gate, *gate.paths, on=place)
        pid = await gate.entered()
        assert handle.state == "running"
        gate.open()
        await handle
        assert handle.state == "done"
        assert handle.pid == (pid if place == "process" else None)


async def test_attempts_count():
    """attempts says how many attempts a call took."""
    left = [ValueError, ValueError]

    async def fail_twice():
        if left:
            raise left.pop()
        return "ok"

    async with Pool() as pool:
        handle = pool.submit(fail_twice, retry=AT_ONCE)
        assert await handle == "ok"
        assert handle.attempts == 3


async def test_durations(shop):
    """queued_for counts the waiting and ran_for the running, in seconds."""
    async with Pool(limit=1) as pool:
        await hold_back(pool, shop, 1)
        handle = pool.submit(shop.work, 1)
        assert handle.ran_for == 0
        await outlast(0.02)
        assert handle.queued_for >= 0.02
        shop.let("blocker0")
        await shop.has_started(1)
        await outlast(0.03)
        shop.let(1)
        await handle
        assert handle.ran_for >= 0.03
        assert handle.queued_for >= 0.02
        first = handle.queued_for
        await outlast(0.005)
        assert handle.queued_for == first, "it does not grow any more"


async def test_queued_for_does_not_grow_while_the_call_runs(shop):
    """A call that is running waits for nothing, so queued_for stands still."""
    async with Pool() as pool:
        handle = pool.submit(shop.work, 1)
        await shop.has_started(1)
        before = handle.queued_for
        await outlast(0.02)
        assert handle.queued_for == before
        shop.open()


async def test_priority_may_change_while_queued(shop):
    """A queued call that is given a more important priority overtakes."""
    async with Pool(limit=1, aging=1000) as pool:
        await hold_back(pool, shop, 1)
        shop.let("b", "c")
        handles = [pool.submit(shop.work, x) for x in "abc"]
        await turns()
        assert handles[2].priority == Priority.NORMAL
        handles[2].priority = Priority.HIGH
        assert handles[2].priority == -10
        handles[0].priority = Priority.LOW
        shop.open()
        await asyncio.gather(*handles)
        assert shop.started[1:] == ["c", "b", "a"]


async def test_priority_of_a_done_call_changes_nothing():
    """Setting the priority of a call that is done disturbs nothing."""
    async with Pool() as pool:
        handle = pool.submit(double, 1)
        await handle
        handle.priority = 5
        assert await pool.run(double, 2) == 4


@pytest.mark.parametrize("value", [1.5, "high", None, True])
async def test_priority_is_checked(value):
    """A priority that is no int is refused by name."""
    async with Pool() as pool:
        handle = pool.submit(double, 1)
        with pytest.raises(TypeError, match="priority="):
            handle.priority = value
        await handle


async def test_an_unretrieved_failure_is_told(complaints):
    """The failure of a call whose handle nobody looks at is not lost silently."""

    async def fail():
        raise ValueError("unseen")

    async with Pool() as pool:
        pool.submit(fail)
    del pool
    import gc

    gc.collect()
    await turns()
    assert [str(context["exception"]) for context in complaints] == ["unseen"]
    complaints.clear()
