"""What the tests of this room share: calls held at a door, counting inputs, the cancel sweep."""

import asyncio
import contextlib
import time

import pytest

from tests.helpers import PATIENCE, wait_until


class Shop:
    """Coroutine calls that wait until they are let go, and what became of them.

    `pool.submit(shop.work, x)` starts a call that ends with `x` once `let(x)` or `open()` said so.
    """

    def __init__(self):
        self.started = []
        self.ended = []
        self.inside = set()
        self.most = 0
        self._doors = {}
        self._open = False

    async def work(self, x=None):
        self.started.append(x)
        self.inside.add(x)
        self.most = max(self.most, len(self.inside))
        try:
            await self._door(x).wait()
        finally:
            self.inside.discard(x)
            self.ended.append(x)
        return x

    async def fail(self, x):
        await self.work(x)
        raise ValueError(x)

    def let(self, *items):
        for x in items:
            self._door(x).set()

    def open(self):
        self._open = True
        self.let(*self._doors)

    async def has_started(self, *items):
        await wait_until(lambda: set(items) <= set(self.started), f"{items} to start")

    def _door(self, x):
        if x not in self._doors:
            self._doors[x] = asyncio.Event()
            if self._open:
                self._doors[x].set()
        return self._doors[x]


class Numbers:
    """The numbers from 0 on, for ever or so many, counting how many were pulled."""

    def __init__(self, stop=None):
        self.pulled = 0
        self._stop = stop

    def __iter__(self):
        return self

    def __next__(self):
        if self.pulled == self._stop:
            raise StopIteration
        self.pulled += 1
        return self.pulled - 1


class Source:
    """An async generator over numbers that says how many were pulled and that it was closed."""

    def __init__(self, stop=None, *, error_at=None):
        self.pulled = 0
        self.closed = False
        self._stop = stop
        self._error_at = error_at

    async def items(self):
        try:
            while self.pulled != self._stop:
                if self.pulled == self._error_at:
                    raise LookupError("the input broke")
                self.pulled += 1
                yield self.pulled - 1
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)  # closing it must be awaited, not only begun
            self.closed = True


async def double(x):
    return 2 * x


async def add(a, b):
    return a + b


async def turn_then(x):
    """Take a few turns of the loop, then return."""
    for _ in range(3):
        await asyncio.sleep(0)
    return x


async def forever():
    await asyncio.Event().wait()


async def turns(count=5):
    """Let the loop run through whatever is due at once."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settled(pool):
    """Wait until nothing runs or waits in a pool."""

    def idle():
        now = pool.statistics()
        return not now.running and not now.queued

    await wait_until(idle, f"{pool!r} to be idle")


async def outlast(seconds):
    """Return when that much time has passed for sure, however coarse the clock."""
    end = time.monotonic() + seconds
    await wait_until(lambda: time.monotonic() > end)


async def ended(task):
    """Wait for a task or handle to be done, without raising what it ended with."""
    await asyncio.wait([task], timeout=PATIENCE)
    assert task.done(), f"still not done: {task!r}"
    if not task.cancelled():
        task.exception()  # seen: asyncio shall not complain that nobody looked
    return task


async def hold_back(pool, shop, count, name="blocker"):
    """Take so many places on the loop; returns the handles."""
    handles = [pool.submit(shop.work, f"{name}{number}") for number in range(count)]
    await shop.has_started(*(f"{name}{number}" for number in range(count)))
    return handles


def is_cancelled(task):
    return task.cancelled() or isinstance(task.exception(), asyncio.CancelledError)


async def cancel_at_step(scenario, step, *, times=1):
    """Run a scenario in a task of its own and cancel that at the given iteration of the loop.

    Returns the task, done, and whether the cancellation came in time to be asked for.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(scenario())
    asked = False
    taken = 0

    def tick():
        nonlocal taken, asked
        taken += 1
        if task.done():
            return
        if step <= taken < step + times:
            asked = task.cancel() or asked
        if taken < step + times - 1:
            loop.call_soon(tick)

    loop.call_soon(tick)
    await ended(task)
    return task, asked


async def sweep(scenario, check, *, steps=None, times=1, longest=400):
    """Cancel a scenario at each iteration of the loop in turn, until it ends before that.

    `check(task, step)` is called, and awaited, after each run. Returns how many were cancelled.
    """
    cancelled = 0
    for step in steps or range(1, longest):
        task, asked = await cancel_at_step(scenario, step, times=times)
        if asked and not is_cancelled(task) and task.exception() is not None:
            raise AssertionError(f"cancelled at step {step}") from task.exception()
        cancelled += is_cancelled(task)
        try:
            await check(task, step)
        except BaseException as error:
            error.add_note(f"after a cancellation at step {step}; {task!r}")
            raise
        if not asked and not steps:
            return cancelled
    return cancelled


@contextlib.contextmanager
def raises_plain(kind, *args):
    """Assert that the very exception type is raised, not a subclass and not in a group."""
    with pytest.raises(kind) as caught:
        yield
    assert type(caught.value) is kind, repr(caught.value)
    assert not args or caught.value.args == args, caught.value.args
