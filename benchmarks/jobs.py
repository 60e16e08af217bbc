"""What the workers of every benchmark execute: importable, so that it pickles by reference.

Nothing but the standard library is imported here, so that a contender's worker pays for the
contender alone.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection


def inc(number: int) -> int:
    """The smallest useful call: what remains is the cost of calling."""
    return number + 1


def spin(seconds: float) -> None:
    """Keep a CPU busy for ``seconds`` of wall time."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def spin_all(durations: Sequence[float]) -> None:
    """One ``spin`` after the other, without anyone between them."""
    for seconds in durations:
        spin(seconds)


async def hop(_: int) -> None:
    """The smallest coroutine that really waits: one turn of the loop."""
    await asyncio.sleep(0)


async def instant(_: int) -> None:
    """A coroutine that never waits, as one answered from a cache."""


def answer_calls(pipe: Connection) -> None:
    """Serve ``inc`` over a bare pipe until the other side closes it."""
    try:
        while True:
            pipe.send(inc(pipe.recv()))
    except EOFError:
        pipe.close()


class SlowToPickle:
    """An argument that keeps a CPU busy for ``seconds`` as it is pickled, and 0 afterwards."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> tuple[type[int], tuple[()]]:
        spin(self.seconds)
        return int, ()


def make_bytes(count: int) -> bytes:
    """A result of so many bytes."""
    return bytes(count)


def size(data: bytes) -> int:
    """The size of an argument."""
    return len(data)


def talk(megabytes: int) -> None:
    """Write so much to standard output, in lines of a kilobyte."""
    line = "x" * 1023 + "\n"
    for _ in range(megabytes * 1024):
        sys.stdout.write(line)
    sys.stdout.flush()


async def later(fn: Callable[..., object], *args: object) -> object:
    """A function as a coroutine, for those who take no other."""
    return fn(*args)


def first_byte(array: Sequence[int]) -> int:
    """Take an array and give next to nothing."""
    return int(array[0])
