"""The catalogue of faults, parts B to H: what befalls a pool, its loop and its end, with processes.

The rows of which `tests/run` tests every detail on the event loop are played here once with real
workers.
"""

import asyncio
import contextlib
import gc
import os
import signal
import time
import weakref
from pathlib import Path

import pytest

import aiopool
from tests import jobs
from tests.backends import mischief
from tests.helpers import is_alive, wait_until
from tests.run.support import cancel_at_step, ended, is_cancelled, turns

LONG = 600.0
# Half a second is the grace period; the rest is for a noisy machine.
PROMPT = 10.0

METHODS = pytest.mark.parametrize("method", ["forkserver", "spawn"])


@contextlib.contextmanager
def promptly():
    """Fail if the block takes as long as something that is waited for."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < PROMPT


# --- B, D, E: what a call leaves behind -----------------------------------------------------


@METHODS
async def test_b19_nothing_is_held(method):
    """A call's argument, result and exception are let go of with its outcome, without a search."""
    async with aiopool.Pool(1, mp_context=method) as pool:
        await pool.run(jobs.inc, 1)
        gc.disable()
        try:
            argument = mischief.Thing()
            result = await pool.run(jobs.echo, argument)
            held = [weakref.ref(argument), weakref.ref(result)]
            try:
                await pool.run(jobs.raise_type, mischief.Plain)
            except mischief.Plain as error:
                held.append(weakref.ref(error))
            del argument, result
            await turns()
            assert [ref() for ref in held] == [None] * 3
        finally:
            gc.enable()


@METHODS
async def test_d2_grandchild_at_closing(method, tmp_path):
    """A process that a call forked and that lives on holds up no closing, and is left alone."""
    with contextlib.ExitStack() as stack:
        async with aiopool.Pool(1, mp_context=method, grace_period=0.5) as pool:
            grandchild = await pool.run(jobs.start_grandchild, str(tmp_path / "grandchild"))
            stack.callback(os.kill, grandchild, signal.SIGKILL)
            began = time.monotonic()
        assert time.monotonic() - began < PROMPT
        assert is_alive(grandchild)


@METHODS
async def test_d2_grandchild_of_a_dead_worker(method, tmp_path):
    """A process that a call forked delays neither the news of its worker's death nor closing."""
    with contextlib.ExitStack() as stack:
        async with aiopool.Pool(1, mp_context=method, grace_period=0.5) as pool:
            grandchild = await pool.run(jobs.start_grandchild, str(tmp_path / "grandchild"))
            stack.callback(os.kill, grandchild, signal.SIGKILL)
            with promptly(), pytest.raises(aiopool.WorkerCrashed):
                await pool.run(jobs.kill_self, signal.SIGKILL)
            assert await pool.run(jobs.inc, 1) == 2
            began = time.monotonic()
        assert time.monotonic() - began < PROMPT


@METHODS
async def test_d4_state_of_a_worker(method):
    """What a call changed in its worker, the next call there finds, and one elsewhere does not."""
    async with aiopool.Pool(1, mp_context=method, max_tasks_per_worker=2) as pool:
        changed = await pool.run(mischief.change_the_world)
        assert await pool.run(mischief.see_the_world) == changed
        pid, *fresh = await pool.run(mischief.see_the_world)
        assert pid != changed[0]
        assert fresh[0] == str(Path.cwd())
        assert fresh[1] is None


@METHODS
async def test_d5_deaf_worker_at_closing(method):
    """An idle worker that ignores SIGTERM and has it blocked is gone when the pool is closed."""
    async with aiopool.Pool(1, mp_context=method, grace_period=0.5) as pool:
        worker, *_ = await pool.run(mischief.change_the_world)
        with promptly():
            await pool.aclose()
    assert not is_alive(worker)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
async def test_e5_signal_to_a_worker(method, gate):
    """A signal sent to a worker does not run the handler its parent has for that signal."""
    heard = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, heard.append, "SIGTERM")
    try:
        async with aiopool.Pool(1, mp_context=method) as pool:
            guilty = pool.submit(jobs.gate, *gate.paths)
            os.kill(await gate.entered(), signal.SIGTERM)
            with pytest.raises(aiopool.WorkerCrashed, match="SIGTERM"):
                await guilty
            assert await pool.run(jobs.add, 1, 2) == 3
            assert heard == []
            os.kill(os.getpid(), signal.SIGTERM)
            await wait_until(lambda: heard)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


