"""Callers of the same function and key share one call, and leave it one by one."""

import asyncio
import gc
import threading
import traceback
import weakref
from functools import partial

import pytest

from aiopool import Pool, PoolClosed, Priority, Retry, TaskTimeout
from tests import jobs
from tests.helpers import PATIENCE, wait_until
from tests.run.support import double, ended, forever, hold_back, is_cancelled, settled, sweep, turns


def ask(pool, fn, *args, key="key", **options):
    return asyncio.ensure_future(pool.run(fn, *args, key=key, **options))


async def test_callers_share_one_call(shop):
    """Callers that come while a call runs have its value, and it is made once."""
    async with Pool() as pool:
        callers = [ask(pool, shop.work, x) for x in range(5)]
        await shop.has_started(0)
        late = ask(pool, shop.work, 99)
        await turns()
        shop.open()
        assert await asyncio.gather(*callers, late) == [0] * 6
        assert shop.started == [0]
        assert pool.statistics().done == 1


async def test_the_key_is_free_when_the_call_is_done():
    """A value is not kept: who comes after the call has its own."""
    async with Pool() as pool:
        assert await pool.run(double, 1, key=1) == 2
        assert await pool.run(double, 2, key=1) == 4
        assert pool._parts.joints == {}


async def test_another_key_or_function_is_another_call():
    """Only calls of the same function and the same key are shared."""
    async with Pool() as pool:
        calls = [(double, 1, "a"), (double, 2, "b"), (jobs.inc_async, 3, "a")]
        values = await asyncio.gather(*(pool.run(fn, x, key=key) for fn, x, key in calls))
    assert values == [2, 4, 4]


class Table:
    def __init__(self, name):
        self.name = name

    async def load(self, x=0):
        await turns()
        return self.name, x


def wrapped(fn):
    async def wrapper():
        await turns()
        return fn

    return wrapper


def made_anew():
    return lambda: object()  # noqa: PLW0108 - it is the lambda that counts


async def test_what_counts_as_the_same_function():
    """Partials and lambdas made anew are the same, other owners and other closures are not."""
    one, two = Table(1), Table(2)
    async with Pool() as pool:
        same = [partial(one.load, 5), partial(one.load, x=6), one.load]
        assert await asyncio.gather(*(pool.run(fn, key=0) for fn in same)) == [(1, 5)] * 3
        others = [one.load, two.load, wrapped("a"), wrapped("b")]
        values = await asyncio.gather(*(pool.run(fn, key=0) for fn in others))
        assert values == [(1, 0), (2, 0), "a", "b"]
        lambdas = [made_anew() for _ in range(2)]
        first, second = await asyncio.gather(*(pool.run(fn, key=0, on="thread") for fn in lambdas))
        assert first is second


def of_module(name):
    """Give the function of a file whose lines are those of other files, too."""
    namespace = {"turns": turns, "NAME": name}
    exec("async def load():\n    await turns()\n    return NAME", namespace)
    return namespace["load"]


def bound_by_default(x):
    async def load(x=x, *, y=0):
        await turns()
        return x

    async def load_by_name(*, x=x):
        await turns()
        return x

    return load, load_by_name


async def test_equal_lines_are_not_the_same_function():
    """Functions of equal code whose globals or defaults differ are not the same."""
    async with Pool() as pool:
        bound = zip(*map(bound_by_default, (1, 2)), strict=True)
        for one, two in [(of_module(1), of_module(2)), *bound]:
            assert await asyncio.gather(pool.run(one, key=0), pool.run(two, key=0)) == [1, 2]


async def test_constant_defaults_are_the_same_function():
    """A function that is made anew with the same constant defaults is the same."""

    def anew():
        def make(x=10, y=(20, 30)):
            return object()

        return make

    async with Pool() as pool:
        one, two = (pool.run(fn, key=0, on="thread") for fn in (anew(), anew()))
        first, second = await asyncio.gather(one, two)
        assert first is second


async def test_a_caller_that_is_cancelled_leaves_alone(shop):
    """Cancelling one caller ends its wait at once and nobody else's."""
    async with Pool() as pool:
        first, second = ask(pool, shop.work, 1), ask(pool, shop.work, 2)
        await shop.has_started(1)
        first.cancel()
        await ended(first)
        assert first.cancelled()
        assert shop.inside == {1}
        shop.open()
        assert await second == 1


async def test_the_last_caller_stops_the_call():
    """When nobody waits any more the call is cancelled, and the last caller waits for its end."""
    cleaned = asyncio.Event()

    async def slow():
        try:
            await forever()
        finally:
            await turns(20)
            cleaned.set()

    async with Pool() as pool:
        callers = [ask(pool, slow) for _ in range(3)]
        await wait_until(lambda: pool.statistics().running == 1)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert cleaned.is_set()
        assert all(map(is_cancelled, callers))
        assert pool.statistics().cancelled == 1


