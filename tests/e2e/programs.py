"""Programs that use aiopool, started from their source text, and what is left of them."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.helpers import ROOT, block_until, is_alive, run_python

HEAD = """\
import asyncio, os, signal, sys, time
import aiopool
from tests import jobs
from tests.backends import deeds

LOOP = {loop!r}

def run(main):
    if LOOP == "uvloop":
        import uvloop
        return uvloop.run(main)
    return asyncio.run(main)

"""


def environment():
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def write(folder, source, *, loop="asyncio", head=HEAD):
    path = folder / "program.py"
    path.write_text(head.format(loop=loop) + textwrap.dedent(source))
    return path


def run_program(folder, source, *args, loop="asyncio", head=HEAD, patience=60.0):
    """Run a program to its end; `head` comes before its source."""
    path = write(folder, source, loop=loop, head=head)
    return run_python(path, *args, env=environment(), patience=patience)


@contextlib.contextmanager
def started(folder, source, *args, loop="asyncio", **environ):
    """Start a program from its source text; kill what is left of its group afterwards."""
    path = write(folder, source, loop=loop)
    env = {**environment(), **environ}
    with (
        (folder / "out").open("w") as out,
        (folder / "err").open("w") as err,
        running(path, *args, stdout=out, stderr=err, env=env) as process,
    ):
        yield process


@contextlib.contextmanager
def running(*args, **options):
    """Start this interpreter in a process group of its own; kill what is left of it afterwards."""
    options = {"stdin": subprocess.DEVNULL, "env": environment(), "cwd": ROOT, **options}
    command = [sys.executable, *map(str, args)]
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def members(group):
    """Give the pids of the live processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
            found.append(int(entry.name))
    return found


def gone(group, *, patience=10.0):
    """Wait until no process of the group is alive."""
    block_until(lambda: not members(group), f"group {group} is gone", patience=patience)


def pids_in(folder, count):
    """Wait until so many processes have left a file named after their pid, and give the pids."""

    def found():
        names = [path.name for path in folder.iterdir() if path.name.isdecimal()]
        return [int(name) for name in names] if len(names) >= count else None

    return block_until(found, f"{count} workers have called")


def are_alive(pids):
    return [pid for pid in pids if is_alive(pid)]
