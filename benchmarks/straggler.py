"""Does anything wait behind one long call while a worker is free?

Measured: 4,000 calls of 1 ms and, in the midst of them, one of 2 s, all in one map; what it took
as a multiple of the ideal, the sum divided by the number of workers (the long call alone, if that
is more). With two workers the short calls behind the long one take as long as it does: each of
them that waits for it makes the whole longer. Fair: as in ``efficiency``, everyone with its own
batches; nobody is told the durations.

Where aiopool loses: as everyone, when the long call comes last; nobody can know.
"""

import time

from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Options, Sample, main, using
from benchmarks.jobs import spin

SHORT = 0.001


async def over_ideal(options: Options, work: peers.Map) -> Sample:
    """Time one map with the long call in its middle."""
    count, long = options.pick(4_000, 200), options.pick(2.0, 0.1)
    items = [SHORT] * (count // 2) + [long] + [SHORT] * (count // 2)
    start = time.perf_counter()
    await work(spin, items)
    taken = time.perf_counter() - start
    return {"of the ideal": taken / max(long, sum(items) / options.workers)}


BENCHMARK = Benchmark(
    "straggler",
    "one call of 2 s among 4,000 of 1 ms",
    [
        Contender("aiopool.map", using(peers.pool_maps, over_ideal)),
        Contender("aiopool.submit", using(peers.submit_maps, over_ideal)),
        Contender("multiprocessing.Pool.map", using(peers.multiprocessing_maps(), over_ideal)),
        Contender("executor.map", using(peers.executor_maps(1), over_ideal)),
        Contender("joblib", using(peers.joblib_maps, over_ideal)),
    ],
    [
        Goal("aiopool.map", "of the ideal", 1.1),
        Goal("aiopool.submit", "of the ideal", 1.1),
    ],
    rounds=5,
    quick_rounds=2,
)

if __name__ == "__main__":
    main(BENCHMARK)
