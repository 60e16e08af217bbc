"""Jobs that print, log, warn, or look at what they were given beside arguments."""

import asyncio
import contextvars
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

from tests import jobs

request_id = contextvars.ContextVar("request_id")
tenant = contextvars.ContextVar("tenant", default="nobody")

log = logging.getLogger("tests.writers")

# --- printing -------------------------------------------------------------------------------


def say_both(text):
    print(text)
    print(text, file=sys.stderr)
    return text


def say_part(text):
    """Print without the end of the line."""
    print(text, end="")
    return text


def say_lines(mark, count, width):
    """Print so many lines, each marked, numbered and filled up."""
    for number in range(count):
        print(mark, number, mark * width)
    return count


def say_one_line(mark, size):
    print(mark * size)


def say_at_once(text):
    sys.stdout.write(text)


def say_bytes(data):
    sys.stdout.buffer.write(data)


def say_then(fn, *args):
    """Print a line, the flushed beginning of one, and more of it; then do something else."""
    print("a line")
    print("flushed", end="", flush=True)
    print(" and not", end="")
    return fn(*args)


def flood(release_path):
    """Print for as long as a file is not there."""
    lines = 0
    while not Path(release_path).exists():
        print("x" * 1000)
        lines += 1
    return lines


def flood_for_ever():
    while True:
        print("x" * 1000)


def say_from_threads(count, lines):
    """Print from several threads, each line in two writes."""

    def talk(mark):
        for number in range(lines):
            sys.stdout.write(f"{mark}{number}")
            time.sleep(0)
            sys.stdout.write(f"{mark}{number}\n")

    threads = [threading.Thread(target=talk, args=(f"<{mark}>",)) for mark in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def start_late_talker(release_path):
    """Leave a thread behind that prints and logs once a file is there."""

    def talk():
        log.warning("early")
        while not Path(release_path).exists():
            time.sleep(0.001)
        print("late line")
        log.warning("late")

    threading.Thread(target=talk, daemon=True).start()


def abuse_streams():
    """Do to the standard streams what a script may do, and say how they took it."""
    found = [sys.stdout.fileno(), sys.stderr.fileno(), sys.stdout.isatty(), sys.stdout.encoding]
    sys.stdout.reconfigure(line_buffering=True)
    sys.stdout.writelines(["one\n", "two\n"])
    print("surrogate \udc80")
    sys.stdout.close()
    sys.stderr.close()
    return found


def say_by_child():
    subprocess.run([sys.executable, "-c", "print('from a child process')"], check=True)
    os.write(1, b"from the descriptor\n")


def say_by_fork():
    """Print and log from a process forked by the call."""
    child = multiprocessing.get_context("fork").Process(target=_forked)
    child.start()
    child.join()
    print("from the call")
    return child.exitcode


def _forked():
    print("from a fork")
    log.warning("logged in a fork")


def say_by_pool(mark):
    """Print and log in a worker of a pool of this worker's own."""
    import aiopool

    async def main():
        async with aiopool.Pool(1) as pool:
            await pool.run(say_both, mark)
            await pool.run(log_at, logging.WARNING, mark)

    asyncio.run(main())


def say_while_freed():
    """Let a finalizer print amid what the call prints."""

    class Talker:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            print("freed")

    for number in range(2000):
        Talker()
        print("call", number)


# --- logging --------------------------------------------------------------------------------


def log_at(level, text, *args, name="tests.writers", **extra):
    logging.getLogger(name).log(level, text, *args, extra=extra)
    return os.getpid()


def log_failure(text):
    try:
        raise ValueError("inside")
    except ValueError:
        log.exception(text)


def log_odd_things():
    """Log with arguments that do not fit, and with fields that cannot be sent."""
    log.warning("%d things", "many")
    log.warning("odd", extra={"lock": threading.Lock(), "pair": (1, 2)})


def configure_and_log(force):
    logging.basicConfig(level=logging.DEBUG, format="mine: %(message)s", force=force)
    log.warning("configured")


def log_through(logger_name):
    """Log where the initializer has added a handler."""
    logging.getLogger(logger_name).warning("through")
    return HANDLED.copy()


HANDLED = []


class Keeping(logging.Handler):
    def emit(self, record):
        HANDLED.append(record.getMessage())


def add_handler(logger_name):
    logging.getLogger(logger_name).addHandler(Keeping())


# --- warnings -------------------------------------------------------------------------------


class OddWarning(RuntimeWarning):
    """Does not survive pickling."""

    def __init__(self, left, right):
        super().__init__(f"{left} and {right}")


def warn(text, category=UserWarning):
    warnings.warn(text, category, stacklevel=1)


def warn_oddly():
    warnings.warn(OddWarning("left", "right"), stacklevel=1)


def warn_as_error(text):
    """Make an error of a warning, for this call."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn(text, stacklevel=1)


# --- context --------------------------------------------------------------------------------


def see(_=None):
    return request_id.get("unset"), tenant.get()


async def see_async(_=None):
    return see()


def set_and_see(value):
    """Set both variables for whatever runs later in this context."""
    before = see()
    request_id.set(value)
    tenant.set(value)
    return before


def grow_and_see():
    """Change the value itself, if this is the call's own."""
    value = request_id.get()
    value.append(len(value))
    return value


def see_after_failing(journal_path, times):
    jobs.fail_times(journal_path, times, 0)
    return see()


# --- memory ---------------------------------------------------------------------------------


def hold_and_wait(size, marker_path, release_path):
    """Hold that many bytes, each page of them touched, until a file is there."""
    memory = bytearray(size)
    jobs.gate(marker_path, release_path)
    return len(memory)


def count_and_wait(shared, marker_path, release_path):
    """Read all of an array, then wait until a file is there."""
    count = int(shared.sum(dtype="int64"))
    jobs.gate(marker_path, release_path)
    return count


def fill(size):
    """Fill memory without an end, a step at a time."""
    kept = []
    while True:
        kept.append(b"\1" * size)
        time.sleep(0.01)


# --- beginnings -----------------------------------------------------------------------------


def say_and_hang(journal_path):
    print("about to hang")
    jobs.record(journal_path, "start")
    signal.pause()


def say_and_fail(text):
    print(text)
    raise ValueError("no start")


def die(journal_path):
    jobs.record(journal_path, "start")
    os.kill(os.getpid(), signal.SIGKILL)
