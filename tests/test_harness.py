"""The checks of `leaks` and `blocking` see what they are there to see."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import get_context, shared_memory

import pytest

from tests import helpers, jobs
from tests.blocking import PACKAGE, BlockingCall, BlockingGuard
from tests.leaks import MARKER, Snapshot, _shared_memory

SLEEPER = (sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()")


def seen(snapshot, kind):
    """Give the leaks of one kind; the rest of the machine may make shared memory meanwhile."""
    return [leak for leak in snapshot.leaks() if kind in leak]


def start_orphan(source, **options):
    """Run Python source in a process whose parent ends at once."""
    parent = (
        "from subprocess import DEVNULL, Popen; import sys;"
        f"Popen([sys.executable, '-c', {source!r}], stdout=DEVNULL, stderr=DEVNULL)"
    )
    assert helpers.run_python("-c", parent, **options).returncode == 0


def as_aiopool(source):
    """Compile functions as if they stood in a file of the package."""
    namespace = {}
    exec(compile(source, f"{PACKAGE}_run/imagined.py", "exec"), namespace)
    return namespace


@pytest.fixture
def guard():
    """Give a guard of the test's own, on top of the session's."""
    guard = BlockingGuard()
    guard.install()
    yield guard
    guard.uninstall()


def test_a_child_process_is_a_leak():
    """A program that still runs is named with its pid and its command."""
    before = Snapshot.take()
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        # A process that has not yet become its program has no command to name.
        process.stdout.readline()
        found = seen(before, "process")
        assert len(found) == 1
        assert f"process {process.pid}," in found[0] and "sys.stdin" in found[0]
    assert before.settle() == []


def test_an_orphan_is_a_leak(gate):
    """A process whose parent has ended is found by the marker in its environment."""
    before = Snapshot.take()
    start_orphan(f"from tests import jobs; jobs.gate(*{gate.paths})")
    helpers.block_until(gate.is_entered)
    found = seen(before, "process")
    assert len(found) == 1 and f"process {gate.pid}," in found[0]
    gate.open()
    assert before.settle() == []


def test_a_worker_of_the_forkserver_is_a_leak(gate):
    """A process forked by the forkserver counts, the forkserver and the tracker do not."""
    before = Snapshot.take()
    process = get_context("forkserver").Process(target=jobs.gate, args=gate.paths)
    process.start()
    helpers.block_until(gate.is_entered)
    found = seen(before, "process")
    assert len(found) == 1 and f"process {process.pid}," in found[0]
    gate.open()
    process.join()
    process.close()
    assert before.settle() == []


def test_a_thread_is_a_leak():
    """A thread that still runs is named."""
    before = Snapshot.take()
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="left over", daemon=True)
    thread.start()
    assert seen(before, "thread") == ["thread 'left over', daemon"]
    ended.set()
    thread.join()
    assert seen(before, "thread") == []


def test_descriptors_are_leaks_by_kind():
    """More pipes or sockets than before are a leak, other pipes than before are none."""
    old = os.pipe()
    before = Snapshot.take()
    new = os.pipe()
    left, right = socket.socketpair()
    assert [leak[:30] for leak in seen(before, "descriptors")] == [
        "2 more descriptors of kind pip",
        "2 more descriptors of kind soc",
    ]
    for end in (*old, left, right):
        getattr(end, "close", lambda end=end: os.close(end))()
    assert seen(before, "descriptors") == []
    for end in new:
        os.close(end)


def test_shared_memory_is_a_leak():
    """A shared memory file is a leak until it is unlinked."""
    before = Snapshot.take()
    memory = shared_memory.SharedMemory(create=True, size=1)
    memory.close()
    assert seen(before, memory.name) == [f"shared memory /dev/shm/{memory.name}"]
    memory.unlink()
    assert seen(before, memory.name) == []


def test_the_shared_memory_of_strangers_is_no_leak(gate, tmp_path):
    """A semaphore in use by a process that does not belong to the tests is ignored."""
    before = Snapshot.take()
    unmarked = {name: value for name, value in os.environ.items() if name != MARKER}
    start_orphan(
        "from multiprocessing import get_context; from tests import jobs;"
        "lock = get_context('spawn').Lock();"
        f"jobs.write_whole({str(tmp_path / 'name')!r}, lock._semlock.name);"
        f"jobs.gate(*{gate.paths})",
        env=unmarked,
    )
    helpers.block_until(gate.is_entered)
    name = (tmp_path / "name").read_text().removeprefix("/")
    assert f"/dev/shm/sem.{name}" in _shared_memory() - before.shared_memory
    assert seen(before, "shared memory") == []
    gate.open()
    helpers.block_until(lambda: not helpers.is_alive(gate.pid))


def test_what_goes_by_itself_is_no_leak():
    """A thread that is about to end is waited for."""
    before = Snapshot.take()
    threading.Thread(target=time.sleep, args=(0.05,)).start()
    assert before.settle() == []


def test_the_session_is_marked():
    """Programs inherit the marker by which orphans are found."""
    assert MARKER in os.environ


async def test_sleeping_in_the_loop_is_caught(guard):
    """A blocking call by aiopool raises, and is remembered even if the exception is swallowed."""
    code = as_aiopool("import time\ndef nap():\n    time.sleep(0)")
    with pytest.raises(BlockingCall, match=r"time\.sleep blocks"):
        code["nap"]()
    assert len(guard.take()) == 1
    assert guard.take() == []


async def test_blocking_through_the_library_is_caught(guard):
    """A call that blocks deeper in the standard library is laid at aiopool's door."""
    code = as_aiopool("def read(sock):\n    return sock.makefile().readline()")
    left, right = socket.socketpair()
    with left, right, pytest.raises(BlockingCall, match=r"socket\.recv_into"):
        code["read"](left)
    assert len(guard.take()) == 1


