"""Retry: which failures, how often, how long in between, and that it gives way meanwhile."""

import asyncio
import time

import pytest

from aiopool import Pool, Priority, Retry, TaskTimeout
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import double, ended, hold_back, raises_plain, turns


def at_once(attempts=3, **options):
    return Retry(attempts, wait_initial=0, wait_jitter=0, **options)


class Flaky:
    """Fails with the given errors in turn, then returns."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.attempts = 0
        self.times = []

    async def call(self, x="ok"):
        self.attempts += 1
        self.times.append(time.monotonic())
        if self.errors:
            raise self.errors.pop(0)
        return x


@pytest.mark.parametrize(("retry", "attempts"), [(1, 1), (at_once(2), 2), (at_once(5), 5)])
async def test_attempts_are_exact(retry, attempts):
    """A call that always fails is tried exactly as often as the policy says."""
    flaky = Flaky(*(ValueError(number) for number in range(100)))
    async with Pool() as pool:
        handle = pool.submit(flaky.call, retry=retry)
        await ended(handle)
        assert handle.attempts == flaky.attempts == attempts
        assert handle.exception().args == (attempts - 1,), "the last error is raised"
        assert pool.statistics().retried == attempts - 1
        assert pool.statistics().failed == 1


@pytest.mark.parametrize("place", ["thread", "process"])
async def test_attempts_are_exact_elsewhere(tmp_path, place):
    """Attempts in a thread or a worker process are counted exactly too."""
    journal = tmp_path / "journal"
    async with Pool(1) as pool:
        options = {"on": place, "retry": at_once(4)}
        assert await pool.run(jobs.fail_times, str(journal), 2, "x", **options) == "x"
        with raises_plain(ValueError, 7):
            await pool.run(jobs.fail_times, str(journal), 100, "x", **options)
    assert journal.read_text().split() == ["x"] * 7


async def test_no_policy_no_retry():
    """Without a policy a failure is final, and None takes back the pool's policy."""
    flaky = Flaky(ValueError(1), ValueError(2), ValueError(3))
    async with Pool() as pool:
        with pytest.raises(ValueError):
            await pool.run(flaky.call)
    async with Pool(retry=at_once(3)) as pool:
        with pytest.raises(ValueError):
            await pool.run(flaky.call, retry=None)
        assert flaky.attempts == 2
        assert await pool.run(flaky.call) == "ok", "the pool's policy is for those who say nothing"
    assert flaky.attempts == 4


@pytest.mark.parametrize(
    ("on", "errors", "attempts"),
    [
        (ValueError, [ValueError(), KeyError()], 2),
        (LookupError, [KeyError(), IndexError(), ValueError()], 3),
        ((ValueError, KeyError), [ValueError(), KeyError(), OSError()], 3),
        (lambda error: isinstance(error, OSError), [OSError(), ValueError()], 2),
        (lambda error: 0.0, [ValueError(), KeyError(), OSError(), OSError()], 4),
        (lambda error: False, [ValueError()], 1),
    ],
)
async def test_what_is_retried(on, errors, attempts):
    """Only what the policy names is retried, and the first other error is final."""
    flaky = Flaky(*errors)
    async with Pool() as pool:
        with pytest.raises(type(errors[-1])) as caught:
            await pool.run(flaky.call, retry=at_once(4, on=on))
    assert caught.value is errors[-1]
    assert flaky.attempts == attempts


async def test_retry_after():
    """A predicate that answers with seconds says how long the call waits."""
    flaky = Flaky(ValueError(0.05), ValueError(0.0))
    async with Pool() as pool:
        await pool.run(flaky.call, retry=at_once(3, on=lambda error: error.args[0]))
    first, second, _ = flaky.times
    assert second - first >= 0.05


async def test_backoff_is_waited_out():
    """The delay between two attempts is at least what the policy says."""
    flaky = Flaky(ValueError(), ValueError())
    async with Pool() as pool:
        policy = Retry(3, wait_initial=0.02, wait_exp_base=2, wait_jitter=0)
        await pool.run(flaky.call, retry=policy)
    first, second, third = flaky.times
    assert second - first >= 0.02
    assert third - second >= 0.04