async def test_who_comes_while_a_call_is_being_stopped_has_another(shop):
    """A call that nobody waits for any more is not joined."""
    stopping = asyncio.Event()

    async def stubborn(x):
        try:
            await shop.work(x)
        except asyncio.CancelledError:
            stopping.set()
            await turns(20)
            raise

    async with Pool() as pool:
        first = ask(pool, stubborn, 1)
        await shop.has_started(1)
        first.cancel()
        await stopping.wait()
        second = ask(pool, stubborn, 2)
        await shop.has_started(2)
        shop.open()
        await second
        assert is_cancelled(await ended(first))


async def test_a_failure_is_everybodys():
    """All callers get the one exception object, and its traceback does not grow with them."""

    async def fail():
        await turns()
        raise LookupError("no such row")

    depths = []

    async def caller(pool):
        try:
            await pool.run(fail, key=1)
        except LookupError as error:
            depths.append(len(traceback.extract_tb(error.__traceback__)))
            return error
        raise AssertionError

    async with Pool() as pool:
        errors = await asyncio.gather(*(caller(pool) for _ in range(20)))
    assert len(set(map(id, errors))) == 1
    assert len(set(depths)) == 1, depths


async def test_attempts_are_those_of_the_one_call():
    """Retries and timeouts are the first caller's, and count for the shared call."""
    attempts = []

    async def flaky():
        attempts.append(1)
        await turns()
        if len(attempts) < 3:
            raise OSError
        return "there"

    async with Pool() as pool:
        again = Retry(3, wait_initial=0.001, wait_jitter=0)
        callers = [ask(pool, flaky, retry=again), ask(pool, flaky), ask(pool, flaky, retry=None)]
        assert await asyncio.gather(*callers) == ["there"] * 3
        assert len(attempts) == 3
        late = [ask(pool, forever, timeout=0.01), ask(pool, forever, timeout=60)]
        errors = await asyncio.gather(*late, return_exceptions=True)
    assert [type(error) for error in errors] == [TaskTimeout] * 2
    assert errors[0] is errors[1]


async def test_joining_can_only_make_it_more_important(shop):
    """The lowest priority of all callers counts while the call waits."""
    order = []

    async def note(x):
        order.append(x)

    async with Pool(limit=1, aging=1000) as pool:
        await hold_back(pool, shop, 1)
        callers = [ask(pool, note, "shared", priority=Priority.LOW)]
        callers += [asyncio.ensure_future(pool.run(note, "normal"))]
        await turns()
        callers += [ask(pool, note, "shared", priority=priority) for priority in (-10, 15)]
        await turns()
        shop.open()
        await asyncio.gather(*callers)
    assert order == ["shared", "normal"]


async def test_joining_hurries_what_waits_for_room(shop):
    """A call that waits for room is let in, and runs, as its most important caller asks."""
    order = []

    async def note(x):
        order.append(x)

    async with Pool(limit=1, max_pending=2, aging=1000) as pool:
        await hold_back(pool, shop, 1)
        pool.submit(note, "first", priority=Priority.LOW)
        pool.submit(note, "second", priority=Priority.LOW)
        callers = [asyncio.ensure_future(pool.run(note, "normal"))]
        await turns()
        callers += [ask(pool, note, "shared", priority=Priority.IDLE)]
        await turns()
        callers += [ask(pool, note, "shared", priority=Priority.HIGH)]
        await turns()
        shop.open()
        await asyncio.gather(*callers)
        await settled(pool)
    assert order == ["first", "shared", "normal", "second"]


