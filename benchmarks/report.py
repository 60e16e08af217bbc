"""Write the page of one or several runs: ``python -m benchmarks.report a.json b.json --page docs``.

Takes what ``python -m benchmarks --json FILE`` wrote, one file or many, and writes
``benchmarks.md`` into the folder and, into ``benchmarks/`` beside it, a picture for each question
(if matplotlib is installed) and every sample. Runs may differ in interpreter, loop, workers and
machine: the page names them and gives each a table of its own.

The page may be completed by hand: what stands between ``<!-- words -->`` and ``<!-- end -->``
under a question is kept when the page is written again.
"""

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

from benchmarks import pictures
from benchmarks.harness import Rounds, table


class Goal(TypedDict):
    """As the harness wrote it down."""

    claim: str
    measured: float
    met: bool


class Report(TypedDict):
    """One benchmark of one run, as the harness wrote it down."""

    benchmark: str
    question: str
    about: str
    machine: dict[str, str | int]
    rounds: Rounds
    missing: dict[str, str]
    goals: list[Goal]


Runs: TypeAlias = dict[str, Report]
"""The reports on one question, by the name of their run."""

HEAD = """\
# Benchmarks

Written by `python -m benchmarks`; [every sample](benchmarks/samples.json). Each figure is the
median over the rounds, with the smallest and the largest beside it, and the median of the
round-by-round ratio to the first row that has the figure: `2.9x` means 2.9 times as much. All
contenders of a question are measured in turns, in an order that rotates, so that a slow moment of
the machine hits everybody alike. Bars show the median and the range.

What becomes of the others when one call goes wrong is a table in [reliability.md](reliability.md).
"""

OPENING, CLOSING = "<!-- words -->", "<!-- end -->"


def measured(report: Report) -> bool:
    """Whether it has figures, and is not a matrix of words as that of ``faults``."""
    return "machine" in report


def run_name(report: Report) -> str:
    """What tells one run from another in a few words."""
    facts = report["machine"]
    return f"{facts['python']}, {facts['loop']}"


def by_question(reports: Iterable[Report]) -> dict[str, Runs]:
    """Question, in the order they came, to run to report; a later one replaces an earlier."""
    questions: dict[str, Runs] = {}
    for report in filter(measured, reports):
        questions.setdefault(report["benchmark"], {})[run_name(report)] = report
    return questions


def write(reports: Sequence[Report], folder: Path) -> None:
    """Write page, pictures and samples into ``folder``."""
    questions = by_question(reports)
    beside = folder / "benchmarks"
    beside.mkdir(parents=True, exist_ok=True)
    drawn = set()
    for name, runs in questions.items():
        rounds = {run: report["rounds"] for run, report in runs.items()}
        if pictures.draw(name, next(iter(runs.values()))["question"], rounds, beside):
            drawn.add(name)
    page = folder / "benchmarks.md"
    words = kept(page.read_text(encoding="utf-8")) if page.exists() else {}
    parts = [HEAD, *machines(questions)]
    for name, runs in questions.items():
        parts += section(name, runs, words.get(name, ""), picture=name in drawn)
    page.write_text("\n".join(parts), encoding="utf-8")
    (beside / "samples.json").write_text(json.dumps(list(reports), indent=1) + "\n")
    print(f"wrote {page}" + ("" if drawn else ", without pictures (no matplotlib)"))


def kept(page: str) -> dict[str, str]:
    """What was written by hand, by benchmark."""
    words = {}
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        found = re.search(f"{OPENING}\n(.*?){CLOSING}", part, re.DOTALL)
        name = re.search(r"`benchmarks/(\w+)\.py`", part)
        if found and name:
            words[name[1]] = found[1]
    return words


def machines(questions: dict[str, Runs]) -> Iterator[str]:
    """The facts of every run, and how many of its goals it met."""
    runs: dict[str, list[Report]] = {}
    for by_run in questions.values():
        for run, report in by_run.items():
            runs.setdefault(run, []).append(report)
    rows = [["run", "workers", "cpus", "usable cpus", "system", "load before", "goals met"]]
    for run, reports in runs.items():
        goals = [goal["met"] for report in reports for goal in report["goals"]]
        loads = [float(report["machine"].get("load before", 0)) for report in reports]
        facts = reports[0]["machine"]
        cells = [str(facts.get(fact, "")) for fact in rows[0][1:5]]
        load = f"{min(loads):.1f} to {max(loads):.1f}"
        rows.append([run, *cells, load, f"{sum(goals)} of {len(goals)}"])
    yield "\n".join(markdown(rows)) + "\n"


def section(name: str, runs: Runs, words: str, *, picture: bool) -> Iterator[str]:
    """One question: what was asked and how, the picture, the tables, the goals."""
    first = next(iter(runs.values()))
    title, _, about = (first["about"] or name).strip().partition("\n")
    yield f"## {title.replace('``', '`')}\n"
    yield f"`benchmarks/{name}.py`: {first['question']}.\n"
    yield about.strip().replace("``", "`") + "\n"
    yield f"{OPENING}\n{words}{CLOSING}\n"
    if picture:
        yield f"![{first['question']}](benchmarks/{name}.svg)\n"
    for run, report in runs.items():
        yield f"**{run}**\n"
        yield "\n".join(markdown(table(report["rounds"]))) + "\n"
        for contender, reason in report["missing"].items():
            yield f"Left out: {contender} ({reason}).\n"
    yield from goals(runs)


def goals(runs: Runs) -> Iterator[str]:
    """A row for every goal, a column for every run."""
    claims = list(dict.fromkeys(g["claim"] for report in runs.values() for g in report["goals"]))
    if not claims:
        return
    rows = [[claim, *(verdict(report, claim) for report in runs.values())] for claim in claims]
    yield "\n".join(markdown([["goal", *runs], *rows])) + "\n"


def verdict(report: Report, claim: str) -> str:
    """What was measured for it, empty if it was not asked for in that run."""
    for goal in report["goals"]:
        if goal["claim"] == claim:
            return f"{goal['measured']:.3g}, {'met' if goal['met'] else '**missed**'}"
    return ""


def markdown(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table, its first row the head."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(' '.join(cell.split()) for cell in row)} |"
        if not number:
            yield "|---" * len(row) + "|"


def main() -> None:
    """Read the files, write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("files", nargs="+", type=Path, help="what --json wrote")
    parser.add_argument("--page", type=Path, default=Path("docs"), metavar="FOLDER")
    given = parser.parse_args()
    reports = [report for file in given.files for report in json.loads(file.read_text())]
    write(reports, given.page)


if __name__ == "__main__":
    main()
