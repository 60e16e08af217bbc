"""run, submit, map, starmap: values, order, names, and what the pool says of itself."""

import asyncio
import functools
import threading

import pytest

from aiopool import Pool
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import double, raises_plain, settled, turn_then


async def boom(x):
    raise ValueError(x)


class Caller:
    async def __call__(self, x):
        return x + 1


class Plain:
    def __call__(self, x):
        return x + 1


# --- run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "args", "options", "expected"),
    [
        (double, (4,), {}, 8),
        (functools.partial(double, 4), (), {}, 8),
        (functools.partial(turn_then, x="by keyword"), (), {}, "by keyword"),
        (Caller(), (4,), {}, 5),
        (Caller().__call__, (4,), {}, 5),
        (jobs.add, (1, 2), {"on": "thread"}, 3),
        (jobs.add, (1, 2), {}, 3),
        (Plain(), (1,), {}, 2),
        (functools.partial(jobs.add, b=5), (1,), {}, 6),
        (double, (4,), {"on": "loop"}, 8),
        (lambda x, _: turn_then(x), (7, 0), {"on": "loop"}, 7),
        (double, ([1],), {}, [1, 1]),
        (jobs.echo, (None,), {}, None),
    ],
)
async def test_run_returns_the_value(fn, args, options, expected):
    """run returns what the call returned, for every kind of callable and every place."""
    async with Pool(backend="inline") as pool:
        assert await pool.run(fn, *args, **options) == expected


async def test_run_raises_the_very_error():
    """What a coroutine call raised comes out of run as it is, not in a group and not wrapped."""
    error = KeyError("mine")

    async def fail():
        raise error

    async with Pool() as pool:
        with pytest.raises(KeyError) as caught:
            await pool.run(fail)
    assert caught.value is error


async def test_run_in_a_process():
    """A plain function runs in another process, an async one in this."""
    import os

    async def here():
        return os.getpid()

    async with Pool(1) as pool:
        assert await pool.run(jobs.pid) != os.getpid()
        assert await pool.run(here) == os.getpid()


async def test_run_in_a_thread():
    """With on="thread" a call runs in this process and in another thread."""
    async with Pool() as pool:
        assert await pool.run(threading.get_ident, on="thread") != threading.get_ident()


async def test_runs_at_the_same_time():
    """Coroutine calls run at the same time, up to the pool's limit."""
    barrier = asyncio.Barrier(3)

    async def meet():
        await barrier.wait()

    async with Pool(limit=3) as pool:
        await asyncio.gather(*(pool.run(meet) for _ in range(3)))


@pytest.mark.parametrize(
    "raised", [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration]
)
async def test_a_lethal_exception_in_a_thread_is_a_remote_error(raised):
    """What would stop the loop arrives from a thread as a RemoteError that names it."""
    from aiopool import RemoteError

    async with Pool() as pool:
        with pytest.raises(RemoteError, match=raised.__name__):
            await pool.run(jobs.raise_type, raised, on="thread")
        assert await pool.run(jobs.inc, 1, on="thread") == 2


async def test_a_coroutine_that_cancels_itself_is_a_remote_error():
    """A call that raises CancelledError unasked does not look like its caller's cancellation."""
    from aiopool import RemoteError

    async def cancel_self():
        raise asyncio.CancelledError

    async with Pool() as pool:
        with pytest.raises(RemoteError):
            await pool.run(cancel_self)


async def test_context_variables_travel():
    """A call on the loop or in a thread sees its submitter's context variables, not later ones."""
    from contextvars import ContextVar

    variable = ContextVar("variable")
    variable.set("submitted")

    async def read():
        return variable.get()

    async with Pool() as pool:
        handles = [pool.submit(read), pool.submit(variable.get, on="thread")]
        variable.set("later")
        assert await asyncio.gather(*handles) == ["submitted"] * 2


# --- map ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"on": "thread"}], ids=["process", "thread"])
async def test_map_keeps_the_order(options):
    """map returns the results in input order."""
    async with Pool(2) as pool:
        assert await pool.map(jobs.inc, range(500), **options) == list(range(1, 501))


async def test_map_order_does_not_depend_on_who_is_first(shop):
    """map returns the results in input order though they came in another."""
    async with Pool() as pool:
        mapping = asyncio.ensure_future(pool.map(shop.work, range(5)))
        await shop.has_started(*range(5))
        for x in (3, 1, 4, 0, 2):
            shop.let(x)
            await wait_until(lambda x=x: x in shop.ended)
        assert await mapping == [0, 1, 2, 3, 4]
        assert shop.ended == [3, 1, 4, 0, 2]


