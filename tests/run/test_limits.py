"""limit: how many calls of one map or stream run at once."""

import asyncio

import pytest

from aiopool import Pool, Retry
from tests.helpers import wait_until
from tests.run.support import double, turns
from tests.run.test_limiters import Counting

# --- limit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["map", "stream"])
@pytest.mark.parametrize("limit", [1, 3])
async def test_limit_of_one_map(shop, verb, limit):
    """limit bounds how many calls of one map or stream run at once, and of no other."""
    async with Pool() as pool:

        async def consume():
            return [x async for x in pool.stream(shop.work, range(10), limit=limit)]

        mapping = asyncio.ensure_future(
            consume() if verb == "stream" else pool.map(shop.work, range(10), limit=limit)
        )
        await shop.has_started(*range(limit))
        await turns(20)
        assert len(shop.started) == limit
        assert await pool.run(double, 1) == 2
        shop.open()
        assert await mapping == list(range(10))
        assert shop.most == limit


async def test_limit_in_threads():
    """limit bounds calls in threads as well."""
    import threading

    lock = threading.Lock()
    busy, most = 0, 0

    def work(x):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        threading.Event().wait(0.001)
        with lock:
            busy -= 1
        return x

    async with Pool() as pool:
        assert await pool.map(work, range(40), on="thread", limit=2) == list(range(40))
    assert most <= 2


async def test_limit_in_processes(tmp_path):
    """limit=1 keeps the calls of a map in processes one after the other."""
    flag = str(tmp_path / "flag")
    async with Pool(2) as pool:
        assert await pool.map(_alone, [flag] * 30, limit=1) == [True] * 30


def _alone(flag):
    import os
    from pathlib import Path

    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    Path(flag).unlink()
    return True


async def test_limit_with_retries():
    """A call that waits for its next attempt does not count under limit."""
    seen = []

    async def work(x):
        seen.append(x)
        if x == 0 and seen.count(0) == 1:
            raise ValueError
        return x

    async with Pool() as pool:
        retry = Retry(2, on=lambda _: 0.05)
        assert await pool.map(work, range(4), limit=1, retry=retry) == [0, 1, 2, 3]
    assert seen == [0, 1, 2, 3, 0]


async def test_limit_and_limiter_together(shop):
    """limit and limiter both hold."""
    limiter = Counting(2)
    async with Pool() as pool:
        mapping = asyncio.ensure_future(pool.map(shop.work, range(6), limit=3, limiter=limiter))
        await wait_until(lambda: len(shop.started) == 2)
        await turns(20)
        assert len(shop.started) == 2
        shop.open()
        assert await mapping == list(range(6))