class Spoilt:
    """A key that can be hashed so many times."""

    def __init__(self, times):
        self.times = times

    def __hash__(self):
        self.times -= 1
        if self.times < 0:
            raise ValueError("spoilt")
        return 1


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_key_that_spoils_holds_up_nobody(leaves):
    """A key that can be hashed no more when the call ends costs no caller its answer."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with Pool() as pool:
        caller = ask(pool, forever if leaves else turns, key=Spoilt(3))
        await turns()
        if leaves:
            with pytest.raises(ValueError, match="spoilt"):
                caller.cancel()
        await asyncio.wait_for(ended(caller), PATIENCE)
        assert caller.done()


async def test_calls_that_lead_to_one_another_are_not_kept():
    """A call that had its successor begun is freed once it has ended, and so is its value."""
    values, ahead = [], []

    class Value:
        pass

    async def load(x):
        values.append(weakref.ref(value := Value()))
        asyncio.get_running_loop().call_soon(lambda: ahead.append(ask(pool, hold, x)))
        return value

    async def hold(x):
        await turns(3)
        del ahead[:]
        if x:
            ahead.append(ask(pool, load, x - 1))
        else:
            gc.collect()
            counts.append(sum(value() is not None for value in values))

    counts = []
    async with Pool() as pool:
        await ask(pool, load, 20)
        await wait_until(lambda: counts)
    assert len(values) == 21
    assert counts[0] <= 2


async def test_mistakes_are_told_to_whoever_makes_them(shop):
    """A key of no use, and options out of range, are refused, also of one who joins."""
    async with Pool() as pool:
        with pytest.raises(TypeError, match=r"key=\[1\]: must be hashable"):
            await pool.run(double, 1, key=[1])
        with pytest.raises(ValueError, match="timeout=-1"):
            await pool.run(double, 1, key=1, timeout=-1)
        first = ask(pool, shop.work, 1)
        await shop.has_started(1)
        with pytest.raises(TypeError, match="unknown option 'prio'"):
            await pool.run(shop.work, 1, key="key", prio=1)
        shop.open()
        await first
        for verb in (pool.submit, pool.map, pool.stream):
            with pytest.raises(TypeError, match="key is for run alone"):
                await verb(double, [1], key=1)
        assert pool._parts.joints == {}


async def test_joining_takes_no_place(shop):
    """With the backlog full a caller joins at once; and the first may leave while it waits."""
    async with Pool(limit=1, max_pending=1) as pool:
        [blocker] = await hold_back(pool, shop, 1)
        waiting = pool.submit(double, 1)
        first, second = ask(pool, double, 4), ask(pool, double, 5)
        await turns()
        assert pool.statistics().queued == {0: 1}
        first.cancel()
        assert is_cancelled(await ended(first))
        shop.open()
        assert await second == 8
        assert (await waiting, await blocker) == (2, "blocker0")


async def test_leaving_the_line_for_room(shop):
    """When all have left a call that waits for room it is never made."""
    async with Pool(limit=1, max_pending=1) as pool:
        await hold_back(pool, shop, 1)
        waiting = pool.submit(double, 1)
        callers = [ask(pool, shop.work, "never") for _ in range(2)]
        await turns()
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert all(map(is_cancelled, callers))
        assert pool._parts.joints == {}
        shop.open()
        await waiting
        await settled(pool)
    assert "never" not in shop.started


async def test_closing_while_a_shared_call_waits_for_room(shop):
    """A pool that closes refuses all who wait for room in one call, and drains what runs."""
    async with Pool(limit=1, max_pending=1) as pool:
        await hold_back(pool, shop, 1)
        running = pool.submit(double, 1)
        callers = [ask(pool, double, 4) for _ in range(2)]
        await turns()
        closing = asyncio.ensure_future(pool.aclose())
        await asyncio.wait(callers)
        assert [type(caller.exception()) for caller in callers] == [PoolClosed] * 2
        shop.open()
        await closing
        assert await running == 2


async def test_stopping_the_pool_stops_the_shared_call(shop):
    """All callers of a call that the pool's end stops are cancelled."""
    pool = Pool()
    async with pool:
        callers = [ask(pool, shop.work, 1) for _ in range(2)]
        await shop.has_started(1)
        await pool.aclose(drain=False)
        await asyncio.wait(callers)
    assert all(map(is_cancelled, callers))


@pytest.mark.parametrize("limit", [1, 2])
async def test_callers_that_are_calls_lend_their_places(limit):
    """Calls of a pool that share a call of it do not deadlock, at any limit."""
    async with Pool(limit=limit) as pool:

        async def outer(x):
            return x + await pool.run(double, 10, key="inner")

        assert await pool.map(outer, range(5)) == [20, 21, 22, 23, 24]


async def test_a_call_does_not_wait_for_itself():
    """A shared call that asks for its own key is told so instead of waiting for ever."""
    async with Pool() as pool:

        async def loop_back():
            return await pool.run(loop_back_by_name, key=1)

        async def loop_back_by_name():
            return await pool.run(step, key=1)

        async def step():
            return await pool.run(loop_back, key=1)

        with pytest.raises(RuntimeError, match="would wait for itself"):
            await pool.run(loop_back, key=1)


async def test_threads_are_shared_too():
    """A call in a thread is made once for all callers."""
    door, count = threading.Event(), []

    def work():
        count.append(1)
        door.wait()
        return len(count)

    async with Pool() as pool:
        callers = [ask(pool, work, on="thread") for _ in range(3)]
        await wait_until(lambda: count)
        door.set()
        assert await asyncio.gather(*callers) == [1, 1, 1]


async def test_cancelling_at_every_step():
    """Wherever a caller is cancelled, the others have their value and nothing is left behind."""
    async with Pool(limit=1) as pool:
        other = None

        async def scenario():
            nonlocal other
            other = ask(pool, double, 2)
            return await pool.run(double, 2, key="key")

        async def check(_task, _step):
            if other is not None:
                assert await other == 4
            await settled(pool)
            assert pool._parts.joints == {}

        assert await sweep(scenario, check) > 2