# --- F: races of cancelling -----------------------------------------------------------------

SENDING = [*range(1, 16), 20, 30, 50, 100, 200, 500]


@METHODS
async def test_f3_cancel_within_a_large_argument(method):
    """A call cancelled at any step of sending 64 MB to it leaves a lane in which others succeed."""
    block = bytes(64 << 20)
    async with aiopool.Pool(1, mp_context=method, grace_period=5) as pool:
        worker = await pool.run(jobs.pid)
        for step in SENDING:
            task, _ = await cancel_at_step(lambda: pool.run(jobs.length, block), step)
            assert is_cancelled(task) or task.result() == len(block)
            assert await pool.run(jobs.add, step, 1) == step + 1
        assert await pool.run(jobs.pid) == worker
        assert pool.statistics().crashed == 0


async def test_f4_cancel_as_the_result_arrives(make_gate):
    """A call cancelled at any step around its result gives the value or is cancelled, not both."""
    ends = set()
    async with aiopool.Pool(1) as pool:
        for step in range(1, 30):
            gate = make_gate()
            handle = pool.submit(jobs.gate, *gate.paths)
            await gate.entered()
            gate.open()
            await turns(step)
            handle.cancel()
            await ended(handle)
            ends.add(handle.cancelled())
            assert handle.cancelled() or handle.result() == gate.pid
            assert await pool.run(jobs.add, step, 1) == step + 1
    assert ends <= {True, False}


async def test_f13_cancel_as_a_place_is_handed_on(make_gate):
    """A call cancelled at any step around its turn loses no place, and those behind it run."""
    async with aiopool.Pool(1, limit=1) as pool:
        for step in range(1, 25):
            release = asyncio.Event()
            first = pool.submit(release.wait)
            second = pool.submit(asyncio.sleep, 0, "second")
            third = pool.submit(asyncio.sleep, 0, "third")
            await turns(3)
            release.set()
            await turns(step)
            second.cancel()
            await ended(second)
            assert second.cancelled() or second.result() == "second"
            assert await asyncio.wait_for(third, 20) == "third"
            assert await first is True
        assert pool.statistics().running == 0


# --- G: closing -----------------------------------------------------------------------------


async def busy_pool(gates, **options):
    """Open a pool whose two workers are at gates, with calls queued behind; the handles too."""
    pool = await aiopool.Pool(2, grace_period=0.5, **options).__aenter__()
    running = [pool.submit(jobs.gate, *gate.paths) for gate in gates]
    for gate in gates:
        await gate.entered()
    return pool, running, [pool.submit(jobs.square, n) for n in range(5)]


@METHODS
@pytest.mark.parametrize("way", ["drain", "cancel", "timeout"])
async def test_g3_closing_with_calls(way, method, make_gate):
    """However a pool with running and queued calls is closed, each of them has its one outcome."""
    gates = [make_gate(), make_gate()]
    pool, running, queued = await busy_pool(gates, mp_context=method)
    pids = [gate.pid for gate in gates]
    options = {"drain": {}, "cancel": {"drain": False}, "timeout": {"timeout": 0.1}}[way]
    closing = [asyncio.ensure_future(pool.aclose(**options)) for _ in range(2)]
    await turns()
    with pytest.raises(aiopool.PoolClosed):
        pool.submit(jobs.inc, 1)
    if way == "drain":
        for gate in gates:
            gate.open()
    with promptly():
        await asyncio.gather(*closing)
    if way == "drain":
        assert [handle.result() for handle in running] == pids
        assert [handle.result() for handle in queued] == [n * n for n in range(5)]
    else:
        assert all(handle.cancelled() for handle in (*running, *queued))
    assert not [pid for pid in pids if is_alive(pid)]


async def test_g1_closing_from_a_signal_handler(make_gate):
    """A signal handler may have the pool closed while its calls run."""
    pool, running, queued = await busy_pool([make_gate(), make_gate()])
    loop = asyncio.get_running_loop()
    closing = []
    loop.add_signal_handler(
        signal.SIGUSR1, lambda: closing.append(loop.create_task(pool.aclose(drain=False)))
    )
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        await wait_until(lambda: closing)
        with promptly():
            await closing[0]
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
    assert all(handle.cancelled() for handle in (*running, *queued))


