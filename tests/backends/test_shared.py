"""Objects placed once in shared memory and used by workers, wherever a handle is passed."""

import asyncio
import errno
import gc
import os
import signal
import sys
import threading
import weakref
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest

import aiopool
from aiopool._wire import segment, shared
from tests import jobs
from tests.backends import deeds
from tests.helpers import wait_until

ARRAY = np.arange(200_000.0)
METHODS = ["forkserver", "spawn", "fork"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@dataclass
class Holder:
    table: object
    factor: int


def total(array, factor=1):
    return float(array.sum()) * factor


def total_of_holder(holder):
    return total(holder.table, holder.factor)


def total_of_all(arrays):
    return [total(array) for array in arrays]


def total_by_name(arrays):
    return total(arrays["a"]["b"])


async def total_async(array, factor=1):
    return total(array, factor)


def overwrite(array):
    array[0] = 7


def identity(obj):
    return id(obj), os.getpid()


def tail(array):
    return array[-10:]


def kinds(*args):
    return [type(arg).__name__ for arg in args]


def total_then_exit(array):
    os._exit(int(array[3]))


def maps_of(pid):
    """Count the shared objects that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sum("aiopool-shared" in line for line in lines)


def shared_descriptors():
    links = [path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum("aiopool-shared" in link for link in links)


@pytest.fixture(params=METHODS)
def start_method(request):
    return request.param


@pytest.fixture
async def pool():
    async with aiopool.Pool(1) as pool:
        yield pool


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_every_start_method(start_method):
    """Workers of every start method read an object that was shared before or after their start."""
    async with aiopool.Pool(2, mp_context=start_method) as pool:
        before = pool.share(ARRAY)
        assert await pool.map(total, [before] * 50) == [ARRAY.sum()] * 50
        after = pool.share(ARRAY + 1)
        assert await pool.run(total, after, 2) == (ARRAY + 1).sum() * 2
        with pytest.raises(ValueError, match="read-only"):
            await pool.run(overwrite, before)
        assert await pool.run(total, before) == ARRAY.sum()


async def test_a_handle_may_stand_anywhere(pool):
    """A handle inside a list, a dictionary, an object, a row or a partial becomes the object."""
    handle = pool.share(ARRAY)
    expected = ARRAY.sum()
    assert await pool.run(total_of_all, [handle, handle]) == [expected] * 2
    assert await pool.run(total_by_name, {"a": {"b": handle}}) == expected
    assert await pool.run(total_of_holder, Holder(handle, 3)) == expected * 3
    assert await pool.map(total, repeat(handle), range(3)) == [0, expected, expected * 2]
    assert await pool.starmap(total, [(handle, 2)]) == [expected * 2]
    async with pool.stream(total, repeat(handle, 3)) as stream:
        assert [value async for value in stream] == [expected] * 3


async def test_other_objects(pool):
    """Bytes and any picklable object arrive as what they were."""
    for obj in (b"x" * 100_000, {"a": [1, 2]}, "text", lambda x: x, [ARRAY, b"y"]):
        handle = pool.share(obj)
        assert await pool.run(kinds, handle) == [type(obj).__name__]
    assert await pool.run(jobs.echo, pool.share({"a": [1, 2]})) == {"a": [1, 2]}


def column(table, name):
    return list(table[name][:3])


def overwrite_frame(frame):
    frame.iloc[0, 0] = 7


async def test_a_table_of_pandas(pool):
    """A frame of pandas arrives as one that cannot be written to."""
    pandas = pytest.importorskip("pandas")
    handle = pool.share(pandas.DataFrame({"a": ARRAY, "b": ARRAY + 1}))
    assert await pool.run(column, handle, "b") == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        await pool.run(overwrite_frame, handle)


async def test_a_table_of_arrow(pool):
    """A table of Arrow arrives with its columns."""
    arrow = pytest.importorskip("pyarrow")
    handle = pool.share(arrow.table({"a": ARRAY}))
    found = await pool.run(column, handle, "a")
    assert [value.as_py() for value in found] == [0, 1, 2]


async def test_a_worker_opens_an_object_once(pool):
    """Every call of one worker receives the same object."""
    handle = pool.share(ARRAY)
    assert len({await pool.run(identity, handle) for _ in range(5)}) == 1


async def test_calls_in_this_process(pool):
    """A coroutine, a thread's call and an inline one receive the object, too."""
    handle = pool.share(ARRAY)
    assert await pool.run(total_async, handle, 2) == ARRAY.sum() * 2
    assert await pool.map(total_async, [handle] * 3) == [ARRAY.sum()] * 3
    assert await pool.run(total, handle, on="thread") == ARRAY.sum()
    assert await pool.run(kinds, handle, 1, on="thread") == ["ndarray", "int"]
    async with pool.task_group() as group:
        found = group.start_soon(total_async, handle)
    assert found.result() == ARRAY.sum()
    async with aiopool.Pool(backend="inline") as inline:
        assert await inline.run(kinds, inline.share(ARRAY), handle) == ["ndarray"] * 2


async def test_another_pool(pool):
    """A handle may be used with any pool, and after its own has been closed."""
    async with aiopool.Pool(1) as other:
        handle = other.share(ARRAY)
        assert await pool.run(total, handle) == ARRAY.sum()
    assert await pool.run(total, handle) == ARRAY.sum()


async def test_results(pool):
    """The object, or a view of it, comes back with its values."""
    handle = pool.share(ARRAY)
    assert np.array_equal(await pool.run(jobs.echo, handle), ARRAY)
    assert np.array_equal(await pool.run(tail, handle), ARRAY[-10:])


async def test_a_handle_dropped_while_its_calls_wait(make_gate):
    """Calls that were submitted run with the object though nobody else holds its handle."""
    gate = make_gate()
    async with aiopool.Pool(1) as pool:
        held = pool.submit(jobs.gate, *gate.paths)
        await gate.entered()
        calls = [pool.submit(total_of_all, [pool.share(ARRAY + n)]) for n in range(5)]
        gc.collect()
        gate.open()
        await held
        assert await asyncio.gather(*calls) == [[(ARRAY + n).sum()] for n in range(5)]


async def test_a_worker_that_dies(pool):
    """The worker that replaces a dead one attaches for itself."""
    handle = pool.share(ARRAY)
    assert await pool.run(total, handle) == ARRAY.sum()
    with pytest.raises(aiopool.WorkerCrashed) as caught:
        await pool.run(total_then_exit, handle)
    assert caught.value.exitcode == 3
    assert await pool.run(total, handle) == ARRAY.sum()


async def test_an_object_that_kills_who_opens_it(pool):
    """What dies of opening an object is the one call that would have received it."""
    handle = pool.share(deeds.KillsAtUnpickle())
    with pytest.raises(aiopool.WorkerCrashed) as caught:
        await pool.run(jobs.echo, handle)
    assert caught.value.exitcode == -signal.SIGKILL
    assert await pool.run(jobs.inc, 1) == 2


async def test_an_object_that_is_gone(pool):
    """A call whose argument names an object that is gone fails alone and says so."""
    placed = segment.Segment([memoryview(b"")])
    placed.retire()
    lost = deeds.Unpickles(shared.attach, placed.address)
    with pytest.raises(OSError):
        await pool.run(jobs.echo, lost)
    assert await pool.run(jobs.inc, 1) == 2


async def test_out_of_place():
    """Sharing is refused where nothing could be called, and with what cannot be pickled."""
    pool = aiopool.Pool(1)
    with pytest.raises(aiopool.PoolClosed):
        pool.share(1)
    async with pool:
        with pytest.raises(aiopool.NotTransferable, match="the object to share"):
            pool.share(threading.Lock())
        handle = await asyncio.to_thread(pool.share, ARRAY)
        assert await pool.run(total, handle) == ARRAY.sum()
    with pytest.raises(aiopool.PoolClosed):
        pool.share(1)


async def test_no_room(pool, monkeypatch):
    """What does not fit in shared memory goes over the socket, read-only too, after a warning."""

    def refuse(pieces):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared, "Segment", refuse)
    with pytest.warns(RuntimeWarning, match="No space left") as found:
        handle = pool.share(ARRAY)
    assert found[0].filename == __file__
    assert await pool.map(total, [handle] * 3) == [ARRAY.sum()] * 3
    assert await pool.run(total_async, handle) == ARRAY.sum()
    with pytest.raises(ValueError, match="read-only"):
        await pool.run(overwrite, handle)


