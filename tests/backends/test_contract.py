"""What every place to run calls in does alike: processes, threads, the loop, given executors."""

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
from dataclasses import dataclass, field
from functools import partial

import pytest

import aiopool
from tests import jobs
from tests.backends import deeds
from tests.helpers import wait_until


def no_executor():
    return contextlib.nullcontext(None)


def forkserver_executor():
    context = multiprocessing.get_context("forkserver")
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=context)


@dataclass(frozen=True)
class Place:
    """One way to set up a pool, and what may be asked of it."""

    name: str
    options: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    executor: object = no_executor

    @contextlib.asynccontextmanager
    async def open(self, **settings):
        with self.executor() as executor:
            backend = {} if executor is None else {"backend": executor}
            settings = {"max_workers": 2, **self.settings, **backend, **settings}
            async with aiopool.Pool(**settings) as pool:
                yield pool

    def fn(self, plain):
        """The job as this place takes it."""
        if self.name != "loop":
            return plain

        async def call(*args):
            return plain(*args)

        return call

    @property
    def gate(self):
        return deeds.gate_async if self.name == "loop" else jobs.gate


PLACES = [
    Place("forkserver", settings={"mp_context": "forkserver"}),
    Place("spawn", settings={"mp_context": "spawn"}),
    Place("thread", options={"on": "thread"}),
    Place("loop", options={"on": "loop"}),
    Place("inline", settings={"backend": "inline"}),
    Place("threads given", executor=lambda: concurrent.futures.ThreadPoolExecutor(2)),
    Place("processes given", executor=forkserver_executor),
]
# A call that blocks its own event loop cannot wait there for its test.
WAITING = [place for place in PLACES if place.name != "inline"]
STOPPING = [place for place in PLACES if place.name in ("forkserver", "spawn", "loop")]
ABANDONING = [place for place in WAITING if place not in STOPPING]

LETHAL = [
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
]


def each(places):
    return pytest.mark.parametrize("place", places, ids=[place.name for place in places])


@each(PLACES)
async def test_value(place):
    """A call gives what the function returned, None and an exception included."""
    async with place.open() as pool:
        assert await pool.run(place.fn(jobs.add), 1, 2, **place.options) == 3
        assert await pool.run(place.fn(jobs.echo), None, **place.options) is None
        returned = await pool.run(place.fn(jobs.ret_exception), **place.options)
        assert type(returned) is ValueError


@each(PLACES)
async def test_exception(place):
    """An exception arrives with its type, its arguments, its notes and a traceback."""
    async with place.open() as pool:
        with pytest.raises(LookupError) as caught:
            await pool.run(place.fn(deeds.raise_noted), "one", 2, **place.options)
        assert type(caught.value) is LookupError
        assert caught.value.args == ("one", 2)
        assert caught.value.__notes__ == ["first note", "second note"]
        assert await pool.run(place.fn(jobs.add), 1, 2, **place.options) == 3


@each(PLACES)
async def test_falsy_exception(place):
    """An exception that counts as false is raised all the same."""
    async with place.open() as pool:
        with pytest.raises(jobs.Falsy):
            await pool.run(place.fn(jobs.raise_falsy), **place.options)


@each(PLACES)
async def test_many_calls(place):
    """Hundreds of submitted calls each get the value of their own."""
    async with place.open() as pool:
        fn = place.fn(jobs.square)
        handles = [pool.submit(fn, n, **place.options) for n in range(300)]
        assert await asyncio.gather(*handles) == [n * n for n in range(300)]


@each(PLACES)
async def test_map_order(place):
    """Results of a map are in the order of its input, failures in place if they are asked for."""
    async with place.open() as pool:
        squares = await pool.map(place.fn(jobs.square), range(500), **place.options)
        assert squares == [n * n for n in range(500)]
        mixed = await pool.map(
            place.fn(jobs.fail_if_odd), range(20), return_exceptions=True, **place.options
        )
        assert [m if isinstance(m, int) else m.args for m in mixed] == [
            (n,) if n % 2 else n for n in range(20)
        ]


@each(PLACES)
async def test_map_raises_its_first_failure_plain(place):
    """A map raises the failure of a call as it is, not in a group."""
    async with place.open() as pool:
        with pytest.raises(ValueError, match="1") as caught:
            await pool.map(place.fn(jobs.fail_if_odd), [0, 1, 2], **place.options)
        assert type(caught.value) is ValueError


@each(PLACES)
async def test_lethal_exceptions(place):
    """What would end the loop or pass for a cancellation arrives as a RemoteError naming it."""
    async with place.open() as pool:
        for kind in LETHAL:
            if place.name == "loop" and kind in (SystemExit, KeyboardInterrupt, StopIteration):
                continue  # asyncio's own: the first two stop the loop, a coroutine cannot raise it
            handle = pool.submit(place.fn(jobs.raise_type), kind, **place.options)
            with pytest.raises(aiopool.RemoteError) as caught:
                await asyncio.wait_for(handle, 20)
            assert kind.__name__ in caught.value.type_name
            assert not handle.cancelled()
        assert await pool.run(place.fn(jobs.add), 1, 2, **place.options) == 3


@each(PLACES)
async def test_lethal_exceptions_in_a_map(place):
    """A lethal exception fails its own item of a map and no other."""
    async with place.open() as pool:
        kinds = [GeneratorExit, StopAsyncIteration, asyncio.CancelledError]
        found = await pool.map(
            place.fn(jobs.raise_type), kinds, return_exceptions=True, **place.options
        )
        assert [type(error) for error in found] == [aiopool.RemoteError] * len(kinds)
        for kind, error in zip(kinds, found, strict=True):
            assert kind.__name__ in str(error)


