"""Compare aiopool with its peers so that noise hits all of them alike.

A benchmark is a list of contenders. All are opened and warmed first; then, round after
round, each is measured once, in an order that rotates. So a slow second of the machine slows
one round of everybody instead of every round of somebody. Reported are the median over the
rounds, the smallest and largest value, and the median of the round-by-round ratio to the
first contender that has the figure: ``2.9x`` means 2.9 times as much as aiopool.

Rules a contender keeps: the same number of workers, started with the same method
(forkserver) where it has a choice; the same jobs, from ``benchmarks.jobs``; the way of use
its own documentation recommends. A peer that is not installed, or that fails, is left out
and named. Who keeps the parent busy while idle is opened anew for each of its rounds, so that
it does not slow the others.

Goals are printed as met or missed and never decide the exit status: one run on a busy
machine proves nothing.
"""

import argparse
import asyncio
import gc
import json
import logging
import multiprocessing
import os
import platform
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from statistics import median
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent

Sample = Mapping[str, float]
"""What one round of one contender measured: figure, with its unit in the name, to value."""

Measure = Callable[[], Awaitable[Sample]]

Rounds = Mapping[str, Sequence[Sample]]
"""Contender to what its rounds measured."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, the same for every benchmark."""

    quick: bool = False
    workers: int = 2
    loop: str = "asyncio"
    rounds: int | None = None
    json: Path | None = None

    @property
    def context(self) -> ForkServerContext:
        """The start method of every contender that has a choice."""
        return multiprocessing.get_context("forkserver")

    def pick(self, full: T, quick: T) -> T:
        """The size to use: ``quick`` under ``--quick``."""
        return quick if self.quick else full

    def run(self, main: Callable[[], Awaitable[T]]) -> T:
        """Run ``main()`` on the loop that was asked for."""

        async def call() -> T:
            return await main()

        # asyncio remarks upon subprocesses that anyio kills as the loop closes.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if self.loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(call())


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of doing the job.

    ``open`` starts and warms it and yields what measures one round. It raises ImportError
    if the library is not installed. ``restless`` are those that poll while they are idle.
    """

    name: str
    open: Callable[[Options], AbstractAsyncContextManager[Measure]]
    restless: bool = False

    @asynccontextmanager
    async def opened(self, options: Options) -> AsyncIterator[Measure]:
        """Open it for all rounds, or, if it is restless, for each."""
        if not self.restless:
            async with self.open(options) as measure:
                yield measure
            return

        async def measure_anew() -> Sample:
            async with self.open(options) as measure:
                return await measure()

        yield measure_anew


def using(
    peer: Callable[[Options], AbstractAsyncContextManager[T]],
    measure: Callable[[Options, T], Awaitable[Sample]],
) -> Callable[[Options], AbstractAsyncContextManager[Measure]]:
    """What opens a contender out of ``benchmarks.peers`` that is measured in this way."""

    @asynccontextmanager
    async def opened(options: Options) -> AsyncIterator[Measure]:
        async with peer(options) as pool:
            yield lambda: measure(options, pool)

    return opened


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, and how it went."""

    claim: str
    measured: float
    met: bool

    def __str__(self) -> str:
        return f"{self.claim}, measured {self.measured:.3g}: {'met' if self.met else 'MISSED'}"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on ``subject``'s ``figure``, as a multiple of ``versus``'s if that is given.

    ``loop`` is the only one on which it is asked for, if not None.
    """

    subject: str
    figure: str
    bound: float
    versus: str | None = None
    at_least: bool = False
    loop: str | None = None

    @property
    def claim(self) -> str:
        """The goal in words."""
        other = f" / {self.versus}" if self.versus else ""
        sign = ">=" if self.at_least else "<="
        return f"{self.subject}{other}: {self.figure} {sign} {self.bound:.3g}"

    def judge(self, rounds: Rounds, loop: str) -> Verdict | None:
        """How it went; None if it is not asked for here or a side of it was not measured."""
        if self.versus is None:
            values = column(rounds.get(self.subject, ()), self.figure)
        else:
            values = ratios(rounds, self.figure, self.subject, self.versus)
        if not values or self.loop not in {None, loop}:
            return None
        value = median(values)
        met = value >= self.bound if self.at_least else value <= self.bound
        return Verdict(self.claim, value, met)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One question, and who answers it. The first contender is aiopool."""

    name: str
    question: str
    contenders: Sequence[Contender]
    goals: Sequence[Goal] = ()
    rounds: int = 7
    quick_rounds: int = 2


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one run of one benchmark found."""

    benchmark: Benchmark
    options: Options
    machine: Mapping[str, str | int]
    rounds: Rounds
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[Verdict]:
        """How each goal went that could be judged."""
        found = (goal.judge(self.rounds, self.options.loop) for goal in self.benchmark.goals)
        return [verdict for verdict in found if verdict is not None]

    def as_json(self) -> dict[str, object]:
        """Plain data, every sample included."""
        return {
            "benchmark": self.benchmark.name,
            "question": self.benchmark.question,
            "about": sys.modules["__main__"].__doc__,
            "machine": dict(self.machine),
            "options": asdict(self.options) | {"json": None},
            "rounds": {name: [dict(s) for s in samples] for name, samples in self.rounds.items()},
            "missing": dict(self.missing),
            "goals": [asdict(verdict) for verdict in self.verdicts],
        }


def figures(rounds: Rounds) -> list[str]:
    """The figures measured, in the order they first appeared."""
    samples = (sample for samples in rounds.values() for sample in samples)
    return list(dict.fromkeys(figure for sample in samples for figure in sample))


def column(samples: Sequence[Sample], figure: str) -> list[float]:
    """One figure of one contender over the rounds that measured it."""
    return [sample[figure] for sample in samples if figure in sample]


def ratios(rounds: Rounds, figure: str, above: str, below: str) -> list[float]:
    """``above / below`` of each round that measured both."""
    pairs = zip(rounds.get(above, ()), rounds.get(below, ()), strict=False)
    return [a[figure] / b[figure] for a, b in pairs if figure in a and b.get(figure)]


def machine(options: Options) -> dict[str, str | int]:
    """The facts without which a number means nothing."""
    facts: dict[str, str | int] = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": options.loop,
        "workers": options.workers,
        "cpus": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "sched_getaffinity"):
        facts["usable cpus"] = len(os.sched_getaffinity(0))
    if hasattr(os, "getloadavg"):
        facts["load before"] = f"{os.getloadavg()[0]:.1f}"
    return facts


async def compare(benchmark: Benchmark, options: Options) -> Report:
    """Open every contender that is installed, then measure them in turns."""
    missing: dict[str, str] = {}
    measures: dict[str, Measure] = {}
    facts = machine(options)
    async with AsyncExitStack() as stack:
        for contender in benchmark.contenders:
            try:
                measure = await stack.enter_async_context(contender.opened(options))
            except ModuleNotFoundError as error:
                missing[contender.name] = reason(error)
            else:
                measures[contender.name] = measure
        rounds = options.rounds or options.pick(benchmark.rounds, benchmark.quick_rounds)
        samples = await interleave(measures, rounds, missing)
    return Report(benchmark, options, facts, samples, missing)


async def interleave(
    measures: Mapping[str, Measure], rounds: int, missing: dict[str, str]
) -> dict[str, list[Sample]]:
    """``rounds`` rounds of everybody, each round starting with somebody else.

    A peer that fails is entered in ``missing`` and measured no more; aiopool's failures raise.
    """
    names = list(measures)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if name in missing:
                continue
            gc.collect()
            try:
                samples[name].append(await measures[name]())
            except Exception as error:
                if name.startswith("aiopool"):
                    raise
                missing[name] = reason(error)
    return {name: found for name, found in samples.items() if name not in missing}


def reason(error: Exception) -> str:
    """Why a peer is left out."""
    if isinstance(error, ModuleNotFoundError):
        return f"no {error.name or error}"
    return f"failed with {type(error).__name__}: {error}"


def render(report: Report) -> str:
    """The report as a plain table."""
    facts = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    lines = [f"{report.benchmark.name}: {report.benchmark.question}", f"  ({facts})"]
    rows = table(report.rounds)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        cells = (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join(["", row[0].ljust(widths[0]), *cells]).rstrip())
    lines += [f"  left out: {name} ({reason})" for name, reason in report.missing.items()]
    lines += [f"  goal  {verdict}" for verdict in report.verdicts]
    return "\n".join(lines)


def table(rounds: Rounds) -> list[list[str]]:
    """A head, and a row for every contender: its name and a cell for each figure."""
    names = figures(rounds)
    return [["", *names], *([name, *(cell(rounds, name, f) for f in names)] for name in rounds)]


def cell(rounds: Rounds, name: str, figure: str) -> str:
    """Median, range and ratio of one figure, empty if this contender does not have it."""
    values = column(rounds[name], figure)
    if not values:
        return ""
    reference = next(n for n, samples in rounds.items() if column(samples, figure))
    text = short(median(values))
    if len(values) > 1:
        text += f" ({short(min(values))}..{short(max(values))})"
    factors = ratios(rounds, figure, name, reference)
    return f"{text} {short(median(factors)):>5}x" if factors else text


def short(value: float) -> str:
    """Three significant digits, none beyond the third decimal."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{round(value, 3):.3g}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command lines of all benchmarks share."""
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--rounds", type=int, help="how often each contender is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")


def main(benchmark: Benchmark) -> None:
    """Run one benchmark as a script."""
    parser = argparse.ArgumentParser(description=benchmark.question)
    add_options(parser)
    options = Options(**vars(parser.parse_args()))
    report = options.run(lambda: compare(benchmark, options))
    print(render(report), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([report.as_json()], indent=2) + "\n")
