"""The program is killed or interrupted from outside, in every phase: nothing stays behind."""

import os
import signal
import tempfile
from itertools import product
from pathlib import Path

import pytest

from tests.e2e.programs import are_alive, gone, pids_in, run_program, started
from tests.helpers import block_until, wanted

PROGRAM = """
from pathlib import Path
from tests.backends import mischief

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
    mischief.stuck_in_c(0)

WORK = {"idle": idle, "spawning": idle, "sleeping": sleeping, "stuck": stuck, "closing": stuck}

async def main():
    folder, phase, method, grace = sys.argv[1:]
    os.mkdir(folder)
    start = {"initializer": sleeping, "initargs": (folder,)} if phase == "spawning" else {}
    async with aiopool.Pool(2, mp_context=method, grace_period=float(grace), **start) as pool:
        if phase == "closing":
            for _ in range(2):
                pool.submit(WORK[phase], folder)
            return
        await pool.map(WORK[phase], [folder] * 2)
        jobs.write_whole(f"{folder}/ready", "")
        await asyncio.sleep(600)

if __name__ == "__main__":
    run(main())
"""

PHASES = ["idle", "sleeping", "stuck", "spawning", "closing"]
# How it is ended: the signal, and whether the workers get it too, as from a terminal.
ENDS = {
    "SIGKILL": (signal.SIGKILL, False),
    "SIGTERM": (signal.SIGTERM, False),
    "SIGINT": (signal.SIGINT, False),
    "Ctrl-C": (signal.SIGINT, True),
}
GRACE = 0.2
# Within a second more than that all is to be gone; the rest is for a noisy machine.
SOON = 5.0

each_phase = pytest.mark.parametrize("phase", PHASES)
each_end = pytest.mark.parametrize("end", ENDS)
# Of the other start method and event loop: each phase and each end, not each phase at each end.
OTHERS = [
    ("idle", "SIGINT"),
    ("sleeping", "SIGTERM"),
    ("stuck", "SIGKILL"),
    ("stuck", "Ctrl-C"),
    ("spawning", "Ctrl-C"),
    ("spawning", "SIGKILL"),
    ("closing", "Ctrl-C"),
]


def under_way(folder, phase):
    """Wait until the program is in its phase and give the pids of its two workers."""
    block_until(folder.exists, "the program has begun")
    pids = pids_in(folder, 2)
    if phase == "idle":
        block_until((folder / "ready").exists, "its workers are idle")
    return pids


def send(program, end):
    signum, to_all = ENDS[end]
    if to_all:
        os.killpg(program.pid, signum)
    else:
        os.kill(program.pid, signum)
    return signum


def tracebacks(stderr):
    """Count the tracebacks that tell of something of their own."""
    chained = stderr.count("During handling of") + stderr.count("direct cause of")
    return stderr.count("Traceback") - chained


@each_end
@each_phase
def test_program_ended(phase, end, tmp_path):
    """However and whenever a program is ended, it ends by that signal and nothing is left."""
    end_program(phase, end, "forkserver", "asyncio", tmp_path)


@pytest.mark.parametrize(("phase", "end"), wanted(product(PHASES, ENDS), OTHERS))
def test_program_with_spawned_workers_ended(phase, end, tmp_path):
    """A program on uvloop whose workers were spawned ends so, too."""
    end_program(phase, end, "spawn", "uvloop", tmp_path)


def end_program(phase, end, method, loop, tmp_path):
    """Start the program, end it in that phase, and check what is left."""
    folder = tmp_path / "pids"
    command = (tmp_path, PROGRAM, folder, phase, method, GRACE)
    with (
        tempfile.TemporaryDirectory() as temporary,  # shorter than tmp_path: sockets are in it
        started(*command, loop=loop, TMPDIR=temporary) as program,
    ):
        pids = under_way(folder, phase)
        assert len(are_alive(pids)) == 2
        signum = send(program, end)
        program.wait(20)
        block_until(lambda: not are_alive(pids), "the workers are gone", patience=SOON)
        gone(program.pid, patience=SOON)
        assert list(Path(temporary).iterdir()) == []
    stderr = (tmp_path / "err").read_text()
    assert program.returncode == -signum, stderr
    assert tracebacks(stderr) <= 1, stderr
    assert "worker" not in stderr.lower(), stderr


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_interrupt_while_workers_start(method, tmp_path):
    """A Ctrl-C that comes while the workers start ends the program and leaves no process."""
    source = PROGRAM.replace("await pool.map", "(Path(folder) / 'ready').touch(); await pool.map")
    folder = tmp_path / "pids"
    with started(tmp_path, source, folder, "sleeping", method, GRACE) as program:
        block_until((folder / "ready").exists, "the program has begun")
        send(program, "Ctrl-C")
        program.wait(20)
        gone(program.pid)
    assert program.returncode != 0


