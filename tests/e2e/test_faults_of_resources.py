"""The catalogue of faults, part I: the system refuses something, and later gives it again."""

import concurrent.futures.process
import errno
import gc
import logging
import multiprocessing.popen_forkserver
import multiprocessing.popen_spawn_posix
import multiprocessing.synchronize
import os
import tracemalloc
from pathlib import Path

import pytest

import aiopool
from tests import jobs
from tests.e2e.programs import run_program
from tests.helpers import wait_until

EXHAUSTED = """
import gc, logging, resource
from tests.helpers import Gate, wait_until

class Hog:
    held = []

    def leave(self, count):
        while True:
            try:
                self.held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(count):
            os.close(self.held.pop())

    def free(self):
        while self.held:
            os.close(self.held.pop())

class Told(logging.Handler):
    count = 0

    def emit(self, record):
        self.count += 1

hog, told = Hog(), Told()
kept = []  # errors, which shall not keep descriptors

async def beside_a_busy_worker(count, method, folder):
    gate = Gate(Path(f"{folder}/{count}.marker"), Path(f"{folder}/{count}.release"))
    async with aiopool.Pool(2, mp_context=method) as pool:
        innocent = pool.submit(jobs.gate, *gate.paths)
        pid = await gate.entered()
        told.count = 0
        hog.leave(count)
        waiting = pool.submit(jobs.add, 1, 2)
        await wait_until(lambda: told.count or waiting.done())
        hog.free()
        assert await waiting == 3
        gate.open()
        assert await innocent == pid

async def without_a_worker(count, method):
    async with aiopool.Pool(1, mp_context=method) as pool:
        hog.leave(count)
        try:
            assert await pool.run(jobs.add, 1, 2) == 3
        except aiopool.WorkerCrashed as error:
            assert isinstance(error.__cause__, OSError), error
            kept.append(error)
        hog.free()
        assert await pool.run(jobs.add, 1, 2) == 3

async def main():
    method, folder = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    logging.getLogger("aiopool").addHandler(told)
    async with aiopool.Pool(1, mp_context=method) as pool:  # the servers, and what is imported
        await pool.run(jobs.add, 1, 2)
    gc.collect()
    gc.disable()
    before = len(os.listdir("/proc/self/fd"))
    for count in (0, 9, 20):
        await beside_a_busy_worker(count, method, folder)
        await without_a_worker(count, method)
    assert len(os.listdir("/proc/self/fd")) <= before
    print("done")

if __name__ == "__main__":
    from pathlib import Path
    run(main())
"""


@pytest.mark.parametrize(("method", "loop"), [("forkserver", "asyncio"), ("spawn", "uvloop")])
def test_i1_no_descriptors_left(method, loop, tmp_path):
    """With any number of descriptors left a call waits or says why, and none is lost over it."""
    ended = run_program(tmp_path, EXHAUSTED, method, tmp_path, loop=loop)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def no_process(monkeypatch):
    def refuse(*args):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    for module in (multiprocessing.popen_forkserver, multiprocessing.popen_spawn_posix):
        monkeypatch.setattr(module.Popen, "_launch", refuse)


def no_semaphore(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)


def no_memory_file(monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "memfd_create", refuse)


def no_semaphores_at_all(monkeypatch):
    def refuse():
        raise NotImplementedError("this system has no semaphores")

    monkeypatch.setattr(concurrent.futures.process, "_check_system_limits", refuse)


CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
REFUSALS = {
    "I2 no process": no_process,
    "I3 no semaphore in shared memory": no_semaphore,
    "I3 no memory file": no_memory_file,
    "I6 no semaphores at all": no_semaphores_at_all,
}
each_refusal = pytest.mark.parametrize("row", REFUSALS)
each_method = pytest.mark.parametrize("method", ["forkserver", "spawn"])