@pytest.mark.parametrize(
    ("iterables", "expected"),
    [
        (([1, 2, 3], [10, 20, 30]), [11, 22, 33]),
        (([1, 2, 3], [10]), [11]),
        (({1: "a", 2: "b"}, b"xy"), [121, 123]),
        (([], [1]), []),
        ((range(3), {0: "a", 1: "b", 2: "c"}), [0, 2, 4]),
    ],
)
async def test_map_zips(iterables, expected):
    """Several iterables are walked together and end with the shortest."""

    async def plus(a, b):
        return a + b

    async with Pool() as pool:
        assert await pool.map(plus, *iterables) == expected


async def test_map_passes_a_tuple_as_one_argument():
    """An item of a single iterable is one argument, even if it is a tuple."""
    async with Pool(backend="inline") as pool:
        assert await pool.map(len, [(1, 2), (3,)]) == [2, 1]


async def test_map_zips_iterators():
    """Iterators and generators are walked together and end with the shortest."""

    async def plus(a, b):
        return a + b

    async with Pool() as pool:
        assert await pool.map(plus, iter([1, 2]), (x for x in (10, 20, 30))) == [11, 22]


async def test_starmap_spreads():
    """starmap calls the function with each item as its arguments, whatever kind of rows."""
    async with Pool(backend="inline") as pool:
        assert await pool.starmap(jobs.add, [(1, 2), [3, 4]]) == [3, 7]
        assert await pool.starmap(jobs.add, iter([(1, 2), (3, 4)])) == [3, 7]
        assert await pool.starmap(jobs.add, [(1, 2), (x for x in (3, 4))]) == [3, 7]


async def test_starmap_in_processes_and_from_async_input():
    """starmap takes its rows from an async generator too, and works in processes."""

    async def rows():
        yield 1, 2
        yield 3, 4

    async with Pool(1) as pool:
        assert await pool.starmap(jobs.add, rows()) == [3, 7]


async def test_starmap_names_the_item_that_is_no_row():
    """A starmap item that is not iterable fails the map with its place and value."""
    async with Pool(backend="inline") as pool:
        with pytest.raises(TypeError, match="item 1 is 5"):
            await pool.starmap(jobs.add, [(1, 2), 5])


@pytest.mark.parametrize("options", [{}, {"return_exceptions": True}])
async def test_map_of_nothing(options):
    """map over an empty input returns an empty list and calls nothing."""
    async with Pool() as pool:
        assert await pool.map(boom, [], **options) == []
        assert await pool.map(boom, iter(()), **options) == []


async def test_map_of_nothing_in_processes(gate):
    """map over an empty input waits for no worker, neither a new one nor a busy one."""
    async with Pool(1) as pool:
        assert await asyncio.wait_for(pool.map(jobs.inc, []), 10) == []
        assert [x async for x in pool.stream(jobs.inc, [])] == []
        handle = pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        for nothing in ([], iter(()), range(0)):
            assert await asyncio.wait_for(pool.map(jobs.inc, nothing), 10) == []
        gate.open()
        await handle


async def test_map_raises_the_first_failure_plain(shop):
    """The first final failure of a map comes out plain, after the other calls were stopped."""
    async with Pool() as pool:

        async def work(x):
            if x == 1:
                await shop.has_started(0, 2)
                raise ValueError(x)
            return await shop.work(x)

        with raises_plain(ValueError, 1):
            await pool.map(work, [0, 1, 2])
        assert sorted(shop.ended) == [0, 2]


async def test_map_starts_nothing_after_a_failure():
    """After a failure a map takes no more of its input."""
    called = []

    async def work(x):
        called.append(x)
        if x == 2:
            raise ValueError(x)

    async with Pool(limit=1) as pool:
        with pytest.raises(ValueError):
            await pool.map(work, range(100))
        await settled(pool)
    assert called == [0, 1, 2]


@pytest.mark.parametrize("place", ["loop", "thread", "process"])
async def test_map_returns_exceptions_in_place(place):
    """With return_exceptions failures stand where their results would."""
    fn = {"loop": boom}.get(place, jobs.fail_if_odd)
    async with Pool(1) as pool:
        results = await pool.map(fn, range(4), return_exceptions=True, on=place)
    kinds = [type(result) for result in results]
    even = ValueError if place == "loop" else int
    assert kinds == [even, ValueError, even, ValueError]
    assert [error.args for error in results[1::2]] == [(1,), (3,)]


async def test_map_from_async_input():
    """map takes async iterables, alone and mixed with plain ones."""

    async def letters():
        for letter in "abc":
            yield letter

    async def join(a, b):
        return f"{a}{b}"

    async with Pool() as pool:
        assert await pool.map(turn_then, letters()) == ["a", "b", "c"]
        assert await pool.map(join, letters(), range(10)) == ["a0", "b1", "c2"]
        assert await pool.map(join, range(2), letters()) == ["0a", "1b"]
