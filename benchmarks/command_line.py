"""How many lines a second does `aiopool map` put through a function that costs nothing?

Measured: the whole life of the command, from its start to its end, over a file of short lines, each
turned to upper case and written as JSON to a file. Fair: two processes do the work everywhere, and
everyone runs the same interpreter on the same function. ``xargs`` and GNU ``parallel`` are given a
thousand lines for each interpreter they start, ``parallel --pipe`` blocks of a megabyte, which is
its fastest. ``parallel -n1000`` gets a tenth of the lines, because it needs half a minute for all.

What the others do not do: xargs mixes the output of its processes, and of both a program that fails
takes its whole block with it. aiopool answers in order, and a line that fails, fails alone. It runs
on uvloop where that is installed, whatever ``--loop`` says.

Where aiopool loses: against ``parallel --pipe`` with blocks so large that every process does little
but loop over lines, when the function costs nothing.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from benchmarks.harness import ROOT, Benchmark, Contender, Goal, Measure, Options, Sample, main

BY_ARGUMENTS = """
import json, sys
from jobs import upper
for line in sys.argv[1:]:
    sys.stdout.write(json.dumps(upper(line)) + "\\n")
"""
BY_LINES = """
import json, sys
from jobs import upper
for line in sys.stdin:
    sys.stdout.write(json.dumps(upper(line.removesuffix("\\n"))) + "\\n")
"""
JOBS = """
def upper(line):
    return line.upper()
"""

Command = Callable[[Options], Sequence[str]]


def opened(
    command: Command, *, full: int = 1_000_000, tool: str | None = None
) -> Callable[[Options], AbstractAsyncContextManager[Measure]]:
    """What times one command over so many lines."""

    @asynccontextmanager
    async def prepared(options: Options) -> AsyncIterator[Measure]:
        if tool is not None and shutil.which(tool) is None:
            raise ModuleNotFoundError(tool, name=tool)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file, text in {"by_args": BY_ARGUMENTS, "by_lines": BY_LINES, "jobs": JOBS}.items():
                (folder / f"{file}.py").write_text(text)
            count = options.pick(full, 3_000)
            (folder / "in").write_text("".join(f"line_{n}\n" for n in range(count)))
            yield lambda: lines_a_second(command(options), folder, count)

    return prepared


async def lines_a_second(command: Sequence[str], folder: Path, count: int) -> Sample:
    """Run the command over the lines and check that every line has its answer."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    with (folder / "in").open("rb") as source, (folder / "out").open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=source, stdout=sink, cwd=folder, env=environment
        )
        status = await process.wait()
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{command[0]} ended with status {status}")
    with (folder / "out").open("rb") as found:
        assert sum(1 for _ in found) == count
    return {"lines/s": count / seconds}


def aiopool_map(options: Options) -> Sequence[str]:
    """One command for all lines."""
    workers = str(options.workers)
    return [sys.executable, "-m", "aiopool", "map", "jobs:upper", "--workers", workers]


def xargs(options: Options) -> Sequence[str]:
    """An interpreter for each thousand lines, given as arguments."""
    return ["xargs", f"-P{options.workers}", "-n1000", sys.executable, "by_args.py"]


def parallel(*more: str) -> Command:
    """GNU parallel, with these options."""
    return lambda options: [
        *("parallel", "--will-cite", f"-j{options.workers}"),
        *(*more, sys.executable, "by_lines.py" if "--pipe" in more else "by_args.py"),
    ]


BENCHMARK = Benchmark(
    "command_line",
    "a million short lines through a function that costs nothing, from a shell",
    [
        Contender("aiopool map", opened(aiopool_map)),
        Contender("xargs -n1000", opened(xargs, tool="xargs")),
        Contender("parallel -n1000", opened(parallel("-n1000"), full=100_000, tool="parallel")),
        Contender("parallel --pipe, 1 MB", opened(parallel("--pipe"), tool="parallel")),
    ],
    [
        Goal("aiopool map", "lines/s", 100_000, at_least=True),
        Goal("aiopool map", "lines/s", 1, versus="xargs -n1000", at_least=True),
        Goal("aiopool map", "lines/s", 1, versus="parallel -n1000", at_least=True),
    ],
    rounds=3,
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
