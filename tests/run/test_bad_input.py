"""Mistakes of the caller: refused at the call, naming the value and the fix."""

import asyncio
import functools
import math
import threading

import pytest

from aiopool import NotTransferable, Pool, Retry
from tests import jobs
from tests.run.support import double, settled

NAN = math.nan


async def agen(x):
    yield x


class Unshowable:
    """Raises when shown."""

    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.fixture
async def pool():
    """Give a pool that runs plain calls inline."""
    async with Pool(backend="inline") as pool:
        yield pool
        await settled(pool)
        assert await pool.run(double, 1) == 2


async def refused(pool, verb, fn, *args, **options):
    """Use a verb; what is wrong has to be raised by the call itself, where that is not awaited."""
    if verb == "run":
        await pool.run(fn, *args, **options)
    elif verb == "submit":
        pool.submit(fn, *args, **options)
    elif verb == "map":
        await pool.map(fn, list(args), **options)
    elif verb == "stream":
        pool.stream(fn, list(args), **options)
    else:
        async with pool.task_group() as group:
            try:
                group.start_soon(fn, *args, **options)
            except (TypeError, ValueError) as error:
                mistake = error
            else:
                mistake = None
        if mistake is not None:
            raise mistake


VERBS = pytest.mark.parametrize("verb", ["run", "submit", "map", "stream", "start_soon"])


# --- the function ---------------------------------------------------------------------------


@VERBS
@pytest.mark.parametrize("fn", [None, 5, "print", [], object()])
async def test_what_cannot_be_called(pool, verb, fn):
    """What cannot be called is refused by name."""
    with pytest.raises(TypeError, match="cannot be called") as caught:
        await refused(pool, verb, fn, 1)
    assert repr(fn) in str(caught.value)


@VERBS
async def test_a_coroutine_object(pool, verb):
    """A coroutine made already is refused with the fix, and closed without a warning."""
    coroutine = double(1)
    with pytest.raises(TypeError, match=r"pass the function and its arguments.*double"):
        await refused(pool, verb, coroutine, 1)
    with pytest.raises(RuntimeError):
        coroutine.send(None)


@VERBS
async def test_an_async_generator_function(pool, verb):
    """An async generator function is refused with the fix."""
    with pytest.raises(TypeError, match="agen is an async generator function"):
        await refused(pool, verb, agen, 1)


@VERBS
@pytest.mark.parametrize("place", ["process", "thread"])
async def test_an_async_function_off_the_loop(pool, verb, place):
    """An async function asked to run in a process or thread is refused with the reason."""
    with pytest.raises(TypeError, match=f"double is an async function.*on='{place}'"):
        await refused(pool, verb, double, 1, on=place)


async def test_a_plain_function_on_the_loop(pool):
    """A plain function that returns no awaitable fails on the loop with the fix."""
    with pytest.raises(TypeError, match=r"cannot be awaited.*on='thread'"):
        await pool.run(jobs.inc, 1, on="loop")


@pytest.mark.parametrize("options", [{}, {"on": "thread"}])
async def test_a_function_that_hides_a_coroutine(pool, options):
    """A plain function that returns a coroutine off the loop fails with the fix, unwarned."""
    with pytest.raises(TypeError, match="pass the async function"):
        await pool.run(lambda: double(1), **options)


@pytest.mark.parametrize("args", [(), (1, 2)])
async def test_wrong_arguments(pool, args):
    """A call with wrong arguments fails as Python has it, on the loop and elsewhere."""
    for fn, options in ((double, {}), (jobs.inc, {}), (jobs.inc, {"on": "thread"})):
        with pytest.raises(TypeError, match="argument"):
            await pool.run(fn, *args, **options)


async def test_keyword_arguments_of_the_function(pool):
    """A keyword argument meant for the function is refused with the way to pass it."""
    with pytest.raises(TypeError, match=r"unknown option 'b'.*functools\.partial"):
        await pool.run(jobs.add, 1, b=2)
    assert await pool.run(functools.partial(jobs.add, b=2), 1) == 3


# --- options --------------------------------------------------------------------------------


