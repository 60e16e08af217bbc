"""Run every benchmark, each in an interpreter of its own: ``python -m benchmarks --quick``.

Takes the options of the single benchmarks and hands them on. ``--json FILE`` gets all the
reports in one list.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Options, parse

NAMES = (
    "latency",
    "map_tiny",
    "submit_many",
    "coroutines",
    "large_arguments",
    "efficiency",
    "recovery",
    "startup",
    "loop_health",
    "faults",
    "task_group",
)


def command(name: str, options: Options, report: Path) -> list[str]:
    """The command line that runs one benchmark as this one was asked to run."""
    line = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(report)]
    line += ["--workers", str(options.workers), "--loop", options.loop]
    if options.rounds:
        line += ["--rounds", str(options.rounds)]
    return [*line, "--quick"] if options.quick else line


def main() -> int:
    """Run them all; the exit status is the number of scripts that failed."""
    options = parse()
    reports: list[object] = []
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            report = Path(folder, f"{name}.json")
            if subprocess.run(command(name, options, report), check=False).returncode:
                failed += 1
            else:
                reports += json.loads(report.read_text())
            print(flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(reports, indent=2) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
