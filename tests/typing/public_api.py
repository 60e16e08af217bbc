"""What type checkers infer for the users of the public interface; checked, never run."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import assert_type

from aiopool import (
    Meter,
    Outcome,
    Pool,
    PoolExecutor,
    PoolView,
    Priority,
    Retry,
    Shared,
    TaskGroup,
    TaskHandle,
    checkpoint,
    progress,
    run,
)
from aiopool.journal import Journal


def crunch(number: int, power: int = 2) -> float:
    return float(number**power)


async def fetch(url: str) -> bytes:
    return url.encode()


async def numbers() -> AsyncIterator[int]:
    yield 1


async def one_call(pool: Pool) -> None:
    assert_type(await pool.run(crunch, 10), float)
    assert_type(await pool.run(crunch, 10, 3, priority=Priority.HIGH, timeout=5, retry=3), float)
    assert_type(await pool.run(partial(crunch, power=3), 10, on="thread"), float)
    assert_type(await pool.run(fetch, "url", retry=Retry(attempts=2, on=OSError)), bytes)


async def handles(pool: Pool) -> None:
    await assert_type(pool.submit(crunch, 10), TaskHandle[float])
    await assert_type(pool.submit(fetch, "url"), TaskHandle[bytes])
    assert_type(await pool.submit(crunch, 10), float)


async def many(pool: Pool) -> None:
    assert_type(await pool.map(crunch, range(10)), list[float])
    assert_type(await pool.map(crunch, range(10), range(10), limit=2), list[float])
    assert_type(await pool.map(fetch, ["url"], limit=20), list[bytes])
    assert_type(
        await pool.map(crunch, range(10), return_exceptions=True), list[float | BaseException]
    )
    assert_type(await pool.starmap(crunch, [(1, 2)]), list[float])


def meters(pool: Pool) -> None:
    assert_type(progress.track(pool, "calls"), Meter)
    with Meter("rows", lambda: (1, None)), Meter("rows", lambda: (1, 2, "beside", "below")):
        pass


async def streams(pool: Pool) -> None:
    async with pool.stream(crunch, numbers(), ordered=False, buffersize=64) as results:
        async for value in results:
            assert_type(value, float)
    async with pool.stream(fetch, ["url"], progress=True) as pages:
        async for outcome in pages.outcomes():
            assert_type(outcome, Outcome[bytes])
            assert_type(outcome.unwrap(), bytes)


async def views(pool: Pool) -> None:
    view = assert_type(pool.view(priority=Priority.LOW, limit=4, fairness_key="tenant"), PoolView)
    inner = assert_type(view.view(timeout=5), PoolView)
    assert_type(await inner.run(crunch, 10, key=("row", 10)), float)
    assert_type(await pool.run(fetch, "url", key="url", retry=3), bytes)
    await assert_type(inner.submit(fetch, "url"), TaskHandle[bytes])
    assert_type(await inner.map(crunch, range(10), limit=2), list[float])
    async with inner.task_group(limit=1) as group, TaskGroup(view) as other:
        await assert_type(group.start_soon(double, 1), TaskHandle[int])
        await assert_type(other.start_soon(double, 1), TaskHandle[int])
    await view.run(crunch, "ten", key=1)  # type: ignore[arg-type]
    await view.run(crunch, 10, key=[1])  # type: ignore[call-overload]
    pool.submit(crunch, 10, key=1)  # type: ignore[call-overload]
    pool.view(priorty=1)  # type: ignore[call-arg]
    async with view:  # type: ignore[attr-defined]
        pass


def look_up(table: dict[str, int], key: str) -> int:
    return table[key]


async def sharing(pool: Pool) -> None:
    table: Shared[dict[str, int]] = pool.share({"a": 1})
    assert_type(table, dict[str, int])
    assert_type(await pool.run(look_up, table, "a"), int)
    assert_type(await pool.starmap(look_up, [(table, "a")]), list[int])
    assert_type(await pool.run(partial(look_up, table), "a"), int)
    assert_type(await pool.submit(crunch, pool.share(10)), float)


def double(number: int) -> int:
    return 2 * number


async def groups(pool: Pool, plain: asyncio.TaskGroup) -> None:
    async with TaskGroup(limit=3, on_error="continue") as group:
        assert_type(group, TaskGroup)
        await assert_type(group.start_soon(double, 1), TaskHandle[int])
        await assert_type(group.start_soon(fetch, "url", priority=Priority.LOW), TaskHandle[bytes])
        await assert_type(
            group.create_task(fetch("url"), name="a", priority=1), asyncio.Task[bytes]
        )
        await checkpoint()
        plain = group
    async with pool.task_group(limit=1) as group:
        assert_type(group, TaskGroup)
    await plain.create_task(fetch("url"))


async def wrong_in_groups(group: TaskGroup) -> None:
    await group.start_soon(double, "one")  # type: ignore[arg-type]
    await group.start_soon(double)  # type: ignore[call-arg, arg-type]
    await group.start_soon(double, 1, priorty=1)  # type: ignore[call-overload]
    await group.create_task(fetch)  # type: ignore[arg-type]
    TaskGroup(on_error="ignore")  # type: ignore[arg-type]


def synchronous() -> None:
    with PoolExecutor(max_workers=2, retry=3, mp_context="spawn") as executor:
        assert_type(executor, PoolExecutor)
        assert_type(executor.submit(crunch, 10), Future[float])
        assert_type(executor.submit(crunch, 10, power=3).result(), float)
        assert_type(executor.submit(fetch, "url"), Future[bytes])
        assert_type(executor.submit_with({"priority": Priority.HIGH}, crunch, 10), Future[float])
        assert_type(executor.submit_with({"retry": 3}, fetch, "url"), Future[bytes])
        assert_type(executor.map(crunch, range(10), timeout=5, buffersize=3), Iterator[float])
        any_executor: Executor = executor
        assert_type(any_executor.submit(crunch, 10), Future[float])
        executor.submit(crunch, "ten")  # type: ignore[call-overload]
        executor.submit_with({"priorty": 1}, crunch, 10)  # type: ignore[call-overload]
    PoolExecutor(max_worker=2)  # type: ignore[call-arg]


async def remembered(pool: Pool) -> None:
    async with Journal("run.db") as journal:
        assert_type(await journal.map(pool, crunch, [1, 2], retry=3), list[float])
        assert_type(await journal.map(pool, fetch, ["url"], key=str), list[bytes])
        async with journal.stream(pool, fetch, ["url"], ordered=False) as results:
            assert_type([value async for value in results], list[bytes])
        async for outcome in journal.stream(pool, crunch, numbers()).outcomes():
            assert_type(outcome, Outcome[float])
        await journal.map(pool, crunch, [1], priorty=1)  # type: ignore[call-overload]


async def wrong(pool: Pool) -> None:
    await pool.run(crunch, "ten")  # type: ignore[arg-type]
    await pool.run(crunch, 10, priorty=1)  # type: ignore[call-overload]
    await pool.submit(fetch, 10)  # type: ignore[arg-type]
    await pool.run(crunch, pool.share("ten"))  # type: ignore[arg-type]


async def main() -> int:
    async with Pool(max_workers=2, limit=10, retry=3) as pool:
        assert_type(pool, Pool)
    return 0


assert_type(run(main()), int)