def test_second_interrupt_while_closing(tmp_path):
    """A second Ctrl-C during the grace period leaves no process either."""
    source = PROGRAM.replace(
        "    start = {",
        """\
    async def tell(main):
        while not main.cancelling():
            await asyncio.sleep(0.001)
        jobs.write_whole(f"{folder}/leaving", "")

    telling = asyncio.ensure_future(tell(asyncio.current_task()))
    start = {""",
    )
    folder = tmp_path / "pids"
    with started(tmp_path, source, folder, "stuck", "forkserver", 1) as program:
        under_way(folder, "stuck")
        send(program, "Ctrl-C")
        block_until((folder / "leaving").exists, "the first one has been acted on")
        send(program, "Ctrl-C")
        program.wait(20)
        gone(program.pid)


HANDLING = PROGRAM.replace(
    "    start = {",
    """\
    task = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    start = {""",
).replace(
    "    run(main())\n",
    """\
    try:
        run(main())
    except asyncio.CancelledError:
        print("closed", flush=True)
""",
)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@each_phase
def test_program_that_handles_sigterm(phase, loop, tmp_path):
    """A program that cancels its main task on SIGTERM closes its pool and goes on to its end."""
    folder = tmp_path / "pids"
    with started(tmp_path, HANDLING, folder, phase, "forkserver", GRACE, loop=loop) as program:
        under_way(folder, phase)
        program.terminate()
        assert program.wait(20) == 0
        gone(program.pid, patience=SOON)
    assert (tmp_path / "out").read_text() == "closed\n"
    assert (tmp_path / "err").read_text() == ""


AMID = """
def call(n):
    if n == 3:
        signal.raise_signal(signal.SIGINT)  # at once, amid what the pool does to start calls
    return asyncio.sleep(3600)

async def use(pool, way):
    if way == "map":
        await pool.map(call, range(9), on="loop")
    elif way == "gather":
        await asyncio.gather(*(pool.submit(call, n, on="loop") for n in range(9)))
    else:
        async with pool.stream(call, range(9), on="loop") as results:
            async for _ in results:
                pass

async def main():
    async with aiopool.Pool(1) as pool:
        await use(pool, sys.argv[1])

if __name__ == "__main__":
    try:
        aiopool.run(main()) if LOOP == "uvloop" else asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("way", ["map", "gather", "stream"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_interrupt_amid_the_start_of_calls(tmp_path, loop, way):
    """A Ctrl-C that strikes while the pool starts calls stops those it was about to start, too."""
    done = run_program(tmp_path, AMID, way, loop=loop, patience=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


TOLD = """
from aiopool.events import TaskRetrying

async def act(n):
    for _ in range(3):  # until the consumer waits
        await asyncio.sleep(0)
    if n == 0:
        raise ValueError(n)
    if n == 2:
        await asyncio.sleep(3600)

def interrupt(event):
    if isinstance(event, TaskRetrying):
        signal.raise_signal(signal.SIGINT)  # and in the same turn of the loop comes a result

async def main():
    patient = aiopool.Retry(2, wait_initial=3600, wait_max=3600)
    async with aiopool.Pool(1, retry=patient, observers=[interrupt]) as pool:
        async with pool.stream(act, range(3), ordered=False) as results:
            async for _ in results:
                pass

if __name__ == "__main__":
    try:
        aiopool.run(main()) if LOOP == "uvloop" else asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_interrupt_just_before_a_result(tmp_path, loop):
    """A Ctrl-C is not lost when a result comes in before the loop has turned."""
    done = run_program(tmp_path, TOLD, loop=loop, patience=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