@each(WAITING)
async def test_timeout(place, gate):
    """A call that takes longer than its timeout fails with TaskTimeout and others go on."""
    async with place.open() as pool:
        assert await pool.run(place.fn(jobs.add), 1, 2, **place.options) == 3
        with pytest.raises(aiopool.TaskTimeout) as caught:
            await pool.run(place.gate, *gate.paths, timeout=0.1, **place.options)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.seconds == 0.1
        assert await pool.run(place.fn(jobs.add), 1, 2, **place.options) == 3
        gate.open()


@each(PLACES)
async def test_own_timeout_error(place):
    """A TimeoutError raised by the call itself is not the pool's TaskTimeout."""
    async with place.open() as pool:
        with pytest.raises(TimeoutError) as caught:
            await pool.run(
                place.fn(jobs.raise_type), TimeoutError, "mine", timeout=60, **place.options
            )
        assert type(caught.value) is TimeoutError


@each(STOPPING)
async def test_cancel_running(place, gate):
    """A running call that can be stopped is, and its handle ends cancelled."""
    async with place.open() as pool:
        handle = pool.submit(place.gate, *gate.paths, **place.options)
        await gate.entered()
        assert handle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handle
        assert handle.cancelled()
        assert pool.statistics().running == 0
        assert await pool.run(place.fn(jobs.add), 1, 2, **place.options) == 3


@each(ABANDONING)
async def test_cancel_running_where_it_cannot_be_stopped(place, make_gate):
    """A running call that cannot be stopped is dropped, and its place stays taken until it ends."""
    gates = [make_gate(), make_gate()]
    async with place.open() as pool:
        handles = [pool.submit(place.gate, *gate.paths, **place.options) for gate in gates]
        for gate in gates:
            await gate.entered()
        handles[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await handles[0]
        gates[1].open()
        await handles[1]
        assert await pool.run(place.fn(jobs.add), 1, 2, **place.options) == 3
        gates[0].open()
        assert await pool.map(place.fn(jobs.inc), range(4), **place.options) == [1, 2, 3, 4]


@each(WAITING)
async def test_cancel_queued(place, make_gate, tmp_path):
    """A queued call that is cancelled never starts and does not wait for those ahead of it."""
    journal = tmp_path / "journal"
    fn = place.fn(jobs.record)
    async with place.open(limit=2) as pool:
        width = 2 if place.name != "thread" else len(_fill_threads(pool))
        gates = [make_gate() for _ in range(width)]
        running = [pool.submit(place.gate, *gate.paths, **place.options) for gate in gates]
        for gate in gates:
            await gate.entered()
        queued = [pool.submit(fn, str(journal), n, **place.options) for n in range(3)]
        assert queued[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued[1]
        assert not any(handle.done() for handle in running)
        for gate in gates:
            gate.open()
        assert await queued[0] == 0
        assert await queued[2] == 2
    assert sorted(journal.read_text().split()) == ["0", "2"]


def _fill_threads(pool):
    """One entry per thread that the pool may use at once."""
    return range(pool._parts.engine.venues["thread"].capacity)


@each(WAITING)
async def test_limit_bounds_calls_at_once(place, tmp_path):
    """A map's limit bounds how many of its calls run at once."""
    journal, release = tmp_path / "journal", tmp_path / "release"
    inside = deeds.enter_and_leave_async if place.name == "loop" else deeds.enter_and_leave
    fn = partial(inside, str(journal), str(release))
    async with place.open(max_workers=3) as pool:
        mapped = asyncio.ensure_future(pool.map(fn, range(8), limit=2, **place.options))
        await wait_until(
            lambda: journal.exists() and journal.read_text().count("in") == 2, "two are inside"
        )
        assert pool.statistics().running == 2
        release.touch()
        assert await mapped == list(range(8))
    assert deeds.most_at_once(journal) == 2


@each([place for place in WAITING if place.name != "thread"])
async def test_pool_bounds_calls_at_once(place, tmp_path):
    """No more calls run at once than the pool has workers, or on the loop than its limit."""
    journal, release = tmp_path / "journal", tmp_path / "release"
    inside = deeds.enter_and_leave_async if place.name == "loop" else deeds.enter_and_leave
    async with place.open(max_workers=2, limit=2) as pool:
        handles = [
            pool.submit(inside, str(journal), str(release), n, **place.options) for n in range(6)
        ]
        await wait_until(
            lambda: journal.exists() and journal.read_text().count("in") == 2, "two are inside"
        )
        assert pool.statistics().running == 2
        release.touch()
        assert await asyncio.gather(*handles) == list(range(6))
    assert deeds.most_at_once(journal) == 2


@each(PLACES)
async def test_retry(place, tmp_path):
    """A failed call is tried again as often as its policy says, and not more often."""
    policy = aiopool.Retry(attempts=3, wait_initial=0.001, wait_jitter=0)
    fn = place.fn(jobs.fail_times)
    async with place.open() as pool:
        good = pool.submit(fn, str(tmp_path / "good"), 2, "x", retry=policy, **place.options)
        bad = pool.submit(fn, str(tmp_path / "bad"), 9, "x", retry=policy, **place.options)
        assert await good == "x"
        assert good.attempts == 3
        with pytest.raises(ValueError, match="3"):
            await bad
    assert (tmp_path / "bad").read_text() == "x\n" * 3


@each(PLACES)
async def test_async_functions_need_the_loop(place):
    """A coroutine function runs on the loop wherever plain functions run."""
    async with place.open() as pool:
        assert await pool.run(jobs.inc_async, 1) == 2
        for elsewhere in ("process", "thread"):
            with pytest.raises(TypeError, match="sync function"):
                await pool.run(jobs.inc_async, 1, on=elsewhere)