async def test_a_callback_that_blocks_is_caught(guard):
    """A callback of the loop is as guilty as a coroutine."""
    code = as_aiopool("import time\ndef nap():\n    time.sleep(0)")
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    loop.call_soon(code["nap"])
    await helpers.wait_until(guard.take)


async def test_a_job_run_in_the_loop_may_block(guard):
    """A function of the test that aiopool calls on the loop is the test's own affair."""
    code = as_aiopool("def call(fn):\n    fn()")
    code["call"](lambda: time.sleep(0))
    assert guard.take() == []


async def test_waiting_for_what_is_done_is_no_blocking(guard):
    """Joining a thread that has ended and reading a non-blocking socket do not wait."""
    code = as_aiopool("def finish(thread, sock):\n    thread.join()\n    return sock.recv(1)")
    thread = threading.Thread(target=int)
    thread.start()
    await helpers.wait_until(lambda: not thread.is_alive())
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.send(b"x")
        assert code["finish"](thread, left) == b"x"
    assert guard.take() == []


def test_outside_a_loop_anything_may_block(guard):
    """Without a running loop on this thread aiopool may sleep."""
    as_aiopool("import time\ndef nap():\n    time.sleep(0)")["nap"]()
    assert guard.take() == []


def test_the_guard_leaves_no_trace():
    """Uninstalling puts back what was there."""
    before = time.sleep, os.waitpid, dict(vars(socket.socket)), dict(vars(threading.Thread))
    guard = BlockingGuard()
    guard.install()
    assert time.sleep is not before[0]
    guard.uninstall()
    after = time.sleep, os.waitpid, dict(vars(socket.socket)), dict(vars(threading.Thread))
    assert after == before


async def test_wait_until_gives_up():
    """Waiting in vain fails with the source of what was waited for."""
    with pytest.raises(AssertionError, match=r"not true within 0.01 s.*never_true"):
        never_true = False
        await helpers.wait_until(lambda: never_true, patience=0.01)


def test_a_gate_holds_a_call(gate):
    """A call at a gate tells its pid and goes on when the gate is opened."""
    thread = threading.Thread(target=jobs.gate, args=gate.paths)
    thread.start()
    helpers.block_until(gate.is_entered)
    assert gate.pid == os.getpid() and thread.is_alive()
    gate.open()
    thread.join()


def test_a_program_that_hangs_is_killed():
    """A program that runs too long is killed with everything it started."""
    with pytest.raises(subprocess.TimeoutExpired):
        helpers.run_python("-c", "import time; time.sleep(60)", patience=0.1)
