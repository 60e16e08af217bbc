"""What does a map lose when its dear items come last?

Measured: 4,000 items, of which the last 200 cost a hundred times as much as the others (50 µs and
5 ms of wall time on a CPU); the figure is the ideal, the sum divided by the number of workers, in
percent of what it took. Fair: warm workers, nobody is told the durations, everyone is used with
its defaults; the executor is given one item at a time, which is the best it can do here. The last
row has no calls at all, only one loop in each worker: what the machine really has to give.

Where aiopool loses: nowhere known. Where all items cost the same, chunks as large as those of
``multiprocessing.Pool`` are cheaper, see ``map_tiny``.
"""

import time

from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Options, Sample, main, using
from benchmarks.jobs import spin, spin_all

CHEAP, DEAR = 50e-6, 5e-3


def durations(options: Options) -> list[float]:
    """Seconds of every item, the dear ones last."""
    count = options.pick(4_000, 400)
    dear = count // 20
    return [CHEAP] * (count - dear) + [DEAR] * dear


async def percent(options: Options, work: peers.Map) -> Sample:
    """Time one map against its ideal."""
    items = durations(options)
    start = time.perf_counter()
    await work(spin, items)
    taken = time.perf_counter() - start
    return {"% of ideal": 100 * sum(items) / options.workers / taken}


async def nobody(options: Options, work: peers.Map) -> Sample:
    """Every worker is told once what to do."""
    items = durations(options)
    start = time.perf_counter()
    await work(spin_all, [items[first :: options.workers] for first in range(options.workers)])
    taken = time.perf_counter() - start
    return {"% of ideal": 100 * sum(items) / options.workers / taken}


BENCHMARK = Benchmark(
    "map_skewed",
    "a map whose last 5 % of the items are a hundred times dearer (more is better)",
    [
        Contender("aiopool", using(peers.pool_maps, percent)),
        Contender("multiprocessing.Pool.map", using(peers.multiprocessing_maps(), percent)),
        Contender("executor.map", using(peers.executor_maps(1), percent)),
        Contender("joblib", using(peers.joblib_maps, percent)),
        Contender("mpire", using(peers.mpire_maps, percent), restless=True),
        Contender("no calls, one loop each", using(peers.multiprocessing_maps(1), nobody)),
    ],
    [
        Goal("aiopool", "% of ideal", 97, at_least=True),
        Goal("aiopool", "% of ideal", 1.4, versus="multiprocessing.Pool.map", at_least=True),
    ],
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
