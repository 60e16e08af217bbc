"""What tests share: waiting for a fact, gates for worker calls, fresh interpreters.

Nothing here sleeps for a length of time that is meant to be enough. A wait polls a predicate
and ends when it is true, or fails with what it was waiting for when the deadline has passed.
"""

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Far beyond what anything here takes on an idle machine: it only ends a wait that is lost.
PATIENCE = 20.0

# `AIOPOOL_ALL_ROWS=1` plays every row of the large tables in every way. By default each row is
# played in the ways that differ most, and a few in the others: it is about time.
ALL_ROWS = os.environ.get("AIOPOOL_ALL_ROWS", "") not in {"", "0"}


def wanted(rows, few):
    """Give all rows of a table if they were asked for, else the few that stand for them."""
    rows = list(rows)
    assert set(few) <= set(rows)
    return rows if ALL_ROWS else list(few)


async def wait_until(predicate, what=None, *, patience=PATIENCE):
    """Return the first true value of `predicate`, sync or async, letting the loop run between."""
    deadline = time.monotonic() + patience
    pause = 0.0
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(_lost(predicate, what, patience))
        await asyncio.sleep(pause)
        pause = min(pause + 0.0005, 0.02)


def block_until(predicate, what=None, *, patience=PATIENCE):
    """Return the first true value of `predicate`; the same as `wait_until` for sync tests."""
    deadline = time.monotonic() + patience
    pause = 0.0
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(_lost(predicate, what, patience))
        time.sleep(pause)
        pause = min(pause + 0.0005, 0.02)
    return value


def _lost(predicate, what, patience):
    if what is None:
        with contextlib.suppress(OSError, TypeError):
            what = inspect.getsource(predicate).strip()
    return f"not true within {patience:g} s: {what or predicate!r}"


def is_alive(pid):
    """Tell whether a process exists and has not ended; a zombie has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


@dataclass(frozen=True, slots=True)
class Gate:
    """Holds worker calls at one point: `pool.submit(jobs.gate, *gate.paths)`.

    `entered` gives the pid of the process that came, `open` lets it (and later ones) go on.
    """

    marker: Path
    release: Path

    @property
    def paths(self):
        return str(self.marker), str(self.release)

    def is_entered(self):
        return self.marker.exists()

    async def entered(self):
        await wait_until(self.marker.exists, f"a call at {self.marker.name}")
        return self.pid

    @property
    def pid(self):
        return int(self.marker.read_text())

    def open(self):
        self.release.touch()


def run_python(*args, patience=60.0, stdin=None, **options):
    """Run this interpreter to its end and return the `CompletedProcess`, output as text.

    It runs in the repository root and in a session of its own, which is killed whole if the
    time is over.
    """
    command = [sys.executable, *map(str, args)]
    options.setdefault("cwd", ROOT)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
    with process:
        try:
            out, err = process.communicate(stdin, timeout=patience)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            print(f"{command} was killed; its output so far:\n{out}{err}")
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)
