"""The command line, declared: what each command is called, takes and says of itself.

A command is a function below, under ``@app.command()``. Its body imports what does the work, so
that ``--help`` and the other commands do not pay for it, and hands over to ``_end``, which ends the
program.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["app"]

_PATIENCE: Final = 0.1
"""Seconds for a thread to end that has nothing left to do."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def about() -> None:
    """Run functions over many records, in worker processes or on an event loop."""


def _end(command: Callable[[], int]) -> None:
    """End the program with a command's status.

    That is 2, and one line, if the user has made a mistake, and 130 after a Ctrl-C.
    """
    from aiopool._cli.mistakes import Mistake

    try:
        status = command()
    except Mistake as mistake:
        typer.echo(f"aiopool: {mistake}", err=True)
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # nobody reads what it says of itself
        status = 141
    _leave_threads(status)
    raise typer.Exit(status)


def _leave_threads(status: int) -> None:
    """Do not wait for calls in threads, which nothing can stop."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(_PATIENCE)
            if thread.is_alive():
                with suppress(OSError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)


# --- parameters that commands share ---------------------------------------------------------


class Form(StrEnum):
    """Formats of records."""

    lines = "lines"
    jsonl = "jsonl"
    csv = "csv"
    paths = "paths"


class Place(StrEnum):
    """Where a function may run."""

    process = "process"
    thread = "thread"
    loop = "loop"


Target: TypeAlias = Annotated[
    str, typer.Argument(metavar="MODULE:FUNCTION", help="Plain or async def, of one argument.")
]
Ordered: TypeAlias = Annotated[
    bool, typer.Option("--ordered/--unordered", help="Results in the order of the records.")
]
Workers: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Worker processes.", show_default="usable CPUs")
]
Limit: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Calls at once.", show_default="100 for async def")
]
Attempts: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Attempts at a record, the first included.")
]
Backoff: TypeAlias = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="Wait before the first retry; doubles.")
]
Timeout: TypeAlias = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Stop an attempt after so long.")
]
Deadline: TypeAlias = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Stop everything after so long.")
]
Rank: TypeAlias = Annotated[int, typer.Option(help="Lower runs first, as nice has it.")]
On: TypeAlias = Annotated[
    Place | None, typer.Option(help="Where it runs.", show_default="async def: loop, def: process")
]
Rate: TypeAlias = Annotated[
    str | None, typer.Option(metavar="N/s", help="Begin so many a second (/m: minute, /h: hour).")
]
Journal: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FILE", help="Note what is done; go on from there next time.")
]
Rerun: TypeAlias = Annotated[
    bool, typer.Option("--rerun-failed", help="Try again what the journal has as failed.")
]
Quick: TypeAlias = Annotated[bool, typer.Option("--quick", help="Small sizes, for a first look.")]
Progress: TypeAlias = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", help="A live line.", show_default="on a terminal"),
]


# --- commands -------------------------------------------------------------------------------


@app.command(name="map")
def map_(  # noqa: PLR0913, PLR0917 - typer reads a command line from a signature
    target: Target,
    files: Annotated[list[str] | None, typer.Argument(help="Stdin if none, or -.")] = None,
    form: Annotated[Form, typer.Option("--format", help="What a record is.")] = Form.lines,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Results; else stdout.")
    ] = None,
    errors: Annotated[
        str | None, typer.Option(metavar="FILE", help="Records that failed, and why.")
    ] = None,
    ordered: Ordered = True,  # noqa: FBT002 - typer passes it by name
    workers: Workers = None,
    limit: Limit = None,
    retry: Attempts = None,
    backoff: Backoff = 0.1,
    timeout: Timeout = None,
    deadline: Deadline = None,
    priority: Rank = 0,
    on: On = None,
    rate: Rate = None,
    journal: Journal = None,
    rerun_failed: Rerun = False,  # noqa: FBT002 - as above
    progress: Progress = None,
) -> None:
    """Apply a function to every record; each result is a line of JSON.

    Records are lines, values of JSON (jsonl), rows of a csv file as dicts by its first row, or
    names of files. Exit status: 1 if records failed, 2 for a mistake in arguments or input.
    """
    from aiopool._cli import map as mapping

    given = {name: value for name, value in locals().items() if name != "mapping"}
    given |= {"files": files or (), "form": form.value, "on": on and on.value}
    if progress is None:
        given["progress"] = sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())
    _end(lambda: mapping.run(mapping.Job(**given)))


@app.command()
def bench(
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of everyone.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
    quick: Quick = False,  # noqa: FBT002 - typer passes it by name
) -> None:
    """Measure aiopool on this machine, beside what the standard library has; under a minute."""
    from aiopool._cli import bench as benching

    _end(lambda: benching.run(workers=workers, rounds=rounds, quick=quick))


@app.command()
def watch(  # noqa: PLR0913, PLR0917 - as above
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder to watch.")],
    call: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="Called with the path of each file.")
    ],
    pattern: Annotated[str, typer.Option(metavar="GLOB", help="Names to pick up.")] = "*.task",
    priority: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Its group is a number: lower first; else by name."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Do what is there, and end.")] = False,  # noqa: FBT002
    workers: Workers = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Files at once.", show_default="--workers")
    ] = None,
    retry: Annotated[
        int | None, typer.Option(min=1, help="Attempts at a file, the first included.")
    ] = None,
    backoff: Backoff = 0.1,
    timeout: Timeout = None,
    on: On = None,
    settle: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="A file at rest so long is whole.")
    ] = 0.5,
    progress: Progress = None,
) -> None:
    """Apply a function to every file that arrives in a folder.

    Files are renamed to NAME.done, or NAME.failed with the reason in NAME.error. Several watchers
    may share a folder. Ctrl-C returns what is not finished. Exit status: with --once 1 if files
    failed; 2 for a mistake, or a folder that is gone.
    """
    from functools import partial

    given = {name: value for name, value in locals().items() if name != "partial"}
    given["on"] = on and on.value
    given["progress"] = sys.stderr.isatty() if progress is None else progress
    _end(partial(_watch, given))


def _watch(given: dict[str, Any]) -> int:
    from aiopool._cli import watch as watching  # may lack its extra

    return watching.run(watching.Job(**given))