@each_refusal
@each_method
async def test_start_refused(row, method):
    """Where no worker can be started calls fail and say why, and later ones succeed."""
    async with aiopool.Pool(2, mp_context=method) as pool:
        with pytest.MonkeyPatch.context() as patch:
            REFUSALS[row](patch)
            with pytest.raises(aiopool.WorkerCrashed, match="no worker could start") as caught:
                await pool.run(jobs.add, 1, 2)
            assert isinstance(caught.value.__cause__, (OSError, NotImplementedError))
        assert await pool.run(jobs.add, 1, 2) == 3


@each_refusal
@each_method
async def test_replacement_refused(row, method, gate, caplog):
    """Where no further worker can be started those there are do the work, and one warning tells."""
    with caplog.at_level(logging.WARNING, "aiopool"):
        async with aiopool.Pool(2, mp_context=method) as pool:
            innocent = pool.submit(jobs.gate, *gate.paths)
            worker = await gate.entered()
            with pytest.MonkeyPatch.context() as patch:
                REFUSALS[row](patch)
                waiting = [pool.submit(jobs.add, n, 1) for n in range(3)]
                await wait_until(lambda: caplog.records)
            gate.open()
            assert await innocent == worker
            assert [await handle for handle in waiting] == [1, 2, 3]
            assert pool.statistics().failed == 0
    assert "could not start a worker" in caplog.text


NOWHERE = """
async def main():
    async with aiopool.Pool(2, mp_context=sys.argv[1]) as pool:
        print(await pool.run(jobs.add, 1, 2))
        os.rmdir(sys.argv[2])
        print(await pool.run(jobs.add, 3, 4))
    async with aiopool.Pool(1, mp_context=sys.argv[1]) as pool:
        try:
            await pool.run(jobs.add, 1, 2)
        except aiopool.WorkerCrashed as error:
            print(type(error.__cause__).__name__)

if __name__ == "__main__":
    os.mkdir(sys.argv[2])
    os.chdir(sys.argv[2])
    for name in ("HOME", "USER", "LOGNAME"):
        os.environ.pop(name, None)
    os.environ["TMPDIR"] = "/nowhere"
    run(main())
"""


@each_method
def test_i6_no_directory_to_be_in(method, tmp_path):
    """Without a home all is well; without a directory to be in a worker that starts says so."""
    ended = run_program(tmp_path, NOWHERE, method, tmp_path / "gone")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == ["3", "7", "FileNotFoundError"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_i7_affinity():
    """Bound to one CPU, a pool has one worker by default."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert repr(aiopool.Pool()) == "<Pool not open, max_workers=1>"
    finally:
        os.sched_setaffinity(0, allowed)


QUOTAS = {"max 100000": 8, "150000 100000": 2, "50000 100000": 1, "1600000 100000": 8, "": 8}


@pytest.mark.parametrize("quota", QUOTAS)
def test_i7_quota(quota, monkeypatch):
    """A pool has by default as many workers as its control group may keep busy."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    monkeypatch.setattr(Path, "read_text", lambda path, _: {CPU_MAX: quota}[path])
    assert repr(aiopool.Pool()) == f"<Pool not open, max_workers={QUOTAS[quota]}>"


async def test_i8_a_long_stream_is_small():
    """A stream of many items needs memory for its window, whatever their number."""
    async with aiopool.Pool(2) as pool:
        await pool.map(jobs.inc, range(1000))
        gc.collect()
        tracemalloc.start()
        try:
            total = 0
            async with pool.stream(jobs.inc, iter(range(100_000))) as results:
                async for value in results:
                    total += value
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert total == sum(range(1, 100_001))
    assert peak < 16 << 20


async def test_i8_a_long_map_is_not_large():
    """A map of many items needs far less than a kilobyte for each."""
    count = 100_000
    async with aiopool.Pool(2) as pool:
        await pool.map(jobs.inc, range(1000))
        gc.collect()
        tracemalloc.start()
        try:
            values = await pool.map(jobs.inc, range(count))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert values == list(range(1, count + 1))
    assert peak < count * 1024
