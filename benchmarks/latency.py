"""What does one call cost on an idle pool?

Measured: the time from calling to having the answer, one call after the other, median and
99th percentile. Fair: everyone has warm workers and runs the same function; nobody has
anything else to do. The pipe is the floor: two processes, blocking ``send`` and ``recv``, no
event loop, no scheduler, no way to cancel. anyio and aiomisc start their workers with
``subprocess``, which makes no difference once they run.

Where aiopool loses: always against the bare pipe, since an event loop turns twice per call;
and the gap to anyio narrows on a machine where waking a process is what costs most.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import quantiles

from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main, using
from benchmarks.jobs import answer_calls, inc


def sample(seconds: list[float]) -> Sample:
    """Percentiles of one round's calls."""
    cuts = quantiles(seconds, n=100)
    return {"p50 µs": cuts[49] * 1e6, "p99 µs": cuts[98] * 1e6}


async def calls(options: Options, call: peers.Call) -> Sample:
    """Time one call after the other."""
    seconds = []
    for _ in range(options.pick(2_000, 300)):
        start = time.perf_counter()
        await call(inc, 1)
        seconds.append(time.perf_counter() - start)
    return sample(seconds)


@asynccontextmanager
async def with_pipe(options: Options) -> AsyncIterator[Measure]:
    """A blocking round trip over ``multiprocessing.Pipe``: the floor."""
    ours, theirs = options.context.Pipe()
    process = options.context.Process(target=answer_calls, args=(theirs,))
    process.start()
    theirs.close()

    async def measure() -> Sample:
        seconds = []
        for _ in range(options.pick(2_000, 300)):
            start = time.perf_counter()
            ours.send(1)
            ours.recv()
            seconds.append(time.perf_counter() - start)
        return sample(seconds)

    await measure()
    yield measure
    ours.close()
    process.join()


BENCHMARK = Benchmark(
    "latency",
    "one call on an idle pool",
    [
        Contender("aiopool", using(peers.run_calls, calls)),
        Contender("anyio.to_process", using(peers.anyio_calls, calls)),
        Contender("run_in_executor", using(peers.executor_calls, calls)),
        Contender("aiomisc.WorkerPool", using(peers.aiomisc_calls, calls)),
        Contender("deadpool", using(peers.deadpool_calls, calls), restless=True),
        Contender("bare pipe", with_pipe),
    ],
    [
        Goal("aiopool", "p50 µs", 0.4, versus="anyio.to_process"),
        Goal("aiopool", "p50 µs", 1.6, versus="bare pipe", loop="asyncio"),
        Goal("aiopool", "p50 µs", 1.3, versus="bare pipe", loop="uvloop"),
    ],
    rounds=11,
    quick_rounds=2,
)

if __name__ == "__main__":
    main(BENCHMARK)
