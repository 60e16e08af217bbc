"""Streams: values and order, leaving early, closing, and what is left afterwards."""

import asyncio
import gc

import pytest

from aiopool import Pool, Stream
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import Numbers, Source, double, settled, turns


class Bang(Exception):
    pass


async def odd_fails(x):
    if x % 2:
        raise ValueError(x)
    return x


async def collected(stream):
    return [value async for value in stream]


async def nothing_left(pool, shop):
    assert not shop.inside
    await settled(pool)
    assert await pool.run(double, 1) == 2


# --- values and order -----------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("buffersize", [None, 1, 3, 1000])
@pytest.mark.parametrize("place", ["loop", "thread", "process", "inline"])
async def test_all_values(ordered, buffersize, place):
    """A stream yields the value of every item once, in input order if it is ordered."""
    backend = "inline" if place == "inline" else None
    fn, options = jobs.inc, {"on": place}
    if place == "loop":
        fn = jobs.inc_async
    elif place == "inline":
        options = {}
    async with Pool(1, backend=backend) as pool:
        stream = pool.stream(fn, range(300), ordered=ordered, buffersize=buffersize, **options)
        values = await collected(stream)
    assert (values if ordered else sorted(values)) == list(range(1, 301))


async def test_ordered_and_not(shop):
    """An ordered stream waits for the first result, an unordered one yields what is there."""
    async with Pool() as pool:
        for ordered in (True, False):
            shop.__init__()
            async with pool.stream(shop.work, range(3), ordered=ordered) as results:
                await shop.has_started(0, 1, 2)
                shop.let(2)
                await wait_until(lambda: 2 in shop.ended)
                if not ordered:
                    assert await anext(results) == 2
                shop.let(1)
                await wait_until(lambda: 1 in shop.ended)
                shop.let(0)
                assert await collected(results) == ([0, 1, 2] if ordered else [1, 0])


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_empty_input(ordered):
    """A stream over nothing yields nothing."""

    async def none():
        for x in ():
            yield x

    async with Pool() as pool:
        for empty in ([], iter(()), none()):
            assert await collected(pool.stream(double, empty, ordered=ordered)) == []
            async with pool.stream(double, []) as results:
                pass
            assert await collected(results) == []


async def test_several_iterables():
    """Several iterables, plain or async, are walked together and end with the shortest."""

    async def plus(a, b, c):
        return a + b + c

    source = Source()
    async with Pool() as pool:
        stream = pool.stream(plus, [1, 2, 3], source.items(), (x for x in (10, 20)))
        assert await collected(stream) == [11, 23]
    assert source.closed


async def test_a_stream_is_of_a_type():
    """stream gives a Stream, which starts nothing before it is used."""
    numbers = Numbers()
    async with Pool() as pool:
        stream = pool.stream(double, numbers)
        assert isinstance(stream, Stream)
        await turns(20)
        assert numbers.pulled == 0
    del stream
    gc.collect()


async def test_several_consumers():
    """Of several tasks that take from one stream none hangs, and each value comes once."""
    async with Pool() as pool:
        stream = pool.stream(double, range(200), buffersize=7)
        taking = [asyncio.ensure_future(collected(stream)) for _ in range(3)]
        _, pending = await asyncio.wait(taking, timeout=3)
        assert not pending
        refused = [task for task in taking if task.exception() is not None]
        assert all(isinstance(task.exception(), RuntimeError) for task in refused)
        values = [x for task in taking if task not in refused for x in task.result()]
        assert sorted(values) == list(range(0, 400, 2))


# --- failures -------------------------------------------------------------------------------


