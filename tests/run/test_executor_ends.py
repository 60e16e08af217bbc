"""`PoolExecutor`: how it ends, whoever asks and however often. The leak check does the rest."""

import gc
import threading
from concurrent.futures import CancelledError, wait

import pytest

from aiopool import PoolClosed, PoolExecutor
from tests import jobs
from tests.helpers import PATIENCE, block_until


def held(executor, gate):
    """Have a call wait at a gate; returns its future once it is there."""
    future = executor.submit(jobs.gate, *gate.paths)
    block_until(gate.is_entered)
    return future


def portals():
    """Give the threads of executors there are."""
    return [thread for thread in threading.enumerate() if "portal" in thread.name]


def test_shutdown_finishes_what_was_submitted():
    """Shutdown returns when every call has ended and every thread is gone."""
    executor = PoolExecutor(2)
    futures = [executor.submit(jobs.inc, n) for n in range(100)]
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == list(range(1, 101))
    assert not portals()


def test_shutdown_without_waiting(gate):
    """Without wait shutdown returns at once, and what was submitted is finished all the same."""
    executor = PoolExecutor(2)
    future = held(executor, gate)
    executor.shutdown(wait=False)
    assert not future.done()
    with pytest.raises(PoolClosed):
        executor.submit(jobs.inc, 1)
    gate.open()
    assert future.result(PATIENCE) == gate.pid
    executor.shutdown()
    assert not portals()


def test_cancel_futures(gate):
    """Cancelling futures cancels the calls that have not started and lets those that run end."""
    executor = PoolExecutor(1)
    running = held(executor, gate)
    queued = [executor.submit(jobs.inc, n) for n in range(10)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert wait(queued, PATIENCE).not_done == set()
    assert all(future.cancelled() for future in queued)
    gate.open()
    executor.shutdown()
    assert running.result() == gate.pid


def test_cancel_futures_of_a_map(gate):
    """A map whose calls were cancelled gives the results there are, then CancelledError."""
    executor = PoolExecutor(1)
    results = executor.map(_wait_at_two, [(n, *gate.paths) for n in range(1000)])
    block_until(gate.is_entered)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    taken = []
    with pytest.raises(CancelledError):
        taken.extend(iter(lambda: next(results), None))
    executor.shutdown()


def _wait_at_two(row):
    number, *paths = row
    if number == 2:
        jobs.gate(*paths)
    return number


def test_shutdown_from_several_threads():
    """Any number of threads may shut it down; each returns when all is gone."""
    executor = PoolExecutor(2)
    future = executor.submit(jobs.sleep_for, 0.1)
    done = []

    def shut_down():
        executor.shutdown()
        done.append(future.done() and not portals())

    threads = [threading.Thread(target=shut_down) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert done == [True] * 5


@pytest.mark.parametrize("wait_for_it", [True, False])
def test_shutdown_from_a_callback(wait_for_it):
    """A callback of a future may shut its executor down and does not wait for itself."""
    executor = PoolExecutor(1)
    called = threading.Event()

    def shut_down(_):
        executor.shutdown(wait=wait_for_it)
        called.set()

    future = executor.submit(jobs.sleep_for, 0.05)
    future.add_done_callback(shut_down)
    assert called.wait(PATIENCE)
    with pytest.raises(PoolClosed):
        executor.submit(jobs.inc, 1)
    executor.shutdown()
    assert not portals()


def test_leaving_by_an_exception_finishes_the_calls(gate):
    """An exception in the block does not cancel the calls, as with other executors."""
    with pytest.raises(LookupError), PoolExecutor(1) as executor:
        future = held(executor, gate)
        gate.open()
        raise LookupError
    assert future.result() == gate.pid


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_leaving_by_an_interrupt_stops_the_calls(kind, gate):
    """Leaving the block by KeyboardInterrupt or SystemExit stops what runs and what waits."""
    with pytest.raises(kind), PoolExecutor(1) as executor:
        running = held(executor, gate)
        queued = executor.submit(jobs.inc, 1)
        results = executor.map(jobs.inc, range(10))
        raise kind
    assert running.cancelled() and queued.cancelled()
    with pytest.raises(CancelledError):
        next(results)


def test_a_dropped_executor_finishes_its_calls():
    """An executor that nobody refers to any more finishes its calls and goes by itself."""
    executor = PoolExecutor(2)
    futures = [executor.submit(jobs.inc, n) for n in range(100)]
    results = executor.map(jobs.inc, range(100))
    del executor
    gc.collect()
    assert list(results) == [future.result(PATIENCE) for future in futures] == list(range(1, 101))
    block_until(lambda: not portals())


def test_cancelling_after_shutdown(gate):
    """A call that runs on after shutdown without wait can still be cancelled."""
    executor = PoolExecutor(1)
    future = held(executor, gate)
    executor.shutdown(wait=False)
    assert future.cancel()
    executor.shutdown()
    assert future.cancelled()


def test_no_thread_to_be_had(monkeypatch):
    """Where no thread can be started submit raises, and leaves nothing."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    executor = PoolExecutor(1)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        executor.submit(jobs.inc, 1)
    monkeypatch.undo()
    assert executor.submit(jobs.inc, 1).result(PATIENCE) == 2
    executor.shutdown()
