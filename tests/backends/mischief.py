"""Calls for the fault catalogue beyond those of `tests.backends.deeds`; importable by workers."""

import atexit
import concurrent.futures
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests import jobs
from tests.backends import deeds

# --- ending the worker ----------------------------------------------------------------------


def exit_by_libc(code):
    """End the process behind the interpreter's back, handlers of the C library included."""
    ctypes.CDLL(None).exit(code)


# --- exceptions -----------------------------------------------------------------------------


@dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses every assignment, the ones that unpickling and raising make included."""

    code: int


def raise_frozen():
    raise FrozenError(7)


def raise_chained_to_a_lock():
    """Raise what can cross with a cause that cannot."""
    try:
        raise jobs.HoldsLock("held")
    except jobs.HoldsLock as cause:
        raise ValueError("effect") from cause


def raise_cancelled():
    from asyncio import CancelledError  # most workers have no use for asyncio, and it is slow

    raise CancelledError("mine")


def raise_cancelled_future():
    raise concurrent.futures.CancelledError("mine")


def recurse(depth=0):
    return recurse(depth + 1) + 1


# --- holding on -----------------------------------------------------------------------------


def stuck_in_c(_):
    """Hold the GIL in one C call, deaf to SIGTERM and SIGINT; where it ends is never reached."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return jobs.spin_in_c(10**12)


# --- leaving something behind ---------------------------------------------------------------


def use_a_process():
    """Start a process of one's own and wait for it."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=jobs.inc, args=(1,))
    process.start()
    process.join()
    return process.exitcode


def nested_map():
    return deeds.nested_map(5)


def leave_threads():
    """Leave threads running that never end, and a handler for the exit of the interpreter."""
    for daemon in (True, False):
        threading.Thread(target=_doze, args=(os.getpid(),), daemon=daemon).start()
    atexit.register(_doze, os.getpid())
    return "left"


def _doze(home):
    while os.getpid() == home:
        time.sleep(0.05)


def leave_a_loop():
    """Leave an event loop running in a thread."""
    from asyncio import new_event_loop

    loop = new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop.is_closed()


def change_the_world():
    """Change what a process has one of: directory, environment, umask, signal mask."""
    os.chdir("/")
    os.environ["CHANGED"] = "yes"
    os.umask(0o077)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    return see_the_world()


def see_the_world():
    mask = os.umask(0o022)
    os.umask(mask)
    return (
        os.getpid(),
        str(Path.cwd()),
        os.environ.get("CHANGED"),
        mask,
        signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, []),
    )


# --- initializers ---------------------------------------------------------------------------


def pass_gates(journal_path, gates):
    """Stop at the first gate in the first worker, at the second in the second, and so on."""
    jobs.record(journal_path, os.getpid())
    number = len(Path(journal_path).read_text().split())
    if number <= len(gates):
        jobs.gate(*gates[number - 1])


def set_up_killed(journal_path):
    jobs.record(journal_path, os.getpid())
    jobs.kill_self(signal.SIGKILL)


# --- shapes ---------------------------------------------------------------------------------


class Thing:
    """Something that can be weakly referred to."""


class Plain(Exception):
    """An exception that can be weakly referred to."""


def gate_of(paths):
    return jobs.gate(*paths)


class SlowToPickle:
    """Takes its time to be pickled."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __reduce__(self):
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return str, ("pickled",)


def flood(lines):
    """Write so many lines of a kilobyte to both standard streams, past Python's buffers too."""
    for stream in (1, 2):
        for _ in range(lines // 2):
            os.write(stream, b"x" * 1023 + b"\n")
            os.write(stream, b"\xff\x00")
    return lines
