"""Streams left early, closed, dropped, or overtaken by the end of their pool."""

import asyncio
import gc

import pytest

from aiopool import Pool, PoolClosed
from tests.helpers import wait_until
from tests.run.support import Numbers, Source, double, ended, settled, turns
from tests.run.test_streams import Bang, collected, nothing_left

# --- leaving early --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "raise", "return"])
@pytest.mark.parametrize("ordered", [True, False])
async def test_leaving_the_block_early(shop, how, ordered):
    """Leaving the block early cancels what is left and closes the input before it is left."""
    source = Source()
    shop.let(0, 1)

    async def use(pool):
        stream = pool.stream(shop.work, source.items(), ordered=ordered, buffersize=5)
        async with stream as results:
            async for value in results:
                if value == 1:
                    await shop.has_started(2, 3)
                    if how == "raise":
                        raise Bang
                    if how == "return":
                        return
                    break

    async with Pool() as pool:
        try:
            await use(pool)
        except Bang:
            assert how == "raise"
        assert source.closed
        assert not shop.inside
        await nothing_left(pool, shop)


async def test_leaving_without_a_block(shop):
    """A stream that is broken off and dropped without a block is cancelled soon after."""
    source = Source()
    shop.let(0)
    async with Pool() as pool:
        async for _ in pool.stream(shop.work, source.items(), buffersize=5):
            await shop.has_started(1, 2)
            break
        gc.collect()
        await wait_until(lambda: source.closed and not shop.inside)
        await nothing_left(pool, shop)


async def test_leaving_outcomes_early(shop):
    """Leaving the loop over outcomes() and then the block cancels what is left."""
    source = Source()
    shop.let(0)
    async with Pool() as pool:
        async with pool.stream(shop.work, source.items(), buffersize=5) as results:
            async for outcome in results.outcomes():
                assert outcome.value == 0
                await shop.has_started(1, 2)
                break
        assert source.closed and not shop.inside
        await nothing_left(pool, shop)


async def test_a_stream_never_used():
    """A stream that is never iterated leaves its input untouched and warns of nothing."""
    source = Source()
    items = source.items()
    async with Pool() as pool:
        stream = pool.stream(double, items)
        del stream
        gc.collect()
        await settled(pool)
        async with pool.stream(double, Numbers()):
            pass
    await items.aclose()
    assert source.pulled == 0


async def test_closing_twice(shop):
    """aclose may be called twice, and iterating a closed stream ends at once."""
    async with Pool() as pool:
        stream = pool.stream(shop.work, range(10))
        async with stream:
            await shop.has_started(0)
            await stream.aclose()
            assert not shop.inside
            await stream.aclose()
        assert await collected(stream) == []
        assert [o async for o in stream.outcomes()] == []
        await nothing_left(pool, shop)


async def test_closing_at_once_by_two(shop):
    """Two tasks may close a stream at once, and both return when all has stopped."""
    may_end = asyncio.Event()

    async def slow(x):
        try:
            await shop.work(x)
        finally:
            await may_end.wait()

    async with Pool() as pool:
        stream = pool.stream(slow, range(3))
        await stream.__aenter__()
        await shop.has_started(0, 1, 2)
        closing = [asyncio.ensure_future(stream.aclose()) for _ in range(2)]
        await turns()
        assert not any(task.done() for task in closing)
        may_end.set()
        await asyncio.gather(*closing)


async def test_closing_a_stream_that_was_not_started():
    """aclose of a stream that was not started is no mistake, and entering it afterwards is one."""
    async with Pool() as pool:
        stream = pool.stream(double, [1])
        await stream.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            async with stream:
                pass
        assert await collected(stream) == []


async def test_closing_while_another_task_takes(shop):
    """A task that waits for a value of a stream which another closes is woken."""
    async with Pool() as pool:
        stream = pool.stream(shop.work, range(3))
        taking = asyncio.ensure_future(collected(stream))
        await shop.has_started(0, 1, 2)
        await stream.aclose()
        done, _ = await asyncio.wait([taking], timeout=5)
        assert done, "it waits for ever"
        assert taking.exception() is not None or taking.result() == []
        await nothing_left(pool, shop)


