"""Runs with a journal: what is executed, what is remembered, what the consumer gets."""

import asyncio
import itertools
import threading
from functools import partial
from pathlib import Path

import pytest

import aiopool
from aiopool._journal.store import Store
from aiopool.journal import Journal
from tests import jobs
from tests.helpers import wait_until

TWICE = aiopool.Retry(attempts=2, wait_initial=0.001)


class Calls:
    """Coroutine functions that note what they were called with."""

    def __init__(self):
        self.made = []
        self.held = asyncio.Event()
        self.broken = True

    async def double(self, x):
        self.made.append(x)
        return 2 * x

    async def add(self, x, y):
        self.made.append((x, y))
        return x + y

    async def odd_fails(self, x):
        self.made.append(x)
        if self.broken and x % 2:
            error = ValueError(x)
            error.add_note(f"about {x}")
            raise error
        return x

    async def zero_waits(self, x):
        self.made.append(x)
        if x == 0:
            await self.held.wait()
        return x

    async def is_lock(self, x):
        return isinstance(x, type(threading.Lock()))

    async def lock(self, x):
        self.made.append(x)
        return threading.Lock() if x == 1 else x


@pytest.fixture
def calls():
    return Calls()


@pytest.fixture
def path(tmp_path):
    """Give the path of a journal; its folder holds nothing else when the test ends."""
    path = tmp_path / "journal" / "run.db"
    path.parent.mkdir()
    yield path
    assert [each.name for each in path.parent.iterdir()] in (["run.db"], [])


@pytest.fixture
async def pool():
    async with aiopool.Pool(1) as pool:
        yield pool


async def mapped(path, pool, fn, *iterables, **options):
    """Map with a journal that is opened for it."""
    async with Journal(path) as journal:
        return await journal.map(pool, fn, *iterables, version=1, **options)


async def remembered(path, pool, fn, items, **options):
    """Give the items whose calls the journal would not execute."""
    made = []

    async def note(x):
        made.append(x)

    async with Journal(path) as journal:
        name = f"{fn.__module__}.{fn.__qualname__}"
        await journal.map(
            pool, note, items, version=1, name=name, return_exceptions=True, **options
        )
    return [item for item in items if item not in made]


async def numbers(count, closed=None):
    try:
        for number in range(count):
            yield number
    finally:
        if closed is not None:
            closed.append(True)


# --- what is remembered ---------------------------------------------------------------------


async def test_a_call_that_ended_is_not_executed_again(path, pool, calls):
    """The next run gives the same results and executes only what is new."""
    assert await mapped(path, pool, calls.double, range(500)) == [2 * n for n in range(500)]
    assert await mapped(path, pool, calls.double, range(600)) == [2 * n for n in range(600)]
    assert sorted(calls.made) == list(range(600))


async def test_processes(path, pool):
    """Calls in worker processes are remembered as those of coroutine functions are."""
    async with Journal(path) as journal:
        pids = await journal.map(pool, jobs.pid_and, range(20))
    async with Journal(path) as journal:
        assert await journal.map(pool, jobs.pid_and, range(20)) == pids


@pytest.mark.parametrize("kinds", [(range, range), (numbers, range), (range, numbers)])
async def test_several_iterables(path, pool, calls, kinds):
    """Iterables are zipped to the shortest, plain or async."""
    first, second = kinds
    assert await mapped(path, pool, calls.add, first(5), second(4)) == [0, 2, 4, 6]
    assert await mapped(path, pool, calls.add, range(4), range(4)) == [0, 2, 4, 6]
    assert len(calls.made) == 4


@pytest.mark.parametrize("items", [[], [1]])
async def test_few_items(path, pool, calls, items):
    """An input of none or one item is as good as any."""
    assert await mapped(path, pool, calls.double, items) == [2 * n for n in items]


async def test_no_iterable(path, pool, calls):
    """Without an iterable the error is the pool's, and nothing stays behind."""
    with pytest.raises(TypeError, match="at least one iterable"):
        await mapped(path, pool, calls.double)


async def test_a_duplicate_is_executed_once(path, pool, calls):
    """Items of one key are executed once and get one result, whether that has ended or runs."""
    items = [1, 0, 1, 0, 2, 1] * 200
    assert await mapped(path, pool, calls.double, items) == [2 * n for n in items]
    assert sorted(calls.made) == [0, 1, 2]


