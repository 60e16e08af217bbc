"""Chaos: calls of every kind on one pool, with maps and streams, while its workers are killed.

A seed decides what is submitted and what befalls it; the order in which things happen is the
machine's. Whatever it is, each outcome is definite and one of those its call may have, nothing is
lost and nothing is left. `AIOPOOL_CHAOS_SEEDS=50` runs so many seeds instead of the default's few.
"""

import asyncio
import contextlib
import os
import random
import signal

import pytest

import aiopool
from tests import jobs
from tests.backends import deeds
from tests.helpers import is_alive

SEEDS = int(os.environ.get("AIOPOOL_CHAOS_SEEDS", "4"))
CALLS = 60
RETRY = aiopool.Retry(attempts=50, on=aiopool.WorkerCrashed, wait_initial=0.001, wait_max=0.01)
# Under a killer any call that runs in a worker may be the one that was executing.
CRASH = aiopool.WorkerCrashed


class Calls:
    """What is submitted, and for each handle the test that its outcome has to pass."""

    def __init__(self, pool, dice, folder):
        self.pool = pool
        self.dice = dice
        self.folder = folder
        self.checks = {}
        self.kinds = [
            self.value,
            self.value,
            self.coroutine,
            self.failure,
            self.sleeper,
            self.exits,
            self.crashes,
            self.late,
            self.cancelled,
            self.retried,
        ]

    def submit(self):
        number = len(self.checks)
        handle, check = self.dice.choice(self.kinds)(number)
        self.checks[handle] = check

    def value(self, n):
        return self._submit(jobs.square, n), lambda end: end == n * n or type(end) is CRASH

    def coroutine(self, n):
        return self._submit(jobs.inc_async, n), lambda end: end == n + 1

    def failure(self, n):
        handle = self._submit(jobs.fail, n)
        return (
            handle,
            lambda end: type(end) is CRASH or (type(end) is ValueError and end.args == (n,)),
        )

    def sleeper(self, _):
        seconds = self.dice.uniform(0, 0.02)
        handle = self._submit(jobs.sleep_for, seconds)
        return handle, lambda end: end == seconds or type(end) is CRASH

    def exits(self, _):
        code = self.dice.randrange(1, 100)
        handle = self._submit(jobs.exit_with, code)
        return handle, lambda end: type(end) is CRASH and end.exitcode in (code, -signal.SIGKILL)

    def crashes(self, _):
        return self._submit(deeds.segv), lambda end: type(end) is CRASH

    def late(self, _):
        handle = self._submit(jobs.sleep_for, 600, timeout=self.dice.uniform(0.001, 0.05))
        return handle, lambda end: type(end) in (aiopool.TaskTimeout, CRASH)

    def cancelled(self, n):
        handle = self._submit(jobs.sleep_for, 600)
        asyncio.get_running_loop().call_later(self.dice.uniform(0, 0.1), handle.cancel)
        return handle, lambda end: type(end) in (asyncio.CancelledError, CRASH)

    def retried(self, n):
        journal = str(self.folder / f"retried{n}")
        handle = self._submit(deeds.kill_times, journal, 2, n, retry=RETRY)
        return handle, lambda end: end == n and handle.attempts >= 3

    def _submit(self, fn, *args, **options):
        priority = self.dice.choice(list(aiopool.Priority))
        return self.pool.submit(fn, *args, priority=priority, **options)

    async def check(self):
        ends = await asyncio.gather(*self.checks, return_exceptions=True)
        wrong = [
            (handle, end)
            for (handle, check), end in zip(self.checks.items(), ends, strict=True)
            if not check(end)
        ]
        assert not wrong


async def map_all(pool):
    """Map over enough items for any batch, retried as often as a killer may strike."""
    assert await pool.map(jobs.square, range(500), retry=RETRY) == [n * n for n in range(500)]


async def stream_all(pool):
    items = iter(range(300))
    async with pool.stream(jobs.inc, items, ordered=False, buffersize=40, retry=RETRY) as results:
        assert sorted([value async for value in results]) == list(range(1, 301))


async def stream_some(pool):
    async with pool.stream(jobs.inc, iter(range(10**6)), buffersize=20, retry=RETRY) as results:
        async for value in results:
            if value > 30:
                break


async def kill_now_and_then(pool, dice, seen):
    """Kill a worker from outside, as a system short of memory does."""
    while True:
        await asyncio.sleep(dice.uniform(0.005, 0.05))
        ready = [each for each in pool.statistics().workers if each.state == "ready"]
        pids = [worker.pid for worker in ready]
        seen.update(pids)
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(pids), signal.SIGKILL)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_chaos(seed, tmp_path):
    """Amid crashes, kills, time-outs and cancellations every call has an outcome of its own."""
    dice = random.Random(seed)
    method = dice.choice(["forkserver", "forkserver", "spawn"])
    seen = set()
    async with aiopool.Pool(dice.choice([1, 2, 4]), mp_context=method, grace_period=0.3) as pool:
        calls = Calls(pool, dice, tmp_path)
        killer = asyncio.ensure_future(kill_now_and_then(pool, dice, seen))
        around = [asyncio.ensure_future(way(pool)) for way in (map_all, stream_all, stream_some)]
        for _ in range(CALLS):
            calls.submit()
            await asyncio.sleep(dice.choice([0, 0, 0.001]))
        try:
            await asyncio.wait_for(asyncio.gather(*around), 100)
        finally:
            killer.cancel()
            await asyncio.wait([killer])
        await asyncio.wait_for(calls.check(), 100)
        handles = list(calls.checks)
        assert all(handle.done() for handle in handles)
        numbers = pool.statistics()
        assert numbers.running == 0 and not sum(numbers.queued.values())
        assert len(await pool.collect()) == CALLS
    assert not [pid for pid in seen if is_alive(pid)]
