"""Every example and every benchmark runs, in smoke size, in an interpreter of its own."""

import importlib.util
import json
import re
from dataclasses import dataclass

import pytest

from tests.e2e.programs import environment
from tests.helpers import ROOT, run_python

pytestmark = pytest.mark.once

EXAMPLES = ROOT / "docs" / "examples"
BENCHMARKS = ROOT / "benchmarks"
PATIENCE = 180

GOOD_SOURCE = '''"""A module."""

import os


def choose(x):
    return 1 if x else 2
'''


def source_tree(folder):
    """Write five files that parse and one that does not; give their folder."""
    folder.mkdir()
    for number in range(5):
        (folder / f"good{number}.py").write_text(GOOD_SOURCE)
    (folder / "broken.py").write_text("def :\n")
    return folder


@dataclass(frozen=True)
class Smoke:
    """How to run an example in a second, and what it then prints.

    `arguments` makes the command line, given an empty folder; `expected` are patterns that
    the output has in this order; `needs` names packages without which there is no running it.
    """

    arguments: object = lambda folder: []
    expected: tuple = ()
    needs: tuple = ()


SMOKES = {
    "etl.py": [
        Smoke(
            lambda folder: ["--path", source_tree(folder / "tree"), "--workers", 2],
            (r"good0", r"broken", r"SyntaxError", r"serial"),
            needs=("rich",),
        ),
        Smoke(
            lambda folder: [
                *("--path", source_tree(folder / "tree"), "--workers", 2),
                *("--fault", 0.2, "--retry", 50),
            ],
            (r"good4", r"broken", r"SyntaxError", r"serial"),
            needs=("rich",),
        ),
    ],
    "background_worker.py": [
        Smoke(
            lambda folder: ["--chunks", 3],
            (r"looking for tasks 10", r"0 -> 0", r"13 -> worker", r"15 results of 15"),
        ),
    ],
    "failed_queue.py": [
        Smoke(
            lambda folder: ["--jobs", 5],
            (
                r"given up",
                r"job-02 +done +2 +Conn",
                r"killer +done +2 +Worker",
                r"4 of 5 jobs done",
            ),
        ),
    ],
    "pet_names.py": [
        Smoke(
            lambda folder: ["--seconds", 0.1],
            (r"Hana +Momo", r"Ada +Biscuit", r"Ivo +has no pet", r"9 look-ups", r"Otto +6 "),
        ),
    ],
    "priority_pool.py": [
        Smoke(
            lambda folder: ["--most", 50],
            (
                r"HIGH 0.*LOW 1",
                r"inf: 50 of 50",
                r"12 tasks done, 1 crashed",
                r"urgent, slice 2",
                "cancelled",
            ),
        ),
    ],
    "tasku.py": [
        Smoke(
            expected=(
                r"1\.task started",
                r"errors 2\]",
                r"10\.task done",
                r"now: .*3\.task\.failed",
            ),
            needs=("watchfiles",),
        ),
    ],
    # What it serves is shown by e2e/test_web.py.
    "webapp.py": [Smoke(lambda folder: ["--help"], (r"Serve", r"--port"))],
}


def cases():
    for name, smokes in SMOKES.items():
        for number, smoke in enumerate(smokes):
            yield pytest.param(name, smoke, id=f"{name}-{number}")


def benchmark_names():
    """Give the benchmarks that can be run by name: all scripts but the one that writes the page."""
    paths = sorted(BENCHMARKS.glob("[!_]*.py"))
    paths.remove(BENCHMARKS / "report.py")
    return [path.stem for path in paths if 'if __name__ == "__main__"' in path.read_text()]


@pytest.mark.parametrize(("name", "smoke"), list(cases()))
def test_an_example_runs(name, smoke, tmp_path):
    """The example ends well and prints what it is there to show, with nothing on stderr."""
    for package in smoke.needs:
        pytest.importorskip(package)
    arguments = (EXAMPLES / name, *smoke.arguments(tmp_path))
    done = run_python(*arguments, patience=PATIENCE, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(".*".join(smoke.expected), done.stdout, re.DOTALL), done.stdout
    assert done.stderr == ""


def test_every_example_is_smoked():
    """The table above says of every example how to run it, and of no other."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == SMOKES.keys()


@pytest.mark.parametrize("name", benchmark_names())
def test_a_benchmark_runs(name, tmp_path):
    """The benchmark measures aiopool, reports it as a table and writes the same as JSON."""
    path = tmp_path / "report.json"
    options = ("--quick", "--rounds", 1, "--json", path)
    done = run_python("-m", f"benchmarks.{name}", *options, patience=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{name}: .*^ +aiopool", done.stdout, re.DOTALL | re.MULTILINE), done.stdout
    (report,) = json.loads(path.read_text())
    assert report["benchmark"] == name
    assert any(name.startswith("aiopool") and rounds for name, rounds in report["rounds"].items())


def written_page(folder, *arguments):
    """Run the module of the benchmarks with these arguments, give the page it writes."""
    done = run_python("-m", *arguments, "--page", folder, patience=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "benchmarks.md"


def test_the_page_of_a_run_has_tables_goals_and_pictures(tmp_path):
    """Running benchmarks for a page writes tables, goals and, with matplotlib, pictures."""
    page = written_page(tmp_path, "benchmarks", "--quick", "--only", "imports").read_text()
    assert re.search(r"^\| aiopool \| [\d.]+ \(", page, re.MULTILINE), page
    assert re.search(r"^\| aiopool / anyio.* (met|\*\*missed\*\*) \|$", page, re.MULTILINE), page
    drawn = sorted(path.name for path in (tmp_path / "benchmarks").glob("imports.*"))
    can_draw = importlib.util.find_spec("matplotlib") is not None
    assert drawn == (["imports.png", "imports.svg"] if can_draw else [])
    assert ("(benchmarks/imports.svg)" in page) == can_draw


def test_a_page_written_again_keeps_what_was_added_by_hand(tmp_path):
    """The page of two runs has both, and the words that stood under the question before."""
    report = {
        "benchmark": "imports",
        "question": "a question",
        "about": "A question?\n\nAn answer.",
        "machine": {"python": "CPython 3.11", "loop": "asyncio"},
        "rounds": {"aiopool": [{"ms": 1}, {"ms": 3}], "a peer": [{"ms": 4}, {"ms": 4}]},
        "missing": {"another": "no another"},
        "goals": [{"claim": "aiopool: ms <= 1", "measured": 2.0, "met": False}],
    }
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps([report]))
    second.write_text(json.dumps([report | {"machine": report["machine"] | {"loop": "uvloop"}}]))
    page = written_page(tmp_path, "benchmarks.report", first)
    before = page.read_text()
    assert "**CPython 3.11, uvloop**" not in before
    page.write_text(before.replace("<!-- words -->\n", "<!-- words -->\nIt is noisy.\n"))
    text = written_page(tmp_path, "benchmarks.report", first, second).read_text()
    assert "<!-- words -->\nIt is noisy.\n<!-- end -->" in text
    assert "**CPython 3.11, asyncio**" in text
    assert "**CPython 3.11, uvloop**" in text
    assert "| aiopool: ms <= 1 | 2, **missed** | 2, **missed** |" in text
    assert "Left out: another (no another)." in text


def test_running_all_benchmarks_runs_every_one():
    """The list behind `python -m benchmarks` names every benchmark there is."""
    source = (BENCHMARKS / "__main__.py").read_text()
    names = re.search(r"^NAMES = \((.*?)\)", source, re.DOTALL | re.MULTILINE)[1]
    assert sorted(re.findall(r'"(\w+)"', names)) == benchmark_names()
