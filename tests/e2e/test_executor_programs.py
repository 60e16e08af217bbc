"""Programs that use `PoolExecutor`: how they end when it is not shut down, forks, interrupts."""

import os
import signal
import time

import pytest

from tests.e2e.programs import gone, pids_in, run_program, started
from tests.helpers import block_until

METHODS = pytest.mark.parametrize("method", ["forkserver", "spawn"])


def ends_well(tmp_path, source, *args, stdout):
    """Run a program that must end promptly, with nothing on stderr."""
    began = time.monotonic()
    ended = run_program(tmp_path, source, *args)
    assert ended.stderr == ""
    assert (ended.returncode, ended.stdout) == (0, stdout)
    assert time.monotonic() - began < 20


@METHODS
@pytest.mark.parametrize("last", ["", "executor.shutdown(wait=False)", "del executor"])
@pytest.mark.parametrize("phase", ["unused", "idle", "busy"])
def test_interpreter_exits(phase, last, method, tmp_path):
    """A program that never waits for its executor finishes its calls, ends, and leaves nothing."""
    source = f"""
    def work(n):
        time.sleep(0.2)
        print(n, flush=True)

    if __name__ == "__main__":
        executor = aiopool.PoolExecutor(1, mp_context=sys.argv[2])
        if sys.argv[1] == "idle":
            executor.submit(work, 1).result()
        elif sys.argv[1] == "busy":
            for n in (1, 2):
                executor.submit(work, n)
        {last}
    """
    printed = {"unused": "", "idle": "1\n", "busy": "1\n2\n"}[phase]
    ends_well(tmp_path, source, phase, method, stdout=printed)


def test_module_level_executor(tmp_path):
    """An executor made as the main module is imported does no harm in the workers."""
    source = """
    executor = aiopool.PoolExecutor(1)

    if __name__ == "__main__":
        print(list(executor.map(jobs.inc, range(3))))
    """
    ends_well(tmp_path, source, stdout="[1, 2, 3]\n")


def test_submit_at_exit(tmp_path):
    """Whoever submits while the interpreter exits is told so, new executors included."""
    source = """
    import atexit

    def too_late():
        for each in (executor, aiopool.PoolExecutor(1)):
            try:
                each.submit(jobs.inc, 1)
            except RuntimeError as error:
                print(error)

    if __name__ == "__main__":
        atexit.register(too_late)
        executor = aiopool.PoolExecutor(1)
        executor.submit(jobs.inc, 1).result()
    """
    message = "cannot schedule new futures after interpreter shutdown\n"
    ends_well(tmp_path, source, stdout=message * 2)


def test_loop(tmp_path):
    """Its loop is uvloop's where that is installed."""
    pytest.importorskip("uvloop")
    source = """
    async def loop_module():
        return type(asyncio.get_running_loop()).__module__

    if __name__ == "__main__":
        with aiopool.PoolExecutor(1) as executor:
            print(executor.submit(loop_module).result().partition(".")[0])
    """
    ends_well(tmp_path, source, stdout="uvloop\n")


def test_forked_parent(tmp_path):
    """A forked child cannot use its parent's executor, and by ending does not harm it."""
    source = """
    if __name__ == "__main__":
        with aiopool.PoolExecutor(1) as executor:
            pid = executor.submit(jobs.pid).result()
            child = os.fork()
            if child == 0:
                try:
                    executor.submit(jobs.inc, 1)
                except RuntimeError as error:
                    print(error, flush=True)
                executor.shutdown()
                with aiopool.PoolExecutor(1, mp_context="spawn") as own:
                    print(own.submit(jobs.inc, 1).result(), flush=True)
                sys.exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(executor.submit(jobs.pid).result() == pid)
    """
    message = "this executor was in use when the process was forked: make a new one\n"
    head = "import warnings; warnings.simplefilter('ignore')\nimport os, sys, aiopool\n"
    ended = run_program(tmp_path, source, head=head + "from tests import jobs\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == message + "2\n7\nTrue\n"


WAITING = """
def work(folder):
    jobs.write_whole(f"{folder}/{os.getpid()}", "")
    time.sleep(600)

if __name__ == "__main__":
    folder, phase = sys.argv[1:]
    os.mkdir(folder)
    executor = aiopool.PoolExecutor(1, grace_period=0.5)
    if phase == "at exit":
        for _ in range(3):
            executor.submit(work, folder)
        sys.exit(0)
    with executor:
        futures = [executor.submit(work, folder) for _ in range(3)]
        if phase == "in result":
            futures[0].result()
        if phase == "in map":
            list(executor.map(work, [folder] * 3))
"""


@pytest.mark.parametrize("phase", ["in result", "in map", "leaving the block", "at exit"])
def test_interrupt_from_the_terminal(phase, tmp_path):
    """One Ctrl-C ends a program that waits for its executor, calls that run and all."""
    folder = tmp_path / "pids"
    with started(tmp_path, WAITING, folder, phase) as program:
        block_until(folder.exists)
        pids_in(folder, 1)
        began = time.monotonic()
        os.killpg(program.pid, signal.SIGINT)
        program.wait(20)
        assert time.monotonic() - began < 10
        gone(program.pid)
    stderr = (tmp_path / "err").read_text()
    assert stderr.count("Traceback") <= 1 and "worker" not in stderr.lower(), stderr


def test_parent_killed(tmp_path):
    """Killing a program takes its executor's workers along."""
    folder = tmp_path / "pids"
    with started(tmp_path, WAITING, folder, "in result") as program:
        block_until(folder.exists)
        pids_in(folder, 1)
        program.kill()
        program.wait()
        gone(program.pid)