@VERBS
@pytest.mark.parametrize(
    ("option", "value", "error", "says"),
    [
        ("priorty", 1, TypeError, "unknown option 'priorty': did you mean 'priority'"),
        ("max_retries", 1, TypeError, "unknown option 'max_retries'"),
        ("priority", 1.5, TypeError, "priority=1.5"),
        ("priority", NAN, TypeError, "priority=nan"),
        ("priority", "high", TypeError, "priority='high'.*Priority.HIGH"),
        ("priority", True, TypeError, "priority=True"),
        ("priority", 2**64, ValueError, "priority="),
        ("retry", 0, ValueError, "retry=0: must be an int of at least 1"),
        ("retry", -1, ValueError, "retry=-1"),
        ("retry", 1.5, TypeError, "retry=1.5"),
        ("retry", "3", TypeError, "retry='3'"),
        ("retry", True, TypeError, "retry=True"),
        ("timeout", 0, ValueError, "timeout=0: must be.*above 0"),
        ("timeout", -1, ValueError, "timeout=-1"),
        ("timeout", NAN, ValueError, "timeout=nan"),
        ("timeout", math.inf, ValueError, "timeout=inf.*None for no bound"),
        ("timeout", "1", TypeError, "timeout='1'"),
        ("deadline", 0, ValueError, "deadline=0"),
        ("deadline", NAN, ValueError, "deadline=nan"),
        ("deadline", __import__("datetime").timedelta(1), TypeError, "total_seconds"),
        ("limiter", 5, TypeError, "limiter=5: must be an async context manager"),
        ("limiter", threading.Lock(), TypeError, "context manager for threads"),
        ("limiter", asyncio.Semaphore, TypeError, "is a class; pass an instance"),
        ("name", 5, TypeError, "name=5: must be a str"),
        ("on", "gpu", ValueError, "on='gpu': must be 'process', 'thread' or 'loop'"),
        ("on", 5, TypeError, "on=5"),
        ("timeout", Unshowable(), TypeError, "timeout=<Unshowable>"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_options(pool, verb, option, value, error, says):
    """An option that is unknown or out of range is refused by name, value and fix."""
    with pytest.raises(error, match=says):
        await refused(pool, verb, double, 1, **{option: value})


@pytest.mark.parametrize("verb", ["run", "submit", "start_soon"])
async def test_limit_of_a_single_call(pool, verb):
    """limit is refused where there is only one call."""
    with pytest.raises(TypeError, match="limit bounds the calls of one map or stream"):
        await refused(pool, verb, double, 1, limit=2)


@pytest.mark.parametrize("verb", ["map", "stream"])
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)]
)
async def test_limit_of_a_map(pool, verb, value, error):
    """A limit out of range is refused by value."""
    with pytest.raises(error, match="limit="):
        await refused(pool, verb, double, 1, limit=value)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (NAN, TypeError)]
)
async def test_buffersize(pool, value, error):
    """A buffersize out of range is refused by value."""
    with pytest.raises(error, match="buffersize="):
        pool.stream(double, [1], buffersize=value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": 1.5}, TypeError),
        ({"on": ()}, ValueError),
        ({"on": BaseException}, TypeError),
        ({"on": "ValueError"}, TypeError),
        ({"wait_initial": -1}, ValueError),
        ({"wait_max": NAN}, ValueError),
        ({"wait_exp_base": 0.5}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"stop": 5}, TypeError),
    ],
    ids=repr,
)
def test_retry_policies(options, error):
    """A policy that could not work is refused when it is made, by parameter and value."""
    with pytest.raises(error, match=f"{next(iter(options))}="):
        Retry(**options)


# --- inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, None, double])
async def test_what_cannot_be_iterated(pool, value):
    """What cannot be iterated over is refused by place and value."""
    with pytest.raises(TypeError, match=r"number 1 .*cannot be iterated") as caught:
        await pool.map(double, value)
    assert repr(value) in str(caught.value)
    with pytest.raises(TypeError, match=r"number 2 .*cannot be iterated"):
        pool.stream(jobs.add, [1], value)
    with pytest.raises(TypeError, match="cannot be iterated"):
        await pool.starmap(jobs.add, value)


async def test_no_iterables(pool):
    """map and stream without an iterable are refused."""
    with pytest.raises(TypeError, match="at least one iterable"):
        await pool.map(double)
    with pytest.raises(TypeError, match="at least one iterable"):
        pool.stream(double)


async def test_an_async_generator_function_as_input(pool):
    """An async generator function that was not called is refused as input."""
    with pytest.raises(TypeError, match="cannot be iterated"):
        await pool.map(double, agen)


async def test_a_coroutine_as_input(pool):
    """A coroutine given as input is refused."""
    coroutine = double(1)
    with pytest.raises(TypeError, match="cannot be iterated"):
        await pool.map(double, coroutine)
    coroutine.close()


# --- what cannot be sent --------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "submit", "start_soon"])
@pytest.mark.parametrize(
    ("argument", "where"),
    [
        (threading.Lock(), r"args\[0\]"),
        ({"deep": [1, threading.Lock()]}, r"\['deep'\]\[1\]"),
        (agen(1), r"args\[0\]"),
        (jobs.PickleRaises(), r"args\[0\]"),
    ],
    ids=["lock", "deep", "generator", "raises"],
)
async def test_an_argument_that_cannot_be_sent(verb, argument, where):
    """An argument that cannot be pickled is refused at that call, naming the part of it."""
    async with Pool(1) as pool:
        with pytest.raises(NotTransferable, match=where):
            await refused(pool, verb, jobs.echo, argument)
        assert pool.statistics().workers == (), "before a worker is involved"


