"""Programs that show progress, in a terminal of their own and in pipes."""

import os
import re
import struct
import subprocess
import sys

import pytest

from tests.e2e.programs import environment, run_program, write
from tests.helpers import ROOT
from tests.terminal import read

PROGRAM = """
    import logging
    from aiopool import progress

    def work(n):
        time.sleep(0.005)
        if n % 3 == 0:
            print(f"printed {n}")  # in one piece, however it ends
            logging.getLogger("shop").warning("logged %d", n)
        return n

    async def main():
        logging.basicConfig(format="%(message)s")
        async with aiopool.Pool(2) as pool:
            with progress.track(pool, "all"):
                first = pool.map(work, range(100), progress=True, name="first")
                second = pool.map(work, range(100, 160), progress=True, name="second")
                await asyncio.gather(first, second)
                async with pool.stream(work, iter(range(160, 10**9)), progress=True) as stream:
                    async for n in stream:
                        if n == 170:
                            break

    if __name__ == "__main__":
        run(main())
"""
SAID = sorted(f"{how} {n}" for n in range(0, 160, 3) for how in ("printed", "logged"))


def run_in_terminal(path, **streams):
    """Run a program in a terminal of 100 columns; its exit code, and all that it sent."""
    pty = pytest.importorskip("pty")
    from fcntl import ioctl
    from termios import TIOCSWINSZ

    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    sent = bytearray()
    command = [sys.executable, str(path)]
    env = {**environment(), "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        env.pop(name, None)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs, **streams}
    with subprocess.Popen(command, **pipes, env=env, cwd=ROOT, start_new_session=True) as process:
        os.close(theirs)
        try:
            while data := os.read(ours, 65536):
                sent += data
        except OSError:  # EIO, when nobody has the other end any more
            pass
        finally:
            os.close(ours)
    return process.returncode, sent.decode()


@pytest.fixture(params=["asyncio", "uvloop"])
def program(request, tmp_path):
    pytest.importorskip("rich")
    return write(tmp_path, PROGRAM, loop=request.param)


def test_a_terminal(program):
    """What workers print and log stands above the bars, line by line, and the bars remain."""
    code, sent = run_in_terminal(program)
    assert code == 0, sent
    assert sent.count("\x1b[J") > 2, "the bars were drawn again and again"
    assert re.search(r"worker \d+: (first|second), \d+ s old", sent)
    lines = read(sent)
    said = [line for line in lines if re.fullmatch("(printed|logged) 1?[0-9]?[0-9]", line)]
    assert sorted(line for line in said if int(line.split()[1]) < 160) == SAID
    bars = [line for line in lines if line not in said]
    shapes = [
        r"first ━+ 100 of 100 in .*/s",
        r"second ━+ 60 of 60 in .*/s",
        r"work \d+ in .*/s",
        r"all ━+ \d+ of \d+ in .*/s.*",
        r"",
    ]
    kinds = [[shape for shape in shapes if re.fullmatch(shape, line)] for line in bars]
    assert sorted(kinds) == sorted([shape] for shape in shapes), bars


def test_stdout_in_a_file(program, tmp_path):
    """Where stdout is a file, what workers print is in the file and the bars in the terminal."""
    with (tmp_path / "out").open("w") as out:
        code, sent = run_in_terminal(program, stdout=out)
    assert code == 0, sent
    printed = (tmp_path / "out").read_text().splitlines()
    assert {line for line in SAID if line.startswith("printed")} <= set(printed)
    assert [line for line in printed if not re.fullmatch(r"printed \d+", line)] == []
    assert "printed" not in sent


def test_pipes(tmp_path):
    """Without a terminal there are whole lines on stderr, with no control characters among them."""
    ended = run_program(tmp_path, PROGRAM)
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout + ended.stderr
    assert all(re.fullmatch(r"printed \d+", line) for line in ended.stdout.splitlines())
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("logged")]
    assert "first: 0 of 100" in lines
    assert any(line.startswith("first: 100 of 100 in ") for line in lines)
    assert any(line.startswith("second: 60 of 60 in ") for line in lines)
    assert lines[-1].startswith("all: ")


def test_a_closed_stderr(tmp_path):
    """A program without a stderr works, and says nothing elsewhere."""
    path = write(tmp_path, PROGRAM)
    script = f'exec "{sys.executable}" "{path}" 2>&-'
    ended = subprocess.run(
        ["sh", "-c", script],
        check=False,
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0
    assert all(re.fullmatch(r"printed \d+", line) for line in ended.stdout.splitlines())