@pytest.mark.parametrize("rerun", [False, True])
async def test_a_duplicate_of_a_failure(path, pool, calls, rerun):
    """A call that failed is not executed for its duplicate, though failures of old are."""
    await mapped(path, pool, calls.odd_fails, [1], return_exceptions=True)
    options = {"return_exceptions": True, "rerun_failed": rerun}
    results = await mapped(path, pool, calls.odd_fails, [1, 1] * 400, **options)
    assert {str(error) for error in results} == {"1"}
    assert len(calls.made) == 1 + rerun


async def test_versions(path, pool, calls):
    """Another version of a function is another function, and so is another name."""
    async with Journal(path) as journal:
        for options in ({"version": 1}, {"version": "2"}, {"version": 1, "name": "other"}) * 2:
            assert await journal.map(pool, calls.double, [1], **options) == [2]
    assert calls.made == [1, 1, 1]


async def test_keys(path, pool, calls):
    """With a key, what else the arguments are does not matter."""
    first = await mapped(path, pool, calls.add, [1, 2], [1, 2], key=lambda x, y: f"k{x}")
    again = await mapped(path, pool, calls.add, [2, 1], [7, 7], key=lambda x, y: f"k{x}")
    assert (first, again) == ([2, 4], [4, 2])


@pytest.mark.parametrize(
    ("key", "error"), [(lambda x: (x,), TypeError), (lambda x: 2**63, ValueError)]
)
async def test_a_bad_key(path, pool, calls, key, error):
    """A key that cannot be stored ends the run with an error that says what can be."""
    with pytest.raises(error, match="key= gave"):
        await mapped(path, pool, calls.double, [1], key=key)


async def test_text_that_utf8_cannot_hold(path, pool):
    """A file name that is no text may be an argument and stand in an error, but be no key."""

    async def fails(name):
        raise ValueError(f"cannot read {name}")

    names = ["a", "b\udcff"]
    for _ in range(2):
        results = await mapped(path, pool, fails, names, return_exceptions=True)
        assert [each.args for each in results] == [(f"cannot read {name}",) for name in names]
    with pytest.raises(ValueError, match=r"give os\.fsencode"):
        await mapped(path, pool, fails, names, key=str, return_exceptions=True)


async def test_arguments_without_a_digest(path, pool, calls):
    """Arguments that cannot be known again end the run with an error that asks for a key."""
    items = [threading.Lock()]
    with pytest.raises(aiopool.JournalError, match="pass key="):
        await mapped(path, pool, calls.is_lock, items)
    assert await mapped(path, pool, calls.is_lock, items, key=lambda _: "lock") == [True]


async def test_a_result_that_cannot_be_pickled(path, pool, calls):
    """It is that call's failure, says what is to be done, and costs no other call anything."""
    for _ in range(2):
        results = await mapped(path, pool, calls.lock, range(4), return_exceptions=True)
        assert isinstance(results[1], aiopool.NotTransferable)
        assert "the result of the call with (1,) cannot" in str(results[1])
        assert results[:1] + results[2:] == [0, 2, 3]
    assert sorted(calls.made) == [0, 1, 2, 3]


async def test_lambdas_partials_and_instances(path, pool):
    """Any callable is known again by its code and by what it is bound to."""
    async with Journal(path) as journal:
        for offset in (1, 2):
            assert await journal.map(pool, adder(offset), [1]) == [1 + offset]
            assert await journal.map(pool, partial(jobs.add, offset), [1]) == [1 + offset]
        assert len(await journal._do(lambda: journal._store._db.execute(_TASKS).fetchall())) == 4


def adder(offset):
    return lambda x: x + offset


_TASKS = "SELECT DISTINCT task FROM items"


async def test_partials_of_one_version(path, pool):
    """What a partial adds are arguments, whose results are told apart in a version as well."""
    for _ in range(2):
        for offset in (1, 2):
            assert await mapped(path, pool, partial(jobs.add, offset), [1]) == [1 + offset]
    with pytest.raises(aiopool.JournalError, match="pass key="):
        await mapped(path, pool, partial(jobs.add, threading.Lock()), [1])


async def test_a_function_without_a_version(path, pool):
    """A callable that holds what has no digest asks for a version."""
    async with Journal(path) as journal:
        with pytest.raises(aiopool.JournalError, match="pass version="):
            await journal.map(pool, partial(jobs.add, threading.Lock()), [1])


# --- failures -------------------------------------------------------------------------------


