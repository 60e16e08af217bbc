"""Everybody who has a shared object is killed: no memory stays behind."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.programs import gone, pids_in, started
from tests.helpers import block_until

MEMORY = Path("/dev/shm")

PROGRAM = """
from pathlib import Path

def hold(folder, data):
    assert len(data) == 1 << 22
    jobs.write_whole(f"{folder}/{os.getpid()}", "")
    time.sleep(600)

async def main():
    folder, method = sys.argv[1:]
    os.mkdir(folder)
    async with aiopool.Pool(2, mp_context=method) as pool:
        data = pool.share(memory())
        await pool.map(hold, [folder] * 2, [data] * 2)

def memory():
    import numpy
    return numpy.zeros(1 << 22, numpy.uint8)

if __name__ == "__main__":
    run(main())
"""


@pytest.mark.skipif(not MEMORY.exists(), reason="looks at /dev/shm")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_everybody_killed(method, tmp_path):
    """When parent and workers are killed at the same time nothing of what they shared is left."""
    before = set(MEMORY.iterdir())
    with started(tmp_path, PROGRAM, tmp_path / "pids", method) as program:
        pids = holding(tmp_path / "pids")
        assert all("aiopool-shared" in Path(f"/proc/{pid}/maps").read_text() for pid in pids)
        program.send_signal(signal.SIGSTOP)  # or it would end the second when the first has gone
        for pid in [*pids, program.pid]:
            os.kill(pid, signal.SIGKILL)
        program.wait()
        # The resource tracker, which goes last, removes the semaphores of the executors' own.
        gone(program.pid)
    assert {path for path in MEMORY.iterdir() if not path.name.startswith("sem.")} <= before


def holding(folder):
    block_until(folder.exists, "the program has begun")
    return pids_in(folder, 2)
