"""How long does a web service take for a trivial answer while its workers are saturated?

Measured: the 99th percentile of the time to a trivial answer, asked for over two connections
without pause, in milliseconds: when nothing else is asked for, ``idle``, and while sixteen
connections ask without pause for an answer that maps 20 calls of half a millisecond, ``busy``;
and their ratio. ``work per s`` counts those answers, ``bad`` what was no 200. The service is a
process of its own under uvicorn, on the loop of ``--loop``; the load comes from ``wrk`` where that
is installed, else, and with ``--quick``, from bare sockets in this process. Fair: the same
application, server and start method; the executor is shared by all requests and awaited by
``run_in_executor``, as everywhere. ``give_way`` has workers run where nobody else wants the CPU:
with it is how aiopool is to be used in a service, without it how an executor is.

Where aiopool loses: without ``give_way``, in the trivial answer, because its workers are busier and
the server waits longer for a CPU where there are no more of them than workers.
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import quantiles

from benchmarks.harness import ROOT, Benchmark, Contender, Goal, Measure, Options, Sample, main

FEW, MANY = 2, 16
"""Connections that ask for the trivial answer, and for work."""

REQUEST = "GET {path} HTTP/1.1\r\nHost: here\r\n\r\n"
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True, slots=True)
class Found:
    """What a generator of load saw: milliseconds, and numbers of answers."""

    p99: float
    answers: int
    bad: int


Press = Callable[[int, str, int, float], Coroutine[None, None, Found]]
"""Asks at a port for a path over so many connections, each without pause, for some seconds."""


async def by_wrk(port: int, path: str, connections: int, seconds: float) -> Found:
    """As ``wrk`` tells, which counts whole seconds."""
    url = f"http://127.0.0.1:{port}{path}"
    line = ["wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--latency", url]
    wrk = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
    text = (await wrk.communicate())[0].decode()
    late = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", text)
    answers = re.search(r"(\d+) requests in", text)
    if late is None or answers is None:
        message = f"wrk says {text!r}"
        raise RuntimeError(message)
    odd = re.findall(r"(?:Non-2xx or 3xx responses:|connect|read|write|timeout) (\d+)", text)
    return Found(float(late[1]) * UNITS[late[2]], int(answers[1]), sum(map(int, odd)))


async def by_sockets(port: int, path: str, connections: int, seconds: float) -> Found:
    """The same in Python."""
    request = REQUEST.format(path=path).encode()
    end = time.perf_counter() + seconds
    times: list[float] = []
    bad = 0

    async def ask() -> None:
        nonlocal bad
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while (start := time.perf_counter()) < end:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                times.append((time.perf_counter() - start) * 1e3)
                bad += b" 200 " not in head[:16]
        except (OSError, EOFError):
            bad += 1
        finally:
            writer.close()

    await asyncio.gather(*[ask() for _ in range(connections)])
    return Found(quantiles(times, n=100)[98] if len(times) > 1 else 0.0, len(times), bad)


async def measure(options: Options, port: int) -> Sample:
    """The trivial answer beside nothing, then beside work."""
    seconds = options.pick(5.0, 0.3)
    press: Press = by_wrk if shutil.which("wrk") and not options.quick else by_sockets
    idle = await press(port, "/", FEW, seconds)
    pressing = asyncio.create_task(press(port, "/work", MANY, 2 * seconds))
    await asyncio.sleep(seconds / 2)
    busy = await press(port, "/", FEW, seconds)
    work = await pressing
    return {
        "idle p99 ms": idle.p99,
        "busy p99 ms": busy.p99,
        "busy / idle": busy.p99 / idle.p99,
        "work per s": work.answers / (2 * seconds),
        "bad": idle.bad + busy.bad + work.bad,
    }


Opened = Callable[[Options], AbstractAsyncContextManager[Measure]]


def serving(name: str, **settings: str) -> Opened:
    """What runs one of ``benchmarks.sites`` and measures it."""

    @asynccontextmanager
    async def opened(options: Options) -> AsyncIterator[Measure]:
        for package in ("starlette", "uvicorn"):
            if find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        line = [sys.executable, "-m", "uvicorn", "--factory", f"benchmarks.sites:{name}"]
        line += ["--port", str(port), "--loop", options.loop, "--log-level", "critical"]
        environment = {**os.environ, "SITE_WORKERS": str(options.workers), **settings}
        site = await asyncio.create_subprocess_exec(*line, cwd=ROOT, env=environment)
        try:
            await warmed(port)
            yield lambda: measure(options, port)
        finally:
            site.send_signal(signal.SIGTERM)
            await site.wait()

    return opened


async def warmed(port: int) -> None:
    """Wait until the service answers, and all its workers have started."""
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                await by_sockets(port, "/work", MANY, 0.2)
                return
            await asyncio.sleep(0.05)


BENCHMARK = Benchmark(
    "web",
    "a trivial answer of a web service whose workers are saturated",
    [
        Contender("aiopool", serving("on_aiopool", SITE_GIVES_WAY="1")),
        Contender("aiopool, workers as usual", serving("on_aiopool")),
        Contender("run_in_executor", serving("on_executor")),
        Contender("run_in_executor, give_way", serving("on_executor", SITE_GIVES_WAY="1")),
    ],
    [
        Goal("aiopool", "busy / idle", 3),
        Goal("aiopool", "busy p99 ms", 1 / 2, versus="run_in_executor"),
        Goal("aiopool", "bad", 0),
    ],
    rounds=3,
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