async def test_a_failure_stops_the_run(path, pool, calls):
    """The first failure is raised as it is; it and all that ended before are remembered."""
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^1") as caught:
            await mapped(path, pool, calls.odd_fails, [0, 2, 1, 4], limit=1)
        assert caught.value.__notes__ == ["about 1"]
    assert calls.made[:3] == [0, 2, 1] and calls.made.count(1) == 1
    assert {0, 2, 1} <= set(await remembered(path, pool, calls.odd_fails, range(6)))


async def test_failures_stand_in_the_list(path, pool, calls):
    """With return_exceptions failures are results, from the journal as from the call."""
    for _ in range(2):
        results = await mapped(path, pool, calls.odd_fails, range(4), return_exceptions=True)
        assert [type(each) for each in results] == [int, ValueError, int, ValueError]
        assert results[3].args == (3,) and results[3].__notes__ == ["about 3"]
    assert len(calls.made) == 4


async def test_failures_run_again_if_asked(path, pool, calls):
    """With rerun_failed those that failed are executed, and their results remembered."""
    await mapped(path, pool, calls.odd_fails, range(4), return_exceptions=True)
    calls.broken = False
    assert await mapped(path, pool, calls.odd_fails, range(4), rerun_failed=True) == [0, 1, 2, 3]
    assert await mapped(path, pool, calls.odd_fails, range(4)) == [0, 1, 2, 3]
    assert sorted(calls.made) == [0, 1, 1, 2, 3, 3]


async def test_the_failed_are_listed(path, pool):
    """The list tells the function, the arguments, the error, the attempts and the time."""
    async with Journal(path) as journal:
        await journal.map(pool, jobs.fail, [7], retry=TWICE, return_exceptions=True, version=3)
        (failed,) = await journal.failed()
    assert (failed.task, failed.version) == ("tests.jobs.fail", "3")
    assert (failed.args, failed.attempts) == ((7,), 2)
    assert type(failed.error) is ValueError and failed.error.args == (7,)
    assert failed.at.tzinfo is not None


async def test_the_failed_are_run_again(path, pool, tmp_path):
    """They run by the stored function, or by one that is passed, and leave the list as they end."""
    marker = tmp_path / "mended"
    fn = partial(fails_without, str(marker))
    async with Journal(path) as journal:
        results = await journal.map(pool, fn, range(3), return_exceptions=True)
    async with Journal(path) as journal:
        again = await journal.retry_failed(pool)
        assert [type(outcome.error) for outcome in again] == [FileNotFoundError] * 3
        marker.touch()
        (first,) = await journal.retry_failed(pool, jobs.echo, name="nobody") or [None]
        assert first is None
        again = await journal.retry_failed(pool)
        assert [(outcome.index, outcome.value) for outcome in again] == [(0, 0), (1, 1), (2, 2)]
        assert await journal.failed() == []
        assert await journal.map(pool, fn, range(3)) == [0, 1, 2]
    assert [type(each) for each in results] == [FileNotFoundError] * 3


def fails_without(marker, x):
    assert Path(marker).read_text() == ""
    return x


async def test_the_failed_are_run_by_a_mended_function(path, pool, calls):
    """A function that is passed is used for the failures under its name."""
    async with Journal(path) as journal:
        await journal.map(pool, calls.odd_fails, range(4), version=1, return_exceptions=True)
        calls.broken = False
        outcomes = await journal.retry_failed(pool, calls.odd_fails)
        assert [outcome.value for outcome in outcomes] == [1, 3]
        assert await journal.map(pool, calls.odd_fails, range(4), version=1) == [0, 1, 2, 3]


async def test_the_failed_that_were_not_kept(path, pool, calls):
    """What cannot be read back is asked for: the function, or the arguments."""
    held = threading.Lock()

    async def fails(x):
        assert held is not x

    async with Journal(path) as journal:
        await journal.map(pool, fails, [held], key=id, return_exceptions=True)
        (failed,) = await journal.failed()
        assert failed.args is None
        with pytest.raises(aiopool.JournalError, match=r"retry_failed\(pool, fn\)"):
            await journal.retry_failed(pool)
        with pytest.raises(aiopool.JournalError, match="rerun_failed=True"):
            await journal.retry_failed(pool, fails)


