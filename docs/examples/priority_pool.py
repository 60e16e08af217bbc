"""Important work first, and still nobody waits for ever: what a hand-made priority pool is for.

    python docs/examples/priority_pool.py --aging 0.01 --most 200

Five scenes: the order of tasks; a low task under a stream of high ones, with ageing and
without; a worker that dies; a long task that gives way; an end with work still under way.
"""

import argparse
import asyncio
import os
import time
from itertools import product, repeat
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import aiopool
from aiopool import PoolStatistics, Priority


def work(seconds: float = 0.005) -> None:
    """A task."""
    time.sleep(seconds)


async def order(each: int) -> list[str]:
    """The names of tasks in the order in which one worker did them; they came the other way."""
    done: list[str] = []
    async with aiopool.Pool(1) as pool:
        for level, number in product((Priority.LOW, Priority.NORMAL, Priority.HIGH), range(each)):
            task = pool.submit(work, name=f"{level.name} {number}", priority=level)
            task.add_done_callback(lambda task: done.append(task.name))
    return done


async def passed(aging: float, most: int) -> int:
    """How many of a stream of high tasks, all of them newer, a low one lets pass."""
    async with aiopool.Pool(1, aging=aging) as pool:
        low = pool.submit(work, priority=Priority.LOW)
        async with pool.stream(work, repeat(0.005, most), priority=Priority.HIGH) as stream:
            return sum([not low.done() async for _ in stream])


def fall_over(mark: Path) -> None:
    """A task that kills its worker the first time."""
    if not mark.exists():
        mark.touch()
        os._exit(1)


async def recover(folder: Path) -> list[PoolStatistics]:
    """The health of two workers after each of twelve tasks, one of which kills its worker."""
    policy = aiopool.Retry(2, on=aiopool.WorkerCrashed, wait_initial=0, wait_jitter=0)
    async with aiopool.Pool(2, retry=policy) as pool:
        tasks = [pool.submit(work, 0.03, name=f"task {number}") for number in range(11)]
        tasks.append(pool.submit(fall_over, folder / "mark", priority=Priority.HIGH))
        health = []
        for task in asyncio.as_completed(tasks):
            await task
            health.append(pool.statistics())
    return health


async def give_way() -> list[str]:
    """What the only place for coroutines was used for, slice by slice."""
    log: list[str] = []
    halfway = asyncio.Event()

    async def index_everything() -> None:
        for number in range(4):
            log.append(f"slice {number}")
            if number == 1:
                halfway.set()
            await asyncio.sleep(0.02)
            await aiopool.checkpoint()  # work in processes gives way between items of a stream

    async def answer() -> None:
        log.append("urgent")

    async with aiopool.Pool(limit=1) as pool:
        index = pool.submit(index_everything, priority=Priority.LOW)
        await halfway.wait()
        await pool.run(answer, priority=Priority.URGENT)
        await index
    return log


async def end() -> list[str]:
    """How tasks ended that were running and waiting when the pool was closed."""
    async with aiopool.Pool(1, grace_period=0.5) as pool:
        await pool.run(work)
        tasks = [pool.submit(work, 3600) for _ in range(3)]
        await pool.aclose(drain=False)
    return [task.state for task in tasks]


async def program(aging: float, most: int) -> None:
    print("done in this order:", ", ".join(await order(2)))
    for how in (aging, inf):
        count = await passed(how, most)
        print(f"aging={how}: {count} of {most} high tasks, all newer, passed a low one")
    with TemporaryDirectory() as folder:
        views = await recover(Path(folder))
    for health in (views[1], views[-1]):
        print(f"{health.done} tasks done, {health.crashed} crashed, {health.retried} retried:")
        for worker in health.workers:
            print(f"  worker {worker.pid}, {worker.age:.2f} s old, {worker.task or worker.state}")
    print("one place:", ", ".join(await give_way()))
    print("closed at once:", ", ".join(await end()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Priorities without starvation.")
    parser.add_argument("--aging", type=float, default=0.01, help="seconds to a step (0.01)")
    parser.add_argument("--most", type=int, default=80, help="high tasks in the stream (80)")
    try:
        aiopool.run(program(**vars(parser.parse_args())))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
