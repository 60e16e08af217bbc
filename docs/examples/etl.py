"""Survey the Python standard library: read in threads, parse in processes, load into SQLite.

    python docs/examples/etl.py --fault 0.01 --retry 5      (needs the extra ``cli``)

Each stage is a stream whose input is the stage before it, so only a few files are in memory. What
fails is reported and stops nothing: the library's own tests hold files that do not parse. With
``--fault P`` each call kills its own worker with probability P, and retries make good for it.
At the end the same work is done serially, to tell what the pool was worth.
"""

import argparse
import ast
import random
import signal
import sqlite3
import sysconfig
import time
import warnings
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import rich
from rich.progress import MofNCompleteColumn, Progress, TaskID
from rich.table import Column, Table
from rich.text import Text

import aiopool

T = TypeVar("T")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.comprehension)
BRANCHES = (*LOOPS, ast.If, ast.IfExp, ast.BoolOp, ast.ExceptHandler, ast.match_case)
UNPARSABLE = (SyntaxError, ValueError)
COLUMNS = ("module", "lines", "defs", "classes", "complexity", "longest", "docs")
TABLES = f"""
    DROP TABLE IF EXISTS modules; CREATE TABLE modules({", ".join(COLUMNS)});
    DROP TABLE IF EXISTS imports; CREATE TABLE imports(module, imported);
"""


class Source(NamedTuple):
    """A file as it was read."""

    name: str
    text: bytes


class Module(NamedTuple):
    """What is known of a file: a row of the database, and the edges of the import graph."""

    row: tuple[str, int, int, int, int, int, str]
    imports: set[tuple[str, str]]


# The work is done by plain functions, which know nothing of concurrency.


def find(root: Path) -> list[str]:
    """The Python files below ``root``, installed packages left out."""
    files = (path.relative_to(root) for path in sorted(root.rglob("*.py")))
    return [str(file) for file in files if "site-packages" not in file.parts]


def read(root: Path, name: str) -> Source:
    return Source(name, (root / name).read_bytes())


def analyse(source: Source, fault: float = 0.0) -> Module:
    """Parse and measure a file, or, with probability ``fault``, kill this process."""
    if random.random() < fault:
        signal.raise_signal(signal.SIGKILL)
    tree = ast.parse(source.text, source.name)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    branches = sum(isinstance(node, BRANCHES) for node in nodes)
    documented = [bool(ast.get_docstring(node)) for node in (tree, *functions, *classes)]
    counts = (len(functions), len(classes), len(functions) + branches, max(lengths, default=0))
    share = f"{sum(documented) / len(documented):.0%}"
    row = (source.name, source.text.count(b"\n"), *counts, share)
    return Module(row, {(source.name, name) for node in nodes for name in imported(node)})


def imported(node: ast.AST) -> Iterator[str]:
    """What a statement imports; a relative name keeps its dots."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield "." * node.level + (node.module or "")


def load(database: sqlite3.Connection, module: Module) -> None:
    database.execute("INSERT INTO modules VALUES (?, ?, ?, ?, ?, ?, ?)", module.row)
    database.executemany("INSERT INTO imports VALUES (?, ?)", module.imports)


@dataclass(frozen=True)
class Survey:
    """The pool's turn: the bar that shows it, and what failed with the reason."""

    bar: Progress
    task: TaskID
    failures: dict[str, BaseException] = field(default_factory=dict)

    async def run(self, options: argparse.Namespace, database: sqlite3.Connection) -> int:
        """Read, analyse and load, all at the same time; return how many workers died."""
        hush = partial(warnings.simplefilter, "ignore")
        reader = partial(read, options.path)
        worker = partial(analyse, fault=options.fault)
        loader = partial(load, database)
        retry = aiopool.Retry(options.retry, on=aiopool.WorkerCrashed, wait_initial=0.01)
        careful = aiopool.TaskOptions(retry=retry, timeout=options.timeout)
        async with aiopool.Pool(options.workers, initializer=hush) as pool:
            names = await pool.run(find, options.path, on="thread")
            self.bar.update(self.task, total=len(names))
            sources = pool.stream(reader, names, ordered=False, on="thread", limit=options.limit)
            modules = pool.stream(worker, self.good(sources), ordered=False, **careful)
            async with pool.stream(loader, self.good(modules), on="thread", limit=1) as loaded:
                async for _ in loaded:
                    self.bar.advance(self.task)
            return pool.statistics().crashed

    async def good(self, stage: "aiopool.Stream[T]") -> AsyncIterator[T]:
        """Hand on what a stage made of its items; keep note of those it failed on."""
        async with stage:
            async for outcome in stage.outcomes():
                if outcome.error is None:
                    yield outcome.unwrap()
                else:
                    self.failures[str(getattr(outcome.item, "name", outcome.item))] = outcome.error
                    self.bar.advance(self.task)


@contextmanager
def opened(path: str = "") -> Iterator[sqlite3.Connection]:
    """A database with empty tables, a temporary one without a path; kept if all goes well."""
    with closing(sqlite3.connect(path, check_same_thread=False)) as database, database:
        database.executescript(TABLES)
        yield database


def compare(options: argparse.Namespace) -> int:
    """Do it both ways, report, and return the exit status."""
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as bar:
        start = time.perf_counter()
        with opened(options.db) as database:
            survey = Survey(bar, bar.add_task("aiopool", total=None))
            lost = aiopool.run(survey.run(options, database))
            ranking = "SELECT * FROM modules ORDER BY complexity DESC LIMIT 10"
            worst = list(database.execute(ranking))
        pooled = time.perf_counter() - start
        with opened() as database:
            warnings.simplefilter("ignore")
            for name in bar.track(find(options.path), description="serially"):
                with suppress(*UNPARSABLE):
                    load(database, analyse(read(options.path, name)))
        serial = time.perf_counter() - start - pooled
    failed = [(name, type(e).__name__, e) for name, e in sorted(survey.failures.items())]
    rich.print(table("The most complex modules", COLUMNS, worst))
    rich.print(table("Failed", ("file", "error", "reason"), failed))
    rich.print(f"{pooled:.1f} s with aiopool, {lost} workers lost on the way")
    rich.print(f"{serial:.1f} s serially, {serial / pooled:.2f} times that")
    return 0 if all(isinstance(error, UNPARSABLE) for *_, error in failed) else 1


def table(title: str, columns: Iterable[str], rows: Iterable[tuple[object, ...]]) -> Table:
    """A table whose cells wrap rather than lose text."""
    result = Table(*(Column(name, overflow="fold") for name in columns), title=title)
    for row in rows:
        result.add_row(*(Text(str(cell)) for cell in row))
    return result


def main() -> int:
    """Read the command line and run until done or Ctrl-C."""
    parser = argparse.ArgumentParser(description="Survey a tree of Python files.")
    add = parser.add_argument
    add("--path", type=Path, default=Path(sysconfig.get_paths()["stdlib"]), help="the tree")
    add("--workers", type=int, help="worker processes (one per CPU)")
    add("--limit", type=int, default=32, help="files read at once (32)")
    add("--retry", type=int, default=3, help="attempts if the worker dies (3)")
    add("--timeout", type=float, default=60, help="seconds for one file (60)")
    add("--db", default="", help="where to keep the database (nowhere)")
    add("--fault", type=float, default=0, metavar="P", help="a call's chance to die (0)")
    options = parser.parse_args()
    try:
        return compare(options)
    except KeyboardInterrupt:
        rich.print("Stopped.")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