# --- streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_stream(path, pool, calls, ordered):
    """A stream yields what was remembered and what ends now, in order if asked."""
    await mapped(path, pool, calls.double, range(0, 100, 3))
    async with Journal(path) as journal:
        options = {"version": 1, "ordered": ordered}
        async with journal.stream(pool, calls.double, numbers(100), **options) as results:
            got = [value async for value in results]
    assert (got if ordered else sorted(got)) == [2 * n for n in range(100)]
    assert sorted(calls.made) == list(range(100))


async def test_outcomes(path, pool, calls):
    """Outcomes tell failures without raising them, and the attempts of the run that made them."""
    for _ in range(2):
        async with Journal(path) as journal:
            stream = journal.stream(pool, calls.odd_fails, range(4), version=1, retry=TWICE)
            outcomes = [outcome async for outcome in stream.outcomes()]
        assert [(o.index, o.item, o.ok, o.attempts) for o in outcomes] == [
            (0, 0, True, 1),
            (1, 1, False, 2),
            (2, 2, True, 1),
            (3, 3, False, 2),
        ]


async def test_a_failure_ends_a_stream(path, pool, calls):
    """A failure is raised in its place, and ends the iteration."""
    async with Journal(path) as journal:
        stream = journal.stream(pool, calls.odd_fails, range(9), version=1)
        assert await anext(stream) == 0
        with pytest.raises(ValueError, match=r"^1"):
            await anext(stream)
        assert [value async for value in stream] == []


async def test_an_endless_input(path, pool, calls):
    """At most buffersize items are pulled ahead of the consumer, and leaving closes the input."""
    closed = []

    async def endless(pulled):
        try:
            while True:
                pulled.append(len(pulled))
                yield pulled[-1]
        finally:
            closed.append(True)

    async def take(journal, count):
        pulled, taken = [], 0
        options = {"version": 1, "buffersize": 8}
        async with journal.stream(pool, calls.double, endless(pulled), **options) as results:
            async for _ in results:
                taken += 1
                assert len(pulled) <= taken + 8
                if taken == count:
                    break

    async with Journal(path) as journal:
        await take(journal, 100)
        await take(journal, 100)  # all of them remembered
    assert closed == [True, True]
    assert len(calls.made) <= 116


async def test_an_input_that_fails(path, pool, calls):
    """What an iterable raises comes after the results of the items before it."""

    async def broken():
        yield 1
        yield 2
        raise OSError("gone")

    async with Journal(path) as journal:
        got = []
        with pytest.raises(OSError, match="gone"):
            async for value in journal.stream(pool, calls.double, broken(), version=1):
                got.append(value)
    assert got == [2, 4]


async def test_reported_means_committed(path, pool, calls, monkeypatch):
    """A result is not yielded before the transaction that holds it has been committed."""
    begun, go = threading.Event(), threading.Event()
    write = Store._write

    def held(store, *args):
        begun.set()
        assert go.wait(20)
        write(store, *args)

    monkeypatch.setattr(Store, "_write", held)
    async with Journal(path) as journal:
        stream = journal.stream(pool, calls.double, [4], version=1)
        first = asyncio.ensure_future(anext(stream))
        await wait_until(begun.is_set)
        assert calls.made == [4] and not first.done()
        go.set()
        assert await first == 8
        await stream.aclose()


# --- ends -----------------------------------------------------------------------------------


async def test_leaving_a_stream_commits_what_has_ended(path, pool, calls):
    """What ended behind the result the consumer waited for is remembered when it leaves."""
    async with (
        Journal(path) as journal,
        journal.stream(pool, calls.zero_waits, range(20), version=1) as results,
    ):
        waiting = asyncio.ensure_future(anext(results))
        await wait_until(lambda: len(calls.made) == 20)
        waiting.cancel()
    assert await remembered(path, pool, calls.zero_waits, range(20)) == list(range(1, 20))


async def test_cancelling_a_map_commits_what_has_ended(path, pool, calls):
    """A map that is cancelled, again and again, has committed what ended when it is over."""
    task = asyncio.ensure_future(mapped(path, pool, calls.zero_waits, range(20)))
    await wait_until(lambda: len(calls.made) == 20)
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await remembered(path, pool, calls.zero_waits, range(20)) == list(range(1, 20))


@pytest.mark.parametrize("what", ["pull", "pump"])
async def test_what_a_run_does_is_cancelled_by_a_stranger(path, pool, calls, what):
    """A program that cancels all tasks it finds gets an error, and no list that is too short."""
    async with Journal(path) as journal:
        run = asyncio.ensure_future(journal.map(pool, calls.zero_waits, counted(), version=1))
        await wait_until(lambda: len(calls.made) > 9)
        (task,) = [each for each in asyncio.all_tasks() if what in each.get_coro().__qualname__]
        task.cancel()
        calls.held.set()
        with pytest.raises(RuntimeError, match="was cancelled, and not by"):
            await run