@pytest.mark.parametrize("verb", ["map", "stream"])
async def test_an_item_that_cannot_be_sent(verb):
    """An item of a map that cannot be pickled fails with NotTransferable and breaks no other."""
    items = [1, threading.Lock(), 3]
    async with Pool(1) as pool:
        if verb == "map":
            results = await pool.map(jobs.echo, items, return_exceptions=True)
        else:
            stream = pool.stream(jobs.echo, items, return_exceptions=True)
            results = [result async for result in stream]
        assert results[::2] == [1, 3] and isinstance(results[1], NotTransferable)
        with pytest.raises(NotTransferable):
            await pool.map(jobs.echo, items)
        assert pool.statistics().crashed == 0


@VERBS
async def test_a_function_that_cannot_be_sent(verb):
    """A function that cannot be pickled is refused at that call, naming what it holds."""
    lock = threading.Lock()

    def closure(x):
        return lock, x

    async with Pool(1) as pool:
        with pytest.raises(NotTransferable, match="lock"):
            await refused(pool, verb, closure, 1)


async def test_what_cannot_be_sent_is_fine_beside_us():
    """What cannot be pickled may be passed to calls on the loop and in threads."""
    lock = threading.Lock()

    async def same(x):
        return x

    async with Pool() as pool:
        assert await pool.run(same, lock) is lock
        assert await pool.run(jobs.echo, lock, on="thread") is lock


async def test_what_cannot_be_sent_is_not_retried():
    """A call that cannot be sent is not tried again."""
    async with Pool(1) as pool:
        with pytest.raises(NotTransferable):
            await pool.run(jobs.ret_lock, retry=Retry(3, wait_initial=0, wait_jitter=0))
        assert pool.statistics().retried == 0


# --- the pool -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"max_workers": 0}, ValueError, "max_workers=0: must be an int of at least 1"),
        ({"max_workers": -1}, ValueError, "max_workers=-1"),
        ({"max_workers": 10**9}, ValueError, "max_workers=1000000000: at most"),
        ({"max_workers": "4"}, TypeError, "max_workers='4'"),
        ({"max_workers": 1.5}, TypeError, "max_workers=1.5"),
        ({"max_workers": True}, TypeError, "max_workers=True"),
        ({"limit": 0}, ValueError, "limit=0"),
        ({"limit": None}, TypeError, "limit=None"),
        ({"limit": math.inf}, TypeError, "limit=inf"),
        ({"max_pending": 0}, ValueError, "max_pending=0"),
        ({"max_pending": -5}, ValueError, "max_pending=-5"),
        ({"retry": 0}, ValueError, "retry=0"),
        ({"retry": "3"}, TypeError, "retry='3'"),
        ({"timeout": -1}, ValueError, "timeout=-1"),
        ({"timeout": NAN}, ValueError, "timeout=nan"),
        ({"grace_period": -1}, ValueError, "grace_period=-1"),
        ({"grace_period": None}, TypeError, "grace_period=None"),
        ({"grace_period": math.inf}, ValueError, "grace_period=inf"),
        ({"aging": -1}, ValueError, "aging=-1"),
        ({"aging": NAN}, ValueError, "aging=nan"),
        ({"aging": "1"}, TypeError, "aging='1'"),
        ({"backend": "processes"}, (TypeError, ValueError), "backend='processes'.*'inline'"),
        ({"backend": 5}, TypeError, "backend=5"),
        ({"mp_context": "forkserv"}, ValueError, "forkserv"),
        ({"mp_context": 5}, TypeError, "mp_context=5"),
        ({"initializer": 5}, TypeError, "initializer=5"),
        ({"initializer": jobs.inc, "initargs": 5}, TypeError, "initargs=5"),
        ({"initializer": jobs.inc, "initargs": (threading.Lock(),)}, NotTransferable, "initial"),
        ({"initargs": (1,)}, (TypeError, ValueError), "initargs"),
        ({"max_tasks_per_worker": 0}, ValueError, "max_tasks_per_worker=0"),
        ({"max_worker_memory": 0}, ValueError, "max_worker_memory=0"),
        ({"max_worker_memory": "1G"}, TypeError, "max_worker_memory='1G'"),
        ({"forward_output": 1}, TypeError, "forward_output=1: must be True or False"),
        ({"contextvars": "request_id"}, TypeError, "contextvars='request_id'"),
        ({"contextvars": 5}, TypeError, "contextvars=5"),
        ({"contextvars": ["request_id"]}, TypeError, "contextvars.*'request_id'"),
        ({"observers": print}, TypeError, "observers"),
        ({"observers": 5}, TypeError, "observers"),
        ({"observers": [5]}, TypeError, "observers.*5"),
        ({"workers": 4}, TypeError, "workers"),
    ],
    ids=repr,
)
def test_pool_parameters(options, error, says):
    """A pool's parameter out of range is refused by name, value and fix when the pool is made."""
    with pytest.raises(error, match=says):
        Pool(**options)


async def test_aclose_timeout(pool):
    """A timeout of aclose out of range is refused and closes nothing."""
    for value, error in ((-1, ValueError), (NAN, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="timeout="):
            await pool.aclose(timeout=value)