async def test_named_memory(monkeypatch):
    """Where memory has to have a name workers attach by it, and nothing is left of it."""
    monkeypatch.setattr(segment, "_PROC", False)
    async with aiopool.Pool(2) as pool:
        handle = pool.share(ARRAY)
        assert await pool.map(total, [handle] * 20) == [ARRAY.sum()] * 20
        with pytest.raises(ValueError, match="read-only"):
            await pool.run(overwrite, handle)
        del handle
        gc.collect()
        assert await pool.run(total, pool.share(ARRAY)) == ARRAY.sum()


@linux
async def test_idle_workers_let_go():
    """When a handle goes, workers with nothing to do unmap its object, those of other pools too."""
    async with aiopool.Pool(1) as pool, aiopool.Pool(1) as other:
        handle = pool.share(ARRAY)
        pids = [(await each.run(identity, handle))[1] for each in (pool, other)]
        assert [maps_of(pid) for pid in pids] == [1, 1]
        assert shared_descriptors()
        del handle
        await wait_until(lambda: [maps_of(pid) for pid in pids] == [0, 0])
        assert not shared_descriptors()


@linux
async def test_functions_let_go(pool):
    """An object that is bound to a function goes with its handle as well."""
    bound = partial(total, pool.share(ARRAY))
    assert await pool.map(bound, range(3)) == [0, ARRAY.sum(), 2 * ARRAY.sum()]
    pid = await pool.run(jobs.pid)
    assert maps_of(pid) == 1
    del bound
    await wait_until(lambda: maps_of(pid) == 0)
    assert await pool.run(jobs.pid) == pid


@linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_forked_workers_let_go():
    """A forked worker keeps nothing of what its parent had placed before."""
    async with aiopool.Pool(1, mp_context="fork") as pool:
        handle = pool.share(ARRAY)
        pid = await pool.run(jobs.pid)
        links = [path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert not any("aiopool-shared" in link for link in links)
        assert await pool.run(total, handle) == ARRAY.sum()


@linux
async def test_a_thousand_objects(pool):
    """A thousand objects shared, used and dropped leave nothing with parent or worker."""
    for n in range(1000):
        assert await pool.run(kinds, pool.share([ARRAY[:1000], n])) == ["list"]
    pid = await pool.run(jobs.pid)
    await wait_until(lambda: maps_of(pid) == 0)
    await wait_until(lambda: not shared_descriptors())


async def test_the_original_is_not_kept(pool):
    """A handle does not keep the object that it was made of."""
    array = ARRAY.copy()
    reference = weakref.ref(array)
    handle = pool.share(array)
    del array
    assert reference() is None
    assert await pool.run(total, handle) == ARRAY.sum()