async def test_a_cancelled_consumer(shop):
    """Cancelling the consumer of a stream ends with its work stopped and its input closed."""
    source = Source()
    async with Pool() as pool:

        async def consume():
            async with pool.stream(shop.work, source.items()) as results:
                await collected(results)

        task = asyncio.ensure_future(consume())
        await shop.has_started(0, 1)
        task.cancel()
        await ended(task)
        assert task.cancelled() and source.closed
        await nothing_left(pool, shop)


# --- the pool closes first ------------------------------------------------------------------


@pytest.mark.parametrize("given", ["plain", "async"])
async def test_the_pool_drains_while_a_stream_is_open(shop, given):
    """Draining does not wait for a consumer: the stream yields what was pulled and then fails."""
    source, numbers = Source(), Numbers()
    async with Pool() as pool:
        items = numbers if given == "plain" else source.items()
        async with pool.stream(shop.work, items, buffersize=3) as results:
            await shop.has_started(0, 1, 2)
            shop.open()
            await asyncio.wait_for(pool.aclose(), 20)
            got = []
            with pytest.raises(PoolClosed):
                async for value in results:
                    got.append(value)
            assert got[:3] == [0, 1, 2]
        assert source.closed is (given == "async")


async def test_the_pool_is_cut_short_while_a_stream_is_open(shop):
    """Closing without draining ends an open stream with PoolClosed."""
    source = Source()
    async with Pool() as pool, pool.stream(shop.work, source.items()) as results:
        await shop.has_started(0, 1, 2)
        taking = asyncio.ensure_future(anext(results))
        await turns()
        await pool.aclose(drain=False)
        await ended(taking)
        assert isinstance(taking.exception(), PoolClosed)
    assert source.closed and not shop.inside


async def test_a_stream_left_open_when_the_pool_closes(shop):
    """A stream still held when its pool closes keeps no task alive, and its input is closed."""
    source = Source()
    async with Pool() as pool:
        stream = pool.stream(shop.work, source.items(), buffersize=3)
        await stream.__aenter__()
        await shop.has_started(0, 1, 2)
        shop.open()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=2)
    assert all(task.done() for task in others), others
    assert source.closed
    await stream.aclose()


async def test_a_stream_that_had_all_its_input_is_drained(shop):
    """A stream that had pulled its whole input before the pool drained yields all of it."""
    shop.open()
    async with Pool() as pool:
        stream = pool.stream(shop.work, range(5), buffersize=10)
        await stream.__aenter__()
        await shop.has_started(0, 1, 2, 3, 4)
    assert await collected(stream) == [0, 1, 2, 3, 4]


async def test_a_stream_is_used_after_its_pool_closed():
    """A stream made before its pool closed and used after is refused with PoolClosed."""
    async with Pool() as pool:
        stream = pool.stream(double, [1, 2])
    with pytest.raises(PoolClosed):
        await collected(stream)


async def test_stopping_a_stream(shop):
    """A stream that is stopped yields what has finished, and then ends."""
    shop.let(0, 1)
    async with Pool() as pool:
        async with pool.stream(shop.work, range(9), ordered=False, limit=3) as results:
            await shop.has_started(2, 3, 4)
            results.stop()
            assert sorted([value async for value in results]) == [0, 1]
            assert not shop.inside
        await nothing_left(pool, shop)


async def test_stopping_a_stream_that_has_not_begun(shop):
    """A stream that is stopped before it has begun, or while it waits for room, yields nothing."""
    async with Pool(limit=1, max_pending=1) as pool:
        stream = pool.stream(shop.work, [0])
        stream.stop()
        assert [value async for value in stream] == []
        handles = [pool.submit(shop.work, number) for number in (1, 2)]
        stream = pool.stream(shop.work, [3])
        task = asyncio.ensure_future(collected(stream))
        await turns(5)
        assert not task.done()
        stream.stop()
        shop.let(1, 2)
        assert await task == []
        await asyncio.gather(*handles)
        assert 3 not in shop.started