async def test_a_failure_comes_in_its_place():
    """A failure is raised plain after the results before it, and ends the stream."""
    async with Pool() as pool:
        got = []
        stream = pool.stream(odd_fails, [0, 2, 4, 5, 6])
        with pytest.raises(ValueError) as caught:
            async for value in stream:
                got.append(value)
        assert got == [0, 2, 4] and caught.value.args == (5,)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_failure_stops_the_rest(shop):
    """When the failure is raised what else ran has stopped, and the input is closed."""
    source = Source()

    async def work(x):
        if x == 1:
            await shop.has_started(0, 2)
            raise Bang
        return await shop.work(x)

    async with Pool() as pool:
        with pytest.raises(Bang):
            async for _ in pool.stream(work, source.items(), ordered=False):
                pass
        assert not shop.inside and source.closed
        await nothing_left(pool, shop)


@pytest.mark.parametrize("place", ["loop", "process"])
async def test_return_exceptions(place):
    """With return_exceptions failures are yielded in their place and end nothing."""
    fn = odd_fails if place == "loop" else jobs.fail_if_odd
    async with Pool(1) as pool:
        values = await collected(pool.stream(fn, range(6), return_exceptions=True))
    assert values[::2] == [0, 2, 4]
    assert [(type(error), error.args) for error in values[1::2]] == [
        (ValueError, (1,)),
        (ValueError, (3,)),
        (ValueError, (5,)),
    ]


@pytest.mark.parametrize("where", ["plain", "async"])
@pytest.mark.parametrize("ordered", [True, False])
async def test_an_input_that_raises(where, ordered):
    """What an input raises comes after all results of the items before it."""
    source = Source(error_at=5)

    def items():
        yield from range(5)
        raise LookupError("the input broke")

    async with Pool() as pool:
        got = []
        given = items() if where == "plain" else source.items()
        with pytest.raises(LookupError, match="the input broke"):
            async with pool.stream(double, given, ordered=ordered) as results:
                async for value in results:
                    got.append(value)
        assert sorted(got) == [0, 2, 4, 6, 8]
        await settled(pool)
        assert source.closed is (where == "async")


async def test_outcomes_of_an_input_that_raises():
    """outcomes() raises what the input raised, after all outcomes."""
    async with Pool() as pool:
        got = []
        with pytest.raises(LookupError):
            async for outcome in pool.stream(odd_fails, Source(error_at=4).items()).outcomes():
                got.append(outcome.ok)
        assert got == [True, False, True, False]


@pytest.mark.parametrize("where", ["plain", "async", "second"])
async def test_a_map_whose_input_raises(shop, where):
    """A map whose input raises ends with that error, once what it had started has ended."""

    def items():
        yield 0
        yield 1
        raise LookupError("the input broke")

    given = {
        "plain": lambda: (items(),),
        "async": lambda: (Source(error_at=2).items(),),
        "second": lambda: (range(10), items()),
    }[where]()
    ran = []

    async def work(*args):
        ran.append(args[-1])
        await asyncio.sleep(0)

    async with Pool() as pool:
        with pytest.raises(LookupError, match="the input broke"):
            await pool.map(work, *given)
        await settled(pool)
        assert ran == [0, 1]


class NoIterator:
    def __iter__(self):
        raise LookupError("the input broke")


class NoAsyncIterator:
    def __aiter__(self):
        raise LookupError("the input broke")


@pytest.mark.parametrize("given", [NoIterator, NoAsyncIterator])
async def test_an_input_that_cannot_begin(given):
    """An input whose iteration cannot begin fails the map or stream, and nothing else."""
    async with Pool() as pool:
        with pytest.raises(LookupError, match="the input broke"):
            await pool.map(double, given())
        with pytest.raises(LookupError, match="the input broke"):
            await collected(pool.stream(double, given()))
        await asyncio.wait_for(settled(pool), 5)
        assert await pool.run(double, 1) == 2


@pytest.mark.parametrize("raised", [asyncio.CancelledError, GeneratorExit, StopIteration])
async def test_an_input_that_raises_something_odd(raised):
    """An input that raises what looks like control flow ends the stream with an error."""

    def items():
        yield 0
        raise raised

    async with Pool() as pool:
        with pytest.raises((RuntimeError, raised)):
            await asyncio.wait_for(collected(pool.stream(double, items())), 10)
        assert asyncio.current_task().cancelling() == 0
        await settled(pool)