async def counted():
    for number in itertools.count():
        yield number
        await asyncio.sleep(0)


async def test_closing_the_journal_stops_its_runs(path, pool, calls):
    """A stream or a map that runs when the journal is closed is stopped, and says so."""
    async with Journal(path) as journal:
        stream = journal.stream(pool, calls.zero_waits, numbers(20), version=1, ordered=False)
        assert await anext(stream) == 1
        task = asyncio.ensure_future(
            journal.map(pool, calls.zero_waits, [0], version=1, name="waits")
        )
        await wait_until(lambda: len(calls.made) == 21)
    with pytest.raises(aiopool.JournalError, match="was closed while"):
        await task
    with pytest.raises(aiopool.JournalError, match="was closed while"):
        await anext(stream)
    assert await remembered(path, pool, calls.zero_waits, range(20)) == list(range(1, 20))


async def test_a_dropped_stream(path, pool, calls):
    """A stream that nobody holds any more gives its function free."""
    async with Journal(path) as journal:
        stream = journal.stream(pool, calls.zero_waits, range(5), version=1, ordered=False)
        assert await anext(stream) == 1
        del stream
        await wait_until(lambda: not journal._runs)


async def test_the_pool_closes_under_a_run(path, calls):
    """A run whose pool closes ends with the pool's error and keeps what had ended."""
    async with aiopool.Pool(1) as pool:
        task = asyncio.ensure_future(mapped(path, pool, calls.zero_waits, range(20)))
        await wait_until(lambda: len(calls.made) == 20)
        await pool.aclose(drain=False)
        with pytest.raises(aiopool.PoolClosed):
            await task
    async with aiopool.Pool(1) as pool:
        assert await remembered(path, pool, calls.zero_waits, range(20)) == list(range(1, 20))


async def test_a_run_that_waits_for_room_in_the_pool(path, calls):
    """A run that could not begin because the pool is full can be cancelled."""
    async with aiopool.Pool(1, limit=1, max_pending=1) as pool:
        first = [pool.submit(calls.held.wait) for _ in range(2)]
        task = asyncio.ensure_future(mapped(path, pool, calls.double, range(3)))
        done, _ = await asyncio.wait([task], timeout=0.05)
        assert not done
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        calls.held.set()
        await asyncio.gather(*first)
    assert calls.made == []


async def test_two_consumers_of_one_stream(path, pool, calls):
    """They share its results, also when both ask before it has begun."""
    async with Journal(path) as journal:
        results = journal.stream(pool, calls.double, range(2), version=1)
        assert await asyncio.gather(anext(results), anext(results)) == [0, 2]


async def test_a_stream_that_is_closed_while_it_begins(path, pool, calls):
    """No run is left behind, and its function can be run again at once."""
    async with Journal(path) as journal:
        results = journal.stream(pool, calls.double, range(9), version=1)
        first = asyncio.ensure_future(anext(results, None))
        await asyncio.sleep(0)
        await results.aclose()
        await asyncio.wait([first])
        assert await journal.map(pool, calls.double, range(9), version=1) == [*range(0, 18, 2)]


async def test_runs_side_by_side(path, pool, calls):
    """Two functions may share a journal at once; one function may not run twice."""
    async with (
        Journal(path) as journal,
        journal.stream(pool, calls.zero_waits, range(3), version=1) as results,
    ):
        assert await journal.map(pool, calls.double, range(3), version=1) == [0, 2, 4]
        with pytest.raises(aiopool.JournalError, match="already"):
            await journal.map(pool, calls.zero_waits, range(3), version=1)
        calls.held.set()
        assert [value async for value in results] == [0, 1, 2]


async def test_a_journal_out_of_place(path, pool, calls):
    """A journal that is not open says so, closing twice is nothing, entering twice an error."""
    journal = Journal(path)
    await journal.aclose()
    with pytest.raises(aiopool.JournalError, match="not open"):
        await journal.map(pool, calls.double, [1])
    async with journal:
        await asyncio.gather(journal.aclose(), journal.aclose())
    with pytest.raises(aiopool.JournalError, match="closed"):
        await journal.failed()
    with pytest.raises(RuntimeError, match="once"):
        await journal.__aenter__()
