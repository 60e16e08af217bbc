"""The end of a worker whose parent has died."""

import os
import subprocess
import sys

import pytest

from tests.helpers import PATIENCE, ROOT, block_until, is_alive, run_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not passed there")
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does this on Linux only")

CHILD = """
import sys, time
from aiopool._worker import guard
guard.arm(int(sys.argv[1]))
"""
# What a worker may be busy with; each writes a line as it begins.
BUSY = {
    "asleep": "print('busy', flush=True); time.sleep(1000)",
    "in bytecode": "print('busy', flush=True)\nwhile True: pass",
    "in a regular expression": (
        "import re; print('busy', flush=True); re.match('(a+)+$', 'a' * 64 + 'b')"
    ),
    "in C with the GIL": (
        "import ctypes; sleep = ctypes.PyDLL(None).sleep; print('busy', flush=True); sleep(1000)"
    ),
    "in one long sum": "print('busy', flush=True); sum(range(10**14))",
    "deaf to signals": (
        "import signal\n"
        "signals = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signals)\n"
        "for number in signals: signal.signal(number, signal.SIG_IGN)\n"
        "print('busy', flush=True)\n"
        "while True: time.sleep(1000)"
    ),
}


class Guarded:
    """A process with the guard armed, and the one write end of its pipe."""

    def __init__(self, busy):
        read_end, self.write_end = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{CHILD}{busy}", str(read_end)],
            cwd=ROOT,
            pass_fds=[read_end],
            stdout=subprocess.PIPE,
        )
        os.close(read_end)

    def hang_up(self):
        os.close(self.write_end)
        self.write_end = None

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.write_end is not None:
            self.hang_up()
        self.process.kill()
        self.process.communicate()


@linux
@pytest.mark.parametrize("busy", BUSY.values(), ids=BUSY)
def test_the_worker_dies_when_the_write_end_closes(busy):
    """Whatever a worker is doing, it is killed when the only write end of its pipe closes."""
    with Guarded(busy) as guarded:
        assert guarded.process.stdout.readline() == b"busy\n"
        assert guarded.process.poll() is None
        guarded.hang_up()
        assert guarded.process.wait(PATIENCE) == -9


@linux
def test_a_worker_outlives_other_holders():
    """As long as one write end is open the worker lives."""
    with Guarded("print('busy', flush=True); print(sys.stdin.read())") as guarded:
        assert guarded.process.stdout.readline() == b"busy\n"
        copy = os.dup(guarded.write_end)
        guarded.hang_up()
        assert guarded.process.poll() is None
        os.close(copy)
        assert guarded.process.wait(PATIENCE) == -9


@linux
def test_a_parent_that_died_first_is_noticed():
    """A worker whose parent died before the guard was armed ends as it arms it."""
    read_end, write_end = os.pipe()
    os.close(write_end)
    done = subprocess.run(
        [sys.executable, "-c", f"{CHILD}print('alive', flush=True)", str(read_end)],
        cwd=ROOT,
        pass_fds=[read_end],
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(read_end)
    assert done.returncode in (1, -9)
    assert done.stdout == b""


@linux
def test_a_process_forked_by_the_worker_is_left_alone():
    """The guard kills the worker it was armed in and not a process forked by a call."""
    program = """
import os
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(1000)
time.sleep(1000)
"""
    with Guarded(program) as guarded:
        grandchild = int(guarded.process.stdout.readline())
        guarded.hang_up()
        assert guarded.process.wait(PATIENCE) == -9
        assert is_alive(grandchild)
        os.kill(grandchild, 9)
        block_until(lambda: not is_alive(grandchild))


ORPHANING = """
import multiprocessing, os, sys, time
from aiopool._worker import guard

def child():
    guard.arm(None)
    print(os.getpid(), flush=True)
    time.sleep(1000)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    sys.stdin.readline()
    os._exit(0)
"""


def test_without_a_pipe_a_thread_watches_the_parent(tmp_path):
    """Where no pipe is handed over, the worker ends soon after its parent all the same."""
    script = tmp_path / "orphaning.py"
    script.write_text(ORPHANING)
    with subprocess.Popen(
        [sys.executable, script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        worker = int(parent.stdout.readline())
        assert is_alive(worker)
        parent.communicate(b"\n")
    block_until(lambda: not is_alive(worker), "the worker to end")


def test_a_process_without_a_parent_of_multiprocessing_lives_on():
    """Armed in a process that multiprocessing did not start, the guard does nothing."""
    done = run_python("-c", "from aiopool._worker import guard; guard.arm(None); print('well')")
    assert done.stdout == "well\n", done.stderr