async def test_a_tenacity_strategy():
    """wait= and stop= take tenacity's strategies."""
    import tenacity

    flaky = Flaky(*(ValueError() for _ in range(10)))
    policy = Retry(None, wait=tenacity.wait_fixed(0), stop=tenacity.stop_after_attempt(4))
    async with Pool() as pool:
        with pytest.raises(ValueError):
            await pool.run(flaky.call, retry=policy)
    assert flaky.attempts == 4


async def test_a_broken_predicate_is_final():
    """A predicate that raises makes the call's own error final, with a note."""

    def broken(error):
        raise RuntimeError("the predicate broke")

    flaky = Flaky(ValueError("mine"))
    async with Pool() as pool:
        with pytest.raises(ValueError, match="mine") as caught:
            await pool.run(flaky.call, retry=at_once(3, on=broken))
    assert any("the predicate broke" in note for note in caught.value.__notes__)


async def test_a_resting_call_holds_no_place():
    """While a call waits out its backoff others use its place."""
    flaky = Flaky(ValueError())
    async with Pool(limit=1) as pool:
        handle = pool.submit(flaky.call, retry=Retry(2, on=lambda _: 60.0))
        await wait_until(lambda: handle.state == "waiting")
        assert pool.statistics().running == 0
        assert sum(pool.statistics().queued.values()) == 1
        assert await pool.run(double, 1) == 2
        handle.cancel()
        await ended(handle)


async def test_a_resting_call_holds_no_worker(tmp_path):
    """While a call waits out its backoff others use the worker process."""
    async with Pool(1) as pool:
        handle = pool.submit(jobs.fail, 1, retry=Retry(2, on=lambda _: 60.0))
        await wait_until(lambda: handle.state == "waiting")
        assert await pool.run(jobs.inc, 1) == 2
        assert handle.attempts == 1
        assert handle.cancel()
        await ended(handle)
        assert handle.cancelled()


async def test_a_call_returns_with_its_age_and_priority(shop):
    """A call that is tried again is ahead of equals that were submitted after it."""
    order = []
    failing = [True]

    async def note(x):
        order.append(x)
        if x == "retried" and failing:
            failing.clear()
            raise ValueError

    async with Pool(limit=1) as pool:
        handle = pool.submit(note, "retried", retry=at_once(2))
        await wait_until(lambda: order)
        blocked = await hold_back(pool, shop, 1)
        later = [pool.submit(note, x) for x in range(3)]
        await wait_until(lambda: handle.state in ("queued", "done"))
        shop.open()
        await asyncio.gather(handle, *blocked, *later)
    assert order in (["retried", "retried", 0, 1, 2], ["retried", 0, "retried", 1, 2])


async def test_a_retried_call_is_ahead_of_younger_ones(shop):
    """A call whose backoff ended while the place was taken is the next to have it."""
    order = []
    first_time = [True]

    async def note(x):
        order.append(x)
        if x == "old" and first_time:
            first_time.clear()
            raise ValueError

    async with Pool(limit=1) as pool:
        old = pool.submit(note, "old", retry=Retry(2, on=lambda _: 0.01))
        await wait_until(lambda: old.state == "waiting")
        await hold_back(pool, shop, 1)
        for x in range(3):
            pool.submit(note, x)
        pool.submit(note, "urgent", priority=Priority.URGENT)
        await wait_until(lambda: old.state == "queued")
        shop.open()
    assert order == ["old", "urgent", "old", 0, 1, 2]


@pytest.mark.parametrize("when", ["resting", "running"])
async def test_a_cancelled_call_is_not_tried_again(shop, when):
    """Cancelling a call between or within attempts ends it, whatever its policy."""
    attempts = []

    async def work():
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError
        await shop.work("second")

    async with Pool() as pool:
        delay = 60.0 if when == "resting" else 0.0
        handle = pool.submit(work, retry=Retry(5, on=lambda _: delay))
        if when == "resting":
            await wait_until(lambda: handle.state == "waiting")
        else:
            await shop.has_started("second")
        handle.cancel()
        await ended(handle)
        assert handle.cancelled()
        assert len(attempts) == (1 if when == "resting" else 2)
        assert pool.statistics().queued == {}


