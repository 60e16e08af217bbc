"""What does it cost to remember results, and to read them back?

Measured: calls that keep a CPU busy for a millisecond, the same ones through ``pool.map``, through
``pool.stream(...).outcomes()`` and through ``journal.map`` into a new file: milliseconds of wall
time and of this process's own time for each. Then the same file again, from which all results are
read. Fair: every item is different, so that every call has a key of its own; opening the file and
closing it, which writes the log into the database, count.

Where aiopool loses: against nothing, which remembers nothing. The file is not synced with every
commit, as ``durable`` would have it, which depends on the disk.
"""

import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiopool
from aiopool.journal import Journal
from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import spin

Way = Callable[[aiopool.Pool, Sequence[float], Path], Awaitable[None]]

SECONDS = 0.001


async def by_map(pool: aiopool.Pool, items: Sequence[float], _: Path) -> None:
    """Without a journal."""
    await pool.map(spin, items)


async def by_outcomes(pool: aiopool.Pool, items: Sequence[float], _: Path) -> None:
    """Without a journal, each outcome looked at."""
    async with pool.stream(spin, items, ordered=False) as results:
        async for outcome in results.outcomes():
            assert outcome.ok


async def by_journal(pool: aiopool.Pool, items: Sequence[float], path: Path) -> None:
    """With a journal."""
    async with Journal(path) as journal:
        await journal.map(pool, spin, items)


async def timed(way: Way, pool: aiopool.Pool, items: Sequence[float], path: Path) -> Sample:
    """Milliseconds for one of the calls."""
    wall, own = time.perf_counter(), time.process_time()
    await way(pool, items, path)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return {"ms/call": wall / len(items) * 1e3, "own ms/call": own / len(items) * 1e3}


def calling(way: Way, *, again: bool = False) -> Callable[[Options], "peers.Opened[Measure]"]:
    """A contender that makes the calls in this way, into a new file or from one that has them."""

    @asynccontextmanager
    async def opened(options: Options) -> AsyncIterator[Measure]:
        items = [SECONDS + number * 1e-9 for number in range(options.pick(2_000, 200))]
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "kept.db"
            async with peers.pool(options) as pool:
                if again:
                    await way(pool, items, kept)

                async def measure() -> Sample:
                    path = kept if again else Path(folder) / f"{time.monotonic_ns()}.db"
                    return await timed(way, pool, items, path)

                yield measure

    return opened


BENCHMARK = Benchmark(
    "journal",
    "calls of a millisecond, remembered in a file",
    [
        Contender("aiopool map", calling(by_map)),
        Contender("aiopool stream, outcomes", calling(by_outcomes)),
        Contender("aiopool journal", calling(by_journal)),
        Contender("aiopool journal, the second run", calling(by_journal, again=True)),
    ],
    [
        Goal("aiopool journal", "ms/call", 1.2, versus="aiopool map"),
        Goal("aiopool journal, the second run", "ms/call", 0.1),
    ],
)

if __name__ == "__main__":
    main(BENCHMARK)
