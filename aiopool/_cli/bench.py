"""``aiopool bench``: a handful of questions, asked of this machine.

Each is answered by aiopool and by what the standard library has for it, in turns, so that a slow
second of the machine slows all of them. Everyone has as many workers, started the same way and
warm. The benchmarks of the repository ask more, of more peers, and more carefully.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import platform
import signal
import time
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final, TypeAlias, final

import aiopool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.context import BaseContext

    from rich.table import Table

    Way: TypeAlias = Callable[["Bed"], Awaitable[float]]

_AT_ONCE: Final = 100
_TEN: Final = 10
_IN_EXECUTOR: Final = "run_in_executor"
_EXECUTOR: Final = "ProcessPoolExecutor"


@final
@dataclass(frozen=True, slots=True)
class Bed:
    """What is measured: a pool and an executor, both warm, and the share of the full sizes."""

    pool: aiopool.Pool
    executor: ProcessPoolExecutor
    workers: int
    share: float

    def size(self, full: int) -> int:
        """So many, or fewer if it is to be quick."""
        return max(10, int(full * self.share))


@final
@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, in which unit, and who answers: the first is aiopool."""

    text: str
    unit: str
    ways: dict[str, Way]


# --- what is called -------------------------------------------------------------------------


def inc(number: int) -> int:
    """A function that costs nothing."""
    return number + 1


async def instant(number: int) -> int:
    """A coroutine that lets others go first, once."""
    await asyncio.sleep(0)
    return number + 1


def fatal(number: int) -> int:
    """A function that zero kills."""
    if number == 0:
        os._exit(1)
    time.sleep(0.01)  # so that others are under way
    return number


# --- ways -----------------------------------------------------------------------------------


