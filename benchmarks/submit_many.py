"""What do many single calls cost, each with a handle of its own?

Measured: the wall time of submitting them all and gathering the handles, divided by their
number. Fair: everyone gives every call a future or a coroutine that can be awaited and
cancelled; the function costs nothing; the workers are warm; the slowest two get fewer calls.
One call is one message to ``submit``'s contract: it is never run twice and never shares its
fate with another.

Where aiopool loses: when calls take milliseconds this difference is lost in them; see
``efficiency`` for those.
"""

import asyncio
import functools
import time

from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Options, Sample, main, using
from benchmarks.jobs import inc


async def gathered(options: Options, submit: peers.Call, *, full: int, quick: int) -> Sample:
    """Submit every call, then wait for all."""
    count = options.pick(full, quick)
    start = time.perf_counter()
    answers = await asyncio.gather(*[submit(inc, number) for number in range(count)])
    seconds = time.perf_counter() - start
    assert answers[-1] == count
    return {"µs/call": seconds / count * 1e6}


many = functools.partial(gathered, full=20_000, quick=4_000)
few = functools.partial(gathered, full=5_000, quick=500)

BENCHMARK = Benchmark(
    "submit_many",
    "many single calls, gathered",
    [
        Contender("aiopool", using(peers.submit_calls, many)),
        Contender("run_in_executor", using(peers.executor_calls, many)),
        Contender("anyio.to_process", using(peers.anyio_calls, many)),
        Contender("aiomisc.WorkerPool", using(peers.aiomisc_calls, many)),
        Contender("deadpool", using(peers.deadpool_calls, few), restless=True),
        Contender("aiomultiprocess", using(peers.aiomultiprocess_calls, few), restless=True),
    ],
    [Goal("run_in_executor", "µs/call", 20, versus="aiopool", at_least=True)],
    rounds=5,
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
