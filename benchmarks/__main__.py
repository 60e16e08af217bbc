"""Run every benchmark, each in an interpreter of its own: ``python -m benchmarks``.

Takes the options of the single benchmarks and hands them on, and four of its own:
``--python`` and ``--loops`` make it one run for each interpreter and loop, ``--only`` picks
benchmarks by name, and ``--page`` is the folder that then gets ``benchmarks.md`` and, in
``benchmarks/``, the samples and a picture for each question: ``docs`` unless ``--quick``,
``--only`` or ``--json`` say that this is no such occasion. ``--json FILE`` gets all the reports
in one list.

The page of the project is one command, an hour on a machine with nothing else to do, with the
``bench`` extra in both interpreters::

    python -m benchmarks --python python3.11 python3.13 --loops asyncio uvloop
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import report
from benchmarks.harness import ROOT, Options, add_options

NAMES = (
    "map_tiny",
    "map_skewed",
    "efficiency",
    "latency",
    "submit_many",
    "large_arguments",
    "shared_array",
    "coroutines",
    "stream_million",
    "urgent",
    "fairness",
    "straggler",
    "loop_health",
    "web",
    "recovery",
    "startup",
    "imports",
    "task_group",
    "command_line",
    "faults",
    "journal",
)

PATIENCE = 1_800
"""Seconds after which a benchmark is given up: somebody in it hangs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, and where it goes."""

    runs: list[tuple[str, Options]]
    names: list[str]
    json: Path | None
    page: Path | None


def command(python: str, name: str, options: Options, found: Path) -> list[str]:
    """The command line that runs one benchmark as this one was asked to run."""
    line = [python, "-m", f"benchmarks.{name}", "--json", str(found)]
    line += ["--workers", str(options.workers), "--loop", options.loop]
    if options.rounds:
        line += ["--rounds", str(options.rounds)]
    return [*line, "--quick"] if options.quick else line


def run(plan: Plan) -> Iterator[report.Report | None]:
    """Every report, None for a script that failed."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "report.json")
        for python, options in plan.runs:
            for name in plan.names:
                line = command(python, name, options, found)
                try:
                    ended = subprocess.run(line, check=False, timeout=PATIENCE).returncode
                except subprocess.TimeoutExpired:
                    ended = 1
                yield None if ended else json.loads(found.read_text())[0]
                print(f"{name} failed" if ended else "", flush=True)


def parse() -> Plan:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run them all.")
    add_options(parser)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--loops", nargs="+", choices=["asyncio", "uvloop"], help="event loops")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help="benchmarks")
    parser.add_argument("--page", type=Path, metavar="FOLDER", help="write the page there")
    given = parser.parse_args()
    options = Options(given.quick, given.workers, given.loop, given.rounds)
    runs = [
        (python, replace(options, loop=loop))
        for python in given.python
        for loop in given.loops or [given.loop]
    ]
    partial = given.quick or given.only or given.json
    page = given.page or (None if partial else ROOT / "docs")
    return Plan(runs, given.only or list(NAMES), given.json, page)


def main() -> int:
    """Run them all; the exit status is the number of scripts that failed."""
    plan = parse()
    every = list(run(plan))
    reports = [one for one in every if one is not None]
    if plan.json is not None:
        plan.json.write_text(json.dumps(reports, indent=2) + "\n")
    if plan.page is not None:
        report.write(reports, plan.page)
    return len(every) - len(reports)


if __name__ == "__main__":
    sys.exit(main())
