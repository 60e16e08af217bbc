"""How workers begin, are replaced, and what they are given."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import time

import pytest

import aiopool
from tests import jobs
from tests.backends import deeds, mischief, writers
from tests.helpers import wait_until


async def test_initializer(start_method):
    """The initializer runs in every worker before its first call, with its arguments."""
    async with aiopool.Pool(
        1, mp_context=start_method, initializer=deeds.set_up, initargs=("key", 7)
    ) as pool:
        assert await pool.run(deeds.setting, "key") == 7
        os.kill(await pool.run(jobs.pid), signal.SIGKILL)
        assert await pool.run(deeds.setting, "key") == 7


async def test_initializer_given_as_closure():
    """An initializer may be a closure over a value."""
    value = 8
    async with aiopool.Pool(1, initializer=lambda: deeds.set_up("key", value)) as pool:
        assert await pool.run(deeds.setting, "key") == 8


@pytest.mark.parametrize(
    ("initializer", "word"),
    [
        (deeds.set_up_failing, "no set-up for you"),
        (deeds.set_up_exiting, "code 5"),
        (deeds.set_up_sys_exiting, "leaving"),
    ],
)
async def test_initializer_that_fails(initializer, word, start_method, tmp_path):
    """Where the initializer fails calls fail and say why, and workers are not started in a loop."""
    journal = tmp_path / "journal"
    async with aiopool.Pool(
        2, mp_context=start_method, initializer=initializer, initargs=(str(journal),)
    ) as pool:
        handles = [pool.submit(jobs.inc, n) for n in range(5)]
        ends = await asyncio.wait_for(asyncio.gather(*handles, return_exceptions=True), 20)
        assert {type(end) for end in ends} == {aiopool.WorkerCrashed}
        assert all(word in str(end) for end in ends)
        assert isinstance(ends[0].__cause__, Exception)
    assert len(journal.read_text().split()) <= 6


async def test_initializer_that_fails_once(tmp_path):
    """A pool whose first worker could not be set up tries again for later calls."""
    journal = str(tmp_path / "journal")
    async with aiopool.Pool(1, initializer=deeds.set_up_failing_once, initargs=(journal,)) as pool:
        with pytest.raises(aiopool.WorkerCrashed):
            await pool.run(jobs.add, 1, 2)
        assert await asyncio.wait_for(pool.run(jobs.add, 1, 2), 20) == 3


async def test_killed_while_it_starts(start_method, make_gate, tmp_path):
    """A worker killed while it starts is replaced, and the calls that wait for it hear nothing."""
    gates = [make_gate() for _ in range(3)]
    paths = [gate.paths for gate in gates]
    async with aiopool.Pool(
        1,
        mp_context=start_method,
        initializer=mischief.pass_gates,
        initargs=(str(tmp_path / "journal"), paths),
    ) as pool:
        handles = [pool.submit(jobs.square, n) for n in range(5)]
        for gate in gates:
            os.kill(await gate.entered(), signal.SIGKILL)
        assert await asyncio.wait_for(asyncio.gather(*handles), 20) == [0, 1, 4, 9, 16]
        assert {handle.attempts for handle in handles} == {1}


async def test_killed_whenever_it_starts(start_method, tmp_path):
    """Where every worker is killed as it starts calls fail, and the starts come to an end."""
    journal = tmp_path / "journal"
    async with aiopool.Pool(
        2, mp_context=start_method, initializer=mischief.set_up_killed, initargs=(str(journal),)
    ) as pool:
        with pytest.raises(aiopool.WorkerCrashed, match="SIGKILL"):
            await asyncio.wait_for(pool.run(jobs.inc, 1), 20)
    assert len(journal.read_text().split()) <= 20


async def test_max_tasks_per_worker(start_method):
    """A worker is replaced after the given number of calls."""
    async with aiopool.Pool(1, mp_context=start_method, max_tasks_per_worker=2) as pool:
        pids = [await pool.run(jobs.pid) for _ in range(6)]
        assert pids[0::2] == pids[1::2]
        assert len(set(pids)) == 3
        assert pool.statistics().crashed == 0


async def test_max_tasks_per_worker_loses_nothing():
    """A map over workers that are replaced all the time has every result, in order."""
    async with aiopool.Pool(2, max_tasks_per_worker=7) as pool:
        found = await asyncio.wait_for(pool.map(jobs.pid_and, range(200)), 60)
        assert [value for _, value in found] == list(range(200))
        counts = {}
        for pid, _ in found:
            counts[pid] = counts.get(pid, 0) + 1
        assert max(counts.values()) <= 7
        handles = [pool.submit(jobs.square, n) for n in range(50)]
        assert await asyncio.gather(*handles) == [n * n for n in range(50)]


async def test_max_worker_memory():
    """A worker that holds more memory than it may is replaced after its call."""
    async with aiopool.Pool(1, max_worker_memory=400 << 20) as pool:
        worker = await pool.run(jobs.pid)
        assert await pool.run(deeds.hold, 1 << 20) == worker
        assert await pool.run(deeds.hold, 500 << 20) == worker
        assert await pool.run(jobs.pid) != worker
        assert pool.statistics().crashed == 0


async def test_stdin_is_empty(start_method):
    """A call that reads standard input finds it empty."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        assert await pool.run(jobs.read_stdin) == ""
        with pytest.raises(EOFError):
            await pool.run(input)


async def test_nested_pool():
    """A call in a worker may use a pool of its own."""
    async with aiopool.Pool(1) as pool:
        assert await pool.run(deeds.nested_map, 5) == [0, 1, 4, 9, 16]


