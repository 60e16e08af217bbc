"""How much of the workers' time goes into the work?

Measured: calls that keep a CPU busy for a millisecond of wall time each. The ideal is their
sum divided by the number of workers; the figure is that ideal in percent of what it took.
Fair: warm workers, nobody is told the durations; one call per message for the executor, anyio
and ``multiprocessing.Pool``, joblib and mpire find their own batches.
The call watches the clock, so on a machine with no more CPUs than workers the parent's own
work hides inside the calls, for everyone alike: this shows idle workers, not the parent's CPU
time. The last row has no calls at all, only the loop: what the machine really has to give.

Where aiopool loses: the shorter the calls the more every pool loses; ``map_tiny`` shows the end
of that road.
"""

import time

from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Options, Sample, main, using
from benchmarks.jobs import spin, spin_all

DURATION = 0.001


async def percent(options: Options, work: peers.Map) -> Sample:
    """Time so many calls against their ideal."""
    count = options.pick(2_000, 200)
    start = time.perf_counter()
    await work(spin, [DURATION] * count)
    taken = time.perf_counter() - start
    return {"% of ideal": 100 * count * DURATION / options.workers / taken}


async def nobody(options: Options, work: peers.Map) -> Sample:
    """Every worker is told once what to do."""
    each = options.pick(2_000, 200) // options.workers
    start = time.perf_counter()
    await work(spin_all, [[DURATION] * each] * options.workers)
    taken = time.perf_counter() - start
    return {"% of ideal": 100 * each * DURATION / taken}


BENCHMARK = Benchmark(
    "efficiency",
    "calls of one millisecond, percent of the ideal (more is better)",
    [
        Contender("aiopool.map", using(peers.pool_maps, percent)),
        Contender("aiopool.submit", using(peers.submit_maps, percent)),
        Contender("multiprocessing.Pool.map", using(peers.multiprocessing_maps(1), percent)),
        Contender("executor.map", using(peers.executor_maps(1), percent)),
        Contender("run_in_executor", using(peers.executor_call_maps, percent)),
        Contender("anyio.to_process", using(peers.anyio_maps, percent)),
        Contender("joblib", using(peers.joblib_maps, percent)),
        Contender("mpire", using(peers.mpire_maps, percent), restless=True),
        Contender("no calls, one loop each", using(peers.multiprocessing_maps(1), nobody)),
    ],
    [
        Goal("aiopool.map", "% of ideal", 98, at_least=True),
        Goal("aiopool.submit", "% of ideal", 95, at_least=True),
        Goal("aiopool.map", "% of ideal", 0.98, versus="no calls, one loop each", at_least=True),
    ],
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
