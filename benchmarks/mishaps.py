"""Calls that go wrong, for ``benchmarks.faults``: importable, so that they pickle by reference.

Nothing but the standard library is imported here; `stop` is how a process kills itself.
"""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path


def add(a: int, b: int) -> int:
    """The innocent call."""
    return a + b


def gate(folder: str, name: str) -> str:
    """Say that it runs, and wait until it may end."""
    mark(folder, name)
    while not Path(folder, "open").exists():
        time.sleep(0.005)
    return name


def mark(folder: str, name: str) -> None:
    """Leave a file."""
    Path(folder, name).write_text(str(os.getpid()))


def stop() -> None:
    """End this process as the system does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def read_null() -> bytes:
    """Read address 0."""
    return ctypes.string_at(0)


def echo(value: object) -> object:
    """The argument."""
    return value


def throw(kind: type[BaseException], *args: object) -> None:
    """Raise it."""
    raise kind(*args)


def throw_two() -> None:
    """Raise an exception that pickles and does not unpickle."""
    raise TwoArgumentsError("left", "right")


def throw_lock() -> None:
    """Raise an exception that does not pickle."""
    raise HoldsLockError


def throw_false() -> None:
    """Raise an exception that counts as false."""
    raise FalseError


def throw_leave() -> None:
    """Leave, as a script does."""
    sys.exit(3)


def give_lock() -> object:
    """A result that does not pickle."""
    return threading.Lock()


def give_stop() -> object:
    """A result that ends the worker after part of it has been pickled."""
    return bytes(1 << 20), StopsAtPickle()


def give_bad() -> object:
    """A result that raises where it is unpickled."""
    return RaisesAtUnpickle()


def give_leave() -> object:
    """A result that raises SystemExit where it is unpickled."""
    return LeavesAtUnpickle()


def give_error() -> object:
    """An exception, as a value."""
    return ValueError("a value")


def stuck(folder: str) -> None:
    """Hold on in C code, deaf to every polite request to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    mark(folder, "stuck")
    sum(range(10**12))


class TwoArgumentsError(Exception):
    """Its ``args`` do not fit its ``__init__``."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


class HoldsLockError(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


class FalseError(Exception):
    """Counts as false."""

    def __bool__(self) -> bool:
        return False


class RaisesAtPickle:
    """Raises while it is pickled."""

    def __reduce__(self) -> tuple[object, ...]:
        raise RuntimeError


class RaisesAtUnpickle:
    """Raises where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return throw, (RuntimeError, "not rebuilt")


class LeavesAtUnpickle:
    """Raises SystemExit where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return sys.exit, (3,)


class StopsAtPickle:
    """Ends the process that pickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        stop()
        return str, ()


class StopsAtUnpickle:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return stop, ()


class StopsWhenFreed:
    """Ends the process that frees it, unless that is the one that made it."""

    def __init__(self, home: int | None = None) -> None:
        self.home = os.getpid() if home is None else home

    def __reduce__(self) -> tuple[object, ...]:
        return StopsWhenFreed, (self.home,)

    def __del__(self) -> None:
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)


CANCELLED = asyncio.CancelledError