async def test_closing_descriptors(start_method, company):
    """A call that closes every descriptor harms no other call."""
    async with aiopool.Pool(3, mp_context=start_method) as pool:
        innocents = company(pool)
        await innocents.gather_round()
        guilty = pool.submit(deeds.close_descriptors)
        innocents.queue_up()
        ends = await asyncio.wait_for(asyncio.gather(guilty, return_exceptions=True), 20)
        assert ends == ["closed"] or type(ends[0]) is aiopool.WorkerCrashed
        await innocents.leave_well()


async def test_garbage_in_the_sockets(start_method, company, tmp_path):
    """A call that writes to descriptors not its own harms itself at most, and runs once."""
    journal = tmp_path / "journal"
    async with aiopool.Pool(3, mp_context=start_method) as pool:
        innocents = company(pool)
        await innocents.gather_round()
        guilty = pool.submit(deeds.record_and_write_garbage, str(journal))
        innocents.queue_up()
        ends = await asyncio.wait_for(asyncio.gather(guilty, return_exceptions=True), 20)
        assert ends == ["written"] or type(ends[0]) is aiopool.WorkerCrashed
        await innocents.leave_well()
    assert journal.read_text() == "call\n"


async def test_garbage_from_a_call_that_goes_on(gate, tmp_path):
    """A call that wrote garbage and goes on fails as the one that cost its worker."""
    async with aiopool.Pool(1) as pool:
        guilty = pool.submit(_garbage_then_gate, *gate.paths)
        with pytest.raises(aiopool.WorkerCrashed):
            await asyncio.wait_for(guilty, 20)
        assert await pool.run(jobs.add, 1, 2) == 3


def _garbage_then_gate(*paths):
    deeds.write_garbage()
    return jobs.gate(*paths)


FORKING = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning",
    "ignore:.*os.fork.. was called:RuntimeWarning",
)


@FORKING
async def test_forked_workers_leave_at_once():
    """Workers that were forked end when they are let go, long before the grace period does."""
    async with aiopool.Pool(2, mp_context="fork", grace_period=60) as pool:
        assert await pool.map(jobs.inc, range(10)) == list(range(1, 11))
        closing = time.monotonic()
    assert time.monotonic() - closing < 4


@FORKING
@pytest.mark.parametrize("method", ["fork", "forkserver"])
async def test_a_process_forked_beside_a_pool(method, gate):
    """A process that the program forks and that ends takes no worker of an open pool with it."""
    async with aiopool.Pool(1, mp_context=method) as pool:
        held = pool.submit(jobs.gate, *gate.paths)
        worker = await gate.entered()
        child = multiprocessing.get_context("fork").Process(target=jobs.inc, args=(1,))
        child.start()
        await wait_until(lambda: not child.is_alive())
        child.close()
        gate.open()
        assert await held == worker
        assert pool.statistics().crashed == 0


@FORKING
async def test_fork():
    """Workers are forked where that is asked for, and die alone there, too."""
    async with aiopool.Pool(2, mp_context="fork") as pool:
        squares = await asyncio.wait_for(pool.map(jobs.square, range(50)), 20)
        assert squares == [n * n for n in range(50)]
        with pytest.raises(aiopool.WorkerCrashed):
            await pool.run(jobs.exit_with, 3)
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_initializer_that_hangs(start_method, tmp_path, capsys):
    """Where the initializer hangs calls fail once its time is up, and say so."""
    journal = tmp_path / "journal"
    initializer = {"initializer": writers.say_and_hang, "initargs": (str(journal),)}
    options = {**initializer, "start_timeout": 1}
    async with aiopool.Pool(1, mp_context=start_method, **options) as pool:
        handles = [pool.submit(jobs.inc, n) for n in range(3)]
        ends = await asyncio.wait_for(asyncio.gather(*handles, return_exceptions=True), 20)
        assert {type(end) for end in ends} == {aiopool.WorkerCrashed}
        assert all("not ready within 1 s" in str(end) for end in ends)
        assert isinstance(ends[0].__cause__, TimeoutError)
    assert journal.read_text() == "start\n"
    assert capsys.readouterr().out == "about to hang\n"


async def test_initializer_that_kills(start_method, tmp_path):
    """Where the initializer kills its process calls fail and say by which signal."""
    journal = tmp_path / "journal"
    options = {"initializer": writers.die, "initargs": (str(journal),)}
    async with aiopool.Pool(2, mp_context=start_method, **options) as pool:
        handles = [pool.submit(jobs.inc, n) for n in range(5)]
        ends = await asyncio.wait_for(asyncio.gather(*handles, return_exceptions=True), 20)
        assert {type(end) for end in ends} == {aiopool.WorkerCrashed}
        assert all("SIGKILL" in str(end) for end in ends)
    assert len(journal.read_text().split()) <= 6


async def test_print_after_closing_descriptors(start_method, capsys):
    """A call that closes all descriptors and prints costs its own worker at most."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        await pool.run(print, "before")
        with contextlib.suppress(aiopool.WorkerCrashed):
            await pool.run(_close_and_print)
        await pool.run(print, "after")
    assert capsys.readouterr().out == "before\nafter\n"


def _close_and_print():
    deeds.close_descriptors()
    print("into the void", flush=True)


async def test_a_burst_of_submissions_keeps_workers_busy(start_method):
    """Calls are answered, and others sent, while a program submits without a turn of the loop."""
    async with aiopool.Pool(2, mp_context=start_method) as pool:
        await pool.map(jobs.inc, range(100))
        handles = []
        deadline = time.monotonic() + 20
        while not any(handle.done() for handle in handles[8:16]):
            assert time.monotonic() < deadline
            handles += [pool.submit(jobs.inc, len(handles) + n) for n in range(100)]
        found = await asyncio.gather(*handles)
        assert found == [n + 1 for n in range(len(handles))]