async def _each(call: Callable[[], Awaitable[object]], count: int) -> float:
    """The median of single calls, microseconds."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        await call()
        found.append(time.perf_counter() - start)
    return median(found) * 1e6


async def _all(work: Awaitable[object], count: int) -> float:
    """Microseconds for one of so many."""
    start = time.perf_counter()
    await work
    return (time.perf_counter() - start) / count * 1e6


def _in_executor(bed: Bed, number: int) -> Awaitable[int]:
    return asyncio.get_running_loop().run_in_executor(bed.executor, inc, number)


async def _idle_pool(bed: Bed) -> float:
    return await _each(lambda: bed.pool.run(inc, 1), bed.size(500))


async def _idle_executor(bed: Bed) -> float:
    return await _each(lambda: _in_executor(bed, 1), bed.size(500))


async def _map_pool(bed: Bed) -> float:
    count = bed.size(200_000)
    return await _all(bed.pool.map(inc, range(count)), count)


async def _map_chunks(bed: Bed) -> float:
    count = bed.size(50_000)

    def mapped() -> list[int]:
        return list(bed.executor.map(inc, range(count), chunksize=64))

    return await _all(asyncio.to_thread(mapped), count)


async def _map_executor(bed: Bed) -> float:
    count = bed.size(5_000)

    async def gathered() -> None:
        await asyncio.gather(*[_in_executor(bed, n) for n in range(count)])

    return await _all(gathered(), count)


async def _submit_pool(bed: Bed) -> float:
    count = bed.size(10_000)

    async def submitted() -> None:
        await asyncio.gather(*[bed.pool.submit(inc, n) for n in range(count)])

    return await _all(submitted(), count)


async def _submit_executor(bed: Bed) -> float:
    count = bed.size(5_000)

    def submitted() -> None:
        wait([bed.executor.submit(inc, n) for n in range(count)])

    return await _all(asyncio.to_thread(submitted), count)


async def _coroutines_pool(bed: Bed) -> float:
    count = bed.size(20_000)
    return await _all(bed.pool.map(instant, range(count), limit=_AT_ONCE), count)


async def _coroutines_group(bed: Bed) -> float:
    count = bed.size(20_000)
    room = asyncio.Semaphore(_AT_ONCE)

    async def bounded(number: int) -> int:
        async with room:
            return await instant(number)

    async def grouped() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(bounded(n)) for n in range(count)]
        return [task.result() for task in tasks]

    return await _all(grouped(), count)


async def _crash_pool(bed: Bed) -> float:
    handles = [bed.pool.submit(fatal, n) for n in range(20)]
    outcomes = await asyncio.gather(*handles, return_exceptions=True)
    return float(sum(map(_is_lost, outcomes)))


async def _crash_executor(bed: Bed) -> float:
    def crashed() -> int:
        with _executor(bed.workers) as executor:
            futures: list[Future[int]] = [executor.submit(fatal, n) for n in range(20)]
            return sum(_is_lost(future.exception()) for future in futures)

    return float(await asyncio.to_thread(crashed))


def _is_lost(outcome: object) -> bool:
    return isinstance(outcome, BaseException)


QUESTIONS: Final = (
    Question(
        "one call, nothing else running", "µs", {"": _idle_pool, _IN_EXECUTOR: _idle_executor}
    ),
    Question(
        "map of a function of no cost",
        "µs",
        {"": _map_pool, "executor.map, chunksize=64": _map_chunks, _IN_EXECUTOR: _map_executor},
    ),
    Question("thousands of submits", "µs", {"": _submit_pool, "executor.submit": _submit_executor}),
    Question(
        "coroutines, 100 at a time",
        "µs",
        {"": _coroutines_pool, "TaskGroup and Semaphore": _coroutines_group},
    ),
    Question(
        "lost when 1 of 20 calls crashes",
        "",
        {"": _crash_pool, _EXECUTOR: _crash_executor},
    ),
)


# --- the run --------------------------------------------------------------------------------


def run(*, workers: int, rounds: int, quick: bool) -> int:
    """Ask every question and print the table; the exit status."""
    from rich.console import Console

    table = aiopool.run(_measure(workers, rounds, 0.02 if quick else 1.0))
    Console().print(table)
    return 0


async def _measure(workers: int, rounds: int, share: float) -> Table:
    from rich.table import Table

    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    title = f"aiopool {aiopool.__version__}, {python} on {loop}, {workers} workers"
    table = Table("", title=title, title_justify="left")
    for heading in ("median", "from", "to", "beside aiopool"):
        table.add_column(heading, justify="right")
    async with aiopool.Pool(workers, mp_context=_context()) as pool:
        with _executor(workers) as executor:
            bed = Bed(pool, executor, workers, share)
            for question in QUESTIONS:
                _enter(table, question, await _answers(question, bed, rounds))
    return table


async def _answers(question: Question, bed: Bed, rounds: int) -> dict[str, list[float]]:
    """What each way took in each round; the round before them warms everyone."""
    found: dict[str, list[float]] = {name: [] for name in question.ways}
    for turn in range(rounds + 1):
        for name, way in question.ways.items():
            gc.collect()
            value = await way(bed)
            if turn:
                found[name].append(value)
    return found


def _enter(table: Table, question: Question, answers: dict[str, list[float]]) -> None:
    table.add_row(f"[bold]{question.text}[/bold]{question.unit and ', ' + question.unit}")
    first = next(iter(answers.values()))
    for name, values in answers.items():
        factor = median(values) / median(first)
        beside = (
            "" if values is first else f"{factor:.2g} x" if factor < _TEN else f"{factor:,.0f} x"
        )
        row = (median(values), min(values), max(values))
        table.add_row(f"  {name or 'aiopool'}", *(f"{value:,.3g}" for value in row), beside)
    table.add_section()


def _context() -> BaseContext:
    """The start method of everyone: the pool's own default."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def _executor(workers: int) -> ProcessPoolExecutor:
    """An executor whose workers leave a Ctrl-C to this process, as a pool's do."""
    ignored = (signal.SIGINT, signal.SIG_IGN)
    return ProcessPoolExecutor(
        workers, mp_context=_context(), initializer=signal.signal, initargs=ignored
    )
