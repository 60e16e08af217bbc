"""The program is killed or interrupted from outside: nothing stays behind."""

import os
import signal
import time

import pytest

from tests.e2e.programs import are_alive, gone, members, pids_in, started
from tests.helpers import block_until

PHASES = ["idle", "sleeping", "in C", "deaf"]

PROGRAM = """
from pathlib import Path

def mark(folder):
    jobs.write_whole(f"{folder}/{os.getpid()}", "")

def idle(folder):
    mark(folder)
    while len([p for p in Path(folder).iterdir() if p.name.isdecimal()]) < 2:
        time.sleep(0.001)

def sleeping(folder):
    mark(folder)
    time.sleep(600)

def stuck(folder):
    mark(folder)
    jobs.spin_in_c(10**12)

def deaf(folder):
    mark(folder)
    jobs.spin_ignoring_signals(600)

async def main():
    folder, phase, method = sys.argv[1:]
    os.mkdir(folder)
    async with aiopool.Pool(2, mp_context=method, grace_period=0.5) as pool:
        work = {"idle": idle, "sleeping": sleeping, "in C": stuck, "deaf": deaf}[phase]
        await pool.map(work, [folder] * 2)
        jobs.write_whole(f"{folder}/ready", "")
        await asyncio.sleep(600)

if __name__ == "__main__":
    run(main())
"""

each_phase = pytest.mark.parametrize("phase", PHASES)
each_method = pytest.mark.parametrize("method", ["forkserver", "spawn"])


def under_way(folder, phase):
    """Wait until the program is in its phase and give the pids of its two workers."""
    block_until(folder.exists, "the program has begun")
    pids = pids_in(folder, 2)
    if phase == "idle":
        block_until((folder / "ready").exists, "its workers are idle")
    return pids


@each_method
@each_phase
def test_parent_killed(phase, method, tmp_path):
    """When the program is killed its workers are gone within moments, whatever they are doing."""
    folder = tmp_path / "pids"
    with started(tmp_path, PROGRAM, folder, phase, method) as program:
        pids = under_way(folder, phase)
        assert len(are_alive(pids)) == 2
        program.kill()
        program.wait()
        # One second is what is promised; these machines are noisy.
        block_until(lambda: not are_alive(pids), "the workers are gone", patience=4)
        gone(program.pid)


@each_method
def test_parent_killed_on_uvloop(method, tmp_path):
    """Killing a program on uvloop leaves no worker either."""
    folder = tmp_path / "pids"
    with started(tmp_path, PROGRAM, folder, "in C", method, loop="uvloop") as program:
        pids = under_way(folder, "in C")
        program.kill()
        program.wait()
        block_until(lambda: not are_alive(pids), "the workers are gone", patience=4)
        gone(program.pid)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@each_phase
def test_interrupt_from_the_terminal(phase, loop, tmp_path):
    """One Ctrl-C ends the program and its workers promptly, with one traceback at most."""
    folder = tmp_path / "pids"
    with started(tmp_path, PROGRAM, folder, phase, "forkserver", loop=loop) as program:
        under_way(folder, phase)
        interrupted = time.monotonic()
        os.killpg(program.pid, signal.SIGINT)
        program.wait(20)
        assert time.monotonic() - interrupted < 10
        gone(program.pid)
    stderr = (tmp_path / "err").read_text()
    assert program.returncode in (-signal.SIGINT, 130, 1), stderr
    chained = stderr.count("During handling of") + stderr.count("direct cause of")
    assert stderr.count("Traceback") - chained <= 1, stderr
    assert "worker" not in stderr.lower(), stderr


@each_method
def test_interrupt_while_workers_start(method, tmp_path):
    """A Ctrl-C that comes while the workers start ends the program and leaves no process."""
    source = PROGRAM.replace("await pool.map", "(Path(folder) / 'ready').touch(); await pool.map")
    folder = tmp_path / "pids"
    with started(tmp_path, source, folder, "sleeping", method) as program:
        block_until((folder / "ready").exists, "the program has begun")
        os.killpg(program.pid, signal.SIGINT)
        program.wait(20)
        gone(program.pid)
    assert program.returncode != 0


def test_second_interrupt_while_closing(tmp_path):
    """A second Ctrl-C during the grace period leaves no process either."""
    source = PROGRAM.replace("grace_period=0.5", "grace_period=3")
    folder = tmp_path / "pids"
    with started(tmp_path, source, folder, "deaf", "forkserver") as program:
        under_way(folder, "deaf")
        os.killpg(program.pid, signal.SIGINT)
        time.sleep(0.2)  # no event tells that closing has begun; both orders are right
        os.killpg(program.pid, signal.SIGINT)
        program.wait(20)
        gone(program.pid)


def test_terminated(tmp_path):
    """A program ended by SIGTERM leaves no worker."""
    folder = tmp_path / "pids"
    with started(tmp_path, PROGRAM, folder, "in C", "forkserver") as program:
        pids = under_way(folder, "in C")
        program.terminate()
        program.wait(20)
        block_until(lambda: not are_alive(pids), "the workers are gone", patience=4)
        gone(program.pid)
    assert not members(program.pid)