async def test_a_call_that_fails_while_it_is_cancelled_is_not_tried_again(shop):
    """An error raised in answer to a cancellation is not retried."""
    attempts = []

    async def work():
        attempts.append(1)
        try:
            await shop.work(1)
        except asyncio.CancelledError:
            raise ValueError("on the way out") from None

    async with Pool() as pool:
        handle = pool.submit(work, retry=at_once(5))
        await shop.has_started(1)
        handle.cancel()
        await ended(handle)
    assert handle.cancelled()
    assert len(attempts) == 1


async def test_a_timeout_is_retried_if_the_policy_says_so():
    """An attempt that ran out of time is tried again like any failure."""
    attempts = []

    async def hang_once():
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return "ok"

    async with Pool() as pool:
        policy = at_once(2, on=TaskTimeout)
        assert await pool.run(hang_once, timeout=0.01, retry=policy) == "ok"
        assert len(attempts) == 2


async def test_no_retry_after_closing_began():
    """Closing without draining ends a call that waits for its next attempt at once."""
    flaky = Flaky(ValueError(), ValueError())
    async with Pool() as pool:
        handle = pool.submit(flaky.call, retry=Retry(3, on=lambda _: 60.0))
        await wait_until(lambda: handle.state == "waiting")
        await pool.aclose(drain=False)
    assert handle.cancelled() and flaky.attempts == 1


async def test_draining_waits_for_retries():
    """Closing with draining waits until a resting call was tried again."""
    flaky = Flaky(ValueError())
    async with Pool() as pool:
        handle = pool.submit(flaky.call, retry=Retry(3, on=lambda _: 0.02))
        await wait_until(lambda: handle.state == "waiting")
    assert handle.result() == "ok" and flaky.attempts == 2


async def test_items_of_a_map_are_retried_alone():
    """In a map only the items that failed are tried again, and the results are in order."""
    calls = []

    async def fail_once(x):
        calls.append(x)
        if x % 2 and calls.count(x) == 1:
            raise ValueError(x)
        return x

    async with Pool() as pool:
        assert await pool.map(fail_once, range(6), retry=at_once(2)) == list(range(6))
    assert {x: calls.count(x) for x in range(6)} == {0: 1, 1: 2, 2: 1, 3: 2, 4: 1, 5: 2}


async def test_items_of_a_map_in_processes_are_retried_alone(tmp_path):
    """In worker processes too only the items that failed are tried again."""
    journal = tmp_path / "journal"
    async with Pool(1) as pool:
        results = await pool.map(_fail_first_time, [str(journal)] * 20, range(20), retry=at_once(2))
        assert results == list(range(20))
    calls = journal.read_text().split()
    assert all(calls.count(str(x)) == (2 if x == 7 else 1) for x in range(20)), calls


def _fail_first_time(journal, x):
    from pathlib import Path

    path = Path(journal)
    before = path.read_text().split() if path.exists() else []
    jobs.record(journal, x)
    if x == 7 and "7" not in before:
        raise ValueError(x)
    return x


async def test_each_attempt_has_the_submitters_context():
    """What an attempt sets in its context is not there in the next one."""
    from contextvars import ContextVar

    seen = []
    variable = ContextVar("variable", default="submitted")

    async def work():
        seen.append(variable.get())
        variable.set("attempt")
        if len(seen) < 3:
            raise ValueError

    async with Pool() as pool:
        await pool.run(work, retry=at_once(3))
    assert seen == ["submitted"] * 3


async def test_a_resting_storm_costs_no_task():
    """Calls that wait out their backoff are no asyncio tasks."""

    async def fail():
        raise ValueError

    async with Pool() as pool:
        handles = [pool.submit(fail, retry=Retry(2, on=lambda _: 60.0)) for _ in range(200)]
        await wait_until(lambda: all(handle.state == "waiting" for handle in handles))
        await turns()
        assert len(asyncio.all_tasks()) <= 3
        await pool.aclose(drain=False)
    assert all(handle.cancelled() for handle in handles)
