"""Small functions to run in workers, importable there by name, and the odd objects they return.

Rules: no imports beyond the standard library, nothing of aiopool, nothing that costs time to
import. A job that has to wait for its test waits at a `gate`, never for a length of time;
`sleep_for` and `spin` are for calls that a test stops.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

# --- values ---------------------------------------------------------------------------------


def add(a, b):
    return a + b


def inc(x):
    return x + 1


def square(x):
    return x * x


def echo(x):
    return x


def pid():
    return os.getpid()


def pid_and(x):
    return os.getpid(), x


def make_bytes(size):
    return bytes(size)


def length(x):
    return len(x)


def say(text, stream="stdout"):
    print(text, file=getattr(sys, stream), flush=True)
    return text


async def inc_async(x):
    """Be a coroutine function, which belongs on the event loop."""
    return x + 1


# --- waiting and being busy -----------------------------------------------------------------


def sleep_for(seconds):
    time.sleep(seconds)
    return seconds


def spin(seconds):
    """Keep the processor busy in Python bytecode, where a signal handler can run."""
    end = time.monotonic() + seconds
    turns = 0
    while time.monotonic() < end:
        turns += 1
    return turns


def spin_in_c(size):
    """Hold the GIL in one C call, which no Python signal handler can interrupt."""
    return sum(range(size))


def spin_ignoring_signals(seconds):
    """Be busy and deaf to every polite request to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return spin(seconds)


def gate(marker_path, release_path):
    """Write this process's id to one file, then wait until the other file exists."""
    write_whole(marker_path, str(os.getpid()))
    while not Path(release_path).exists():
        time.sleep(0.001)
    return os.getpid()


def gate_then(marker_path, release_path, fn, *args):
    gate(marker_path, release_path)
    return fn(*args)


def gate_with_cleanup(marker_path, release_path, cleanup_path):
    """Wait at a gate and leave a file behind however the waiting ends."""
    try:
        return gate(marker_path, release_path)
    finally:
        write_whole(cleanup_path, str(os.getpid()))


def record(journal_path, x):
    """Append a line to a file, in one write, so that a test can count executions."""
    with Path(journal_path).open("a") as journal:
        journal.write(f"{x}\n")
    return x


def write_whole(path, text):
    """Make the file appear with all of its text, so that a reader never sees half of it."""
    path = Path(path)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    draft.write_text(text)
    draft.rename(path)


# --- failing and dying ----------------------------------------------------------------------


def fail(x):
    raise ValueError(x)


def fail_if_odd(x):
    if x % 2:
        raise ValueError(x)
    return x


def fail_times(journal_path, times, x):
    """Fail on the first `times` executions, counted in a file, and return `x` afterwards."""
    record(journal_path, x)
    done = len(Path(journal_path).read_text().splitlines())
    if done <= times:
        raise ValueError(done)
    return x


def raise_it(exception):
    raise exception


def raise_type(exception_type, *args):
    raise exception_type(*args)


def raise_chained():
    try:
        raise KeyError("cause")
    except KeyError as cause:
        error = ValueError("effect")
        error.add_note("a note")
        raise error from cause


def raise_group():
    raise ExceptionGroup("several", [ValueError(1), TypeError(2)])


def raise_two_args():
    raise TwoArgs("left", "right")


def raise_keyword_only():
    raise KeywordOnly(code=7)


def raise_holding_lock():
    raise HoldsLock("held")


def raise_falsy():
    raise Falsy("empty")


def raise_lying():
    raise LyingStr()


def raise_local():
    class LocalError(Exception):
        pass

    raise LocalError("nobody can import me")


def kill_self(sig):
    """Send this process a signal and wait for it to act."""
    os.kill(os.getpid(), sig)
    signal.pause()


def exit_with(code):
    os._exit(code)


def sys_exit(code):
    sys.exit(code)


# --- odd exceptions -------------------------------------------------------------------------


class TwoArgs(Exception):
    """Pickles, but cannot be rebuilt: `args` holds one value where `__init__` asks for two."""

    def __init__(self, left, right):
        super().__init__(f"{left} and {right}")
        self.left = left
        self.right = right


class KeywordOnly(Exception):
    """Pickles, but cannot be rebuilt: `__init__` takes no positional argument."""

    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code


class HoldsLock(Exception):
    """Cannot be pickled at all."""

    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


class Falsy(Exception):
    """Counts as false, as an exception that is also an empty container does."""

    def __bool__(self):
        return False


class LyingStr(Exception):
    """Cannot be shown."""

    def __str__(self):
        raise RuntimeError("no text for you")


# --- odd arguments and results --------------------------------------------------------------


class PickleRaises:
    """Raises while it is pickled."""

    def __reduce__(self):
        raise RuntimeError("cannot be pickled")


class UnpickleRaises:
    """Pickles well and raises where it is unpickled."""

    def __reduce__(self):
        return raise_type, (RuntimeError, "cannot be unpickled")


class UnpickleExits:
    """Pickles well and ends the process that unpickles it."""

    def __reduce__(self):
        return exit_with, (3,)


class PickleKills:
    """Kills the process that pickles it."""

    def __reduce__(self):
        kill_self(signal.SIGKILL)


def ret_lambda():
    return lambda: 1


def ret_lock():
    return threading.Lock()


def ret_exception():
    return ValueError("a value, not a failure")


def ret_pickle_raises():
    return PickleRaises()


def ret_unpickle_raises():
    return UnpickleRaises()


def ret_pickle_kills(size=1 << 20):
    """Return a value that kills the worker when part of it may be on its way already."""
    return bytes(size), PickleKills()


# --- leaving something behind ---------------------------------------------------------------


def start_grandchild(pid_path):
    """Fork a process that outlives this call, holding every descriptor it inherits."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            write_whole(pid_path, str(os.getpid()))
            while True:
                time.sleep(60)
        os._exit(0)
    return child


def read_stdin():
    return sys.stdin.read(1)
