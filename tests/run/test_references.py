"""What went through a pool is freed when its caller lets go of it, not at some later collection."""

import asyncio
import gc
import weakref
from functools import partial

import numpy as np
import pytest

from aiopool import Pool, TaskGroup
from tests import jobs
from tests.run.support import turns


@pytest.fixture(autouse=True)
def _no_collection():
    """Let nothing be freed by the cycle collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def make_async(size):
    await asyncio.sleep(0)
    return np.zeros(size)


@pytest.mark.parametrize("fn", [np.zeros, make_async], ids=["process", "loop"])
async def test_a_result_is_freed(fn):
    """Neither run nor map nor stream keeps a result that its caller has dropped."""
    async with Pool(1) as pool:
        results = [await pool.run(fn, 9), *await pool.map(fn, [9])]
        async with pool.stream(fn, [9]) as stream:
            results += [value async for value in stream]
        del stream
        references = [weakref.ref(result) for result in results]
        results.clear()
        await turns(3)
        assert [reference() is None for reference in references] == [True] * 3


async def test_an_argument_is_freed():
    """Neither run nor map nor stream keeps an argument beyond its call."""
    async with Pool(1) as pool:
        arguments = [np.zeros(9) for _ in range(3)]
        references = [weakref.ref(argument) for argument in arguments]
        await pool.run(jobs.length, arguments.pop())
        await pool.map(jobs.length, [arguments.pop()])
        async with pool.stream(jobs.length, [arguments.pop()]) as stream:
            assert [value async for value in stream] == [9]
        del stream
        await turns(3)
        assert [reference() is None for reference in references] == [True] * 3


async def rows(*items):
    for item in items:
        yield item


async def test_a_function_is_freed():
    """What a function holds goes when its last caller is done with it."""
    async with Pool(1) as pool:
        held = [np.zeros(9) for _ in range(3)]
        references = [weakref.ref(array) for array in held]
        await pool.run(partial(np.add, held.pop()), 1)
        await pool.map(partial(np.add, held.pop()), [1, 2])
        await pool.map(partial(np.add, held.pop()), rows(1, 2))
        await turns(3)
        assert [reference() is None for reference in references] == [True] * 3


async def test_the_arguments_of_a_failed_map_are_freed():
    """A map that failed keeps neither its items nor its other results."""
    async with Pool(1) as pool:
        items = [np.zeros(9), np.ones(9)]
        references = [weakref.ref(item) for item in items]
        with pytest.raises(ValueError):
            await pool.map(jobs.raise_type, [ValueError])
        found = await pool.map(jobs.echo, items, return_exceptions=True)
        references += [weakref.ref(value) for value in found]
        items.clear()
        found.clear()
        await turns(3)
        assert [reference() is None for reference in references] == [True] * 4


async def fail_in_a_group():
    async with TaskGroup():
        raise ValueError


@pytest.mark.parametrize("limit", [None, 1])
async def test_the_failure_of_a_group_does_not_keep_its_task(limit):
    """A task in which a group failed goes with the group around it, though its error is held."""
    held = None
    try:
        async with TaskGroup(limit=limit) as group:
            task = weakref.ref(group.create_task(fail_in_a_group()))
    except* ValueError as errors:
        held = errors.exceptions[0]
    assert type(held) is ExceptionGroup
    assert task() is None
