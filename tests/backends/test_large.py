"""Large arguments and results, in both directions at once."""

import asyncio

import numpy as np
import pytest

import aiopool
from tests import jobs

SIZE = 64 << 20


async def test_large_both_ways_at_once():
    """Arguments and results of 64 MB travel in both directions at once."""
    async with aiopool.Pool(2) as pool:
        data = [bytes([n]) * SIZE for n in range(4)]
        found = await asyncio.wait_for(
            asyncio.gather(*[pool.run(jobs.echo, block) for block in data]), 100
        )
        assert found == data


async def test_large_map():
    """A map whose items and results are megabytes each gives them back unmixed."""
    async with aiopool.Pool(2) as pool:
        blocks = [bytes([n]) * (2 << 20) for n in range(24)]
        assert await asyncio.wait_for(pool.map(jobs.echo, blocks), 100) == blocks


async def test_large_result_of_a_small_argument():
    """Results of 64 MB arrive whole while small calls go on."""
    async with aiopool.Pool(2) as pool:
        large = [pool.submit(jobs.make_bytes, SIZE) for _ in range(2)]
        small = [pool.submit(jobs.square, n) for n in range(100)]
        assert await asyncio.gather(*small) == [n * n for n in range(100)]
        assert [len(found) for found in await asyncio.gather(*large)] == [SIZE] * 2


async def test_numpy_arrays(start_method):
    """Arrays arrive with their values, shape, type and order, writable, and stay what they are."""
    arrays = [
        np.arange(1_000_000, dtype=np.float64).reshape(1000, 1000),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(100)[::7],
        np.array([]),
        np.array(["a", None], dtype=object),
    ]
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        found = await pool.map(jobs.echo, arrays)
        for sent, got in zip(arrays, found, strict=True):
            assert got.dtype == sent.dtype
            assert np.array_equal(got, sent)
        found[0][0, 0] = 5
        copies = [found[0].copy(), *found[1:]]
        for n in range(5):
            await pool.run(jobs.echo, np.full(1_000_000, n))
        for before, after in zip(copies, found, strict=True):
            assert np.array_equal(before, after)


async def test_arrays_that_a_worker_keeps(start_method):
    """Arguments that a worker keeps stay what they are while others come in."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        for n in range(6):
            assert await pool.run(keep, np.full(1_000_000, n)) == [*range(n + 1)]


def keep(array):
    """Add to the arrays kept, and give the one value that is in each of them."""
    _kept.append(array)
    values = [np.unique(kept) for kept in _kept]
    return [int(value[0]) for value in values if len(value) == 1]


_kept = []


async def test_cancel_while_a_large_argument_is_sent():
    """A call cancelled while its argument is on its way leaves the lane in working order."""
    async with aiopool.Pool(1) as pool:
        await pool.run(jobs.pid)
        for turns in range(12):
            handle = pool.submit(jobs.length, bytes(SIZE // 4))
            for _ in range(turns):
                await asyncio.sleep(0)
            handle.cancel()
            await asyncio.wait([handle], timeout=30)
            assert handle.done()
        assert await pool.run(jobs.add, 1, 2) == 3


@pytest.mark.parametrize("verb", ["run", "map"])
async def test_results_in_several_pieces(verb):
    """Results that take more than one frame of a pickle, or hold large bytes, arrive as any."""
    async with aiopool.Pool(1) as pool:
        for result in (list(range(50_000)), (bytes(100_000), 1), ["x" * 70_000, b"y" * 70_000] * 3):
            if verb == "run":
                assert await pool.run(jobs.echo, result) == result
            else:
                assert await pool.map(jobs.echo, [result, 1]) == [result, 1]
