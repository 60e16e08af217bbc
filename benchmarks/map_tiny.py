"""What does an item of a large map cost when the function costs nothing?

Measured: the wall time of mapping ``inc`` over a range, divided by its length. Fair: warm
workers, the answers collected in a list in order by everyone. The blocking peers run on the
main thread with nothing beside them, which is better than an async program could give them.
``multiprocessing.Pool`` cuts the input into four chunks per worker, which is as good as it
gets when all items cost the same; ``executor.map`` is given chunks of 64; joblib and mpire
choose their own. Those that need more per item get fewer items.

Where aiopool loses: against ``multiprocessing.Pool.map``, which knows the length beforehand,
sends few huge chunks and answers nothing until they are done. aiopool reads its input as it
goes, keeps batches short enough to stay responsive and can say of every item how it went.
"""

import functools
import time

from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Options, Sample, main, using
from benchmarks.jobs import inc


async def per_item(options: Options, work: peers.Map, *, full: int, quick: int) -> Sample:
    """Time one map and check its answer."""
    items = options.pick(full, quick)
    start = time.perf_counter()
    answer = await work(inc, range(items))
    seconds = time.perf_counter() - start
    assert len(answer) == items
    assert answer[-1] == items
    return {"µs/item": seconds / items * 1e6}


many = functools.partial(per_item, full=200_000, quick=50_000)
some = functools.partial(per_item, full=50_000, quick=5_000)
few = functools.partial(per_item, full=10_000, quick=2_000)

BENCHMARK = Benchmark(
    "map_tiny",
    "map a function that costs nothing over a long range",
    [
        Contender("aiopool", using(peers.pool_maps, many)),
        Contender("multiprocessing.Pool.map", using(peers.multiprocessing_maps(), many)),
        Contender("mpire", using(peers.mpire_maps, many), restless=True),
        Contender("joblib", using(peers.joblib_maps, some)),
        Contender("executor.map, chunks of 64", using(peers.executor_maps(64), some)),
        Contender("run_in_executor", using(peers.executor_call_maps, few)),
    ],
    [
        Goal("aiopool", "µs/item", 1.2, versus="multiprocessing.Pool.map"),
        Goal("run_in_executor", "µs/item", 300, versus="aiopool", at_least=True),
        Goal("aiopool", "µs/item", 1),
    ],
)

if __name__ == "__main__":
    main(BENCHMARK)