@METHODS
async def test_g5_crash_while_closing(method, make_gate):
    """A worker that dies after closing began fails its call, and the rest is still drained."""
    gates = [make_gate(), make_gate()]
    pool, running, queued = await busy_pool(gates, mp_context=method)
    closing = asyncio.ensure_future(pool.aclose())
    await turns()
    os.kill(gates[0].pid, signal.SIGKILL)
    with pytest.raises(aiopool.WorkerCrashed):
        await running[0]
    gates[1].open()
    with promptly():
        await closing
    assert running[1].result() == gates[1].pid
    assert [handle.result() for handle in queued] == [n * n for n in range(5)]


async def test_g5_all_workers_crash_while_closing(make_gate):
    """When every worker dies after closing began what was queued is still done."""
    gates = [make_gate(), make_gate()]
    pool, running, queued = await busy_pool(gates)
    closing = asyncio.ensure_future(pool.aclose())
    await turns()
    for gate in gates:
        os.kill(gate.pid, signal.SIGKILL)
    with promptly():
        await closing
    assert {type(handle.exception()) for handle in running} == {aiopool.WorkerCrashed}
    assert [handle.result() for handle in queued] == [n * n for n in range(5)]


@METHODS
async def test_g6_cancel_and_close_at_once(method):
    """Calls cancelled right after submission do not keep the pool from closing."""
    with promptly():
        for count in range(1, 6):
            async with aiopool.Pool(1, mp_context=method, grace_period=0.5) as pool:
                handles = [pool.submit(jobs.square, n) for n in range(count)]
                for handle in handles[1:]:
                    handle.cancel()
            assert handles[0].result() == 0
            assert all(handle.cancelled() for handle in handles[1:])


@pytest.mark.parametrize("times", [1, 2])
async def test_g7_cancel_within_leaving(times, make_gate):
    """A cancellation that comes while the block drains stops the calls and is raised afterwards."""
    gates = [make_gate(), make_gate()]
    inside = asyncio.Event()
    handles = []

    async def use():
        async with aiopool.Pool(2, grace_period=0.5) as pool:
            handles.extend(pool.submit(jobs.gate, *gate.paths) for gate in gates)
            for gate in gates:
                await gate.entered()
            inside.set()

    task = asyncio.ensure_future(use())
    await inside.wait()
    with promptly():
        for _ in range(times):
            await turns()
            task.cancel()
        await ended(task)
    assert task.cancelled()
    assert all(handle.cancelled() for handle in handles)
    assert not [gate.pid for gate in gates if is_alive(gate.pid)]


# --- H: streams -----------------------------------------------------------------------------


def numbers(pulled):
    for n in range(10**9):
        pulled.append(n)
        yield n


async def by_break(stream):
    async for value in stream:
        if value >= 10:
            break


async def by_aclose(stream):
    async with contextlib.aclosing(stream):
        await by_break(stream)


async def by_error(stream):
    with pytest.raises(KeyError):
        async with stream:
            async for _ in stream:
                raise KeyError


@METHODS
@pytest.mark.parametrize("way", [by_break, by_aclose, by_error], ids=lambda way: way.__name__)
async def test_h5_stream_left_early(way, method):
    """A stream of worker calls that is left early stops what is left and raises nothing."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with aiopool.Pool(2, mp_context=method, grace_period=0.5) as pool:
        pulled = []
        stream = pool.stream(jobs.inc, numbers(pulled), buffersize=50)
        await way(stream)
        del stream
        gc.collect()
        await wait_until(lambda: not pool.statistics().queued and not pool.statistics().running)
        assert len(pulled) < 200
        assert await pool.run(jobs.inc, 1) == 2
    assert told == []


@METHODS
async def test_h5_stream_dropped_in_the_middle_of_calls(method, make_gate):
    """A stream dropped while its calls run has them stopped, and the workers are free again."""
    gates = [make_gate(), make_gate()]
    async with aiopool.Pool(2, mp_context=method, grace_period=0.5) as pool:
        stream = pool.stream(mischief.gate_of, [gate.paths for gate in gates])
        taking = asyncio.ensure_future(anext(stream))
        for gate in gates:
            await gate.entered()
        taking.cancel()
        await ended(taking)
        del stream, taking
        gc.collect()
        with promptly():
            await wait_until(lambda: not pool.statistics().running)
            assert await pool.map(jobs.inc, range(4)) == [1, 2, 3, 4]
