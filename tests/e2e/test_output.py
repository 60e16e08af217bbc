"""What scripts see of their workers: each line and each record once, and their own variables."""

import pytest

from tests.e2e.programs import run_program

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

# What a script has at its top level is executed by workers, too, where they import it.
LOGGING = """
import logging

logging.basicConfig(format="root: %(message)s", level=logging.INFO)
own = logging.getLogger("own")
own.addHandler(logging.StreamHandler())
own.propagate = False

def work(n):
    print("printed", n)
    logging.getLogger("app").info("app %d", n)
    own.info("own %d", n)

async def main():
    async with aiopool.Pool(1, mp_context=sys.argv[1]) as pool:
        await pool.map(work, range(3))

if __name__ == "__main__":
    run(main())
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_logging_at_top_level(tmp_path, loop, method):
    """A script that configures logging where workers import it gets every record once."""
    done = run_program(tmp_path, LOGGING, method, loop=loop)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"printed {n}" for n in range(3)]
    expected = [line for n in range(3) for line in (f"root: app {n}", f"own {n}")]
    assert done.stderr.splitlines() == expected


VARIABLES = """
from contextvars import ContextVar

request_id = ContextVar("request_id", default="none")
user = ContextVar("user")

def see(n):
    return n, request_id.get(), user.get("nobody")

async def main():
    inner = ContextVar("inner")
    async with aiopool.Pool(
        2, mp_context=sys.argv[1], contextvars=[request_id, user, inner]
    ) as pool:
        assert await pool.run(see, 0) == (0, "none", "nobody")
        request_id.set("r1")
        inner.set("deep")
        assert await pool.map(see, range(3)) == [(n, "r1", "nobody") for n in range(3)]
        assert await pool.run(lambda: (request_id.get(), inner.get())) == ("r1", "deep")
        user.set("me")
        get = await pool.run(lambda: lambda: (user.get(), inner.get()))
        assert get() == ("me", "deep")
    print("done")

if __name__ == "__main__":
    run(main())
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_variables_of_a_script(tmp_path, loop, method):
    """Context variables of the main module, or of a function, are the same ones in workers."""
    done = run_program(tmp_path, VARIABLES, method, loop=loop)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


LEAVING = """
import logging
from multiprocessing.util import Finalize  # its processes do not run what atexit knows

def say_at_exit():
    Finalize(None, print, args=("printed at exit",), exitpriority=1)
    Finalize(None, logging.warning, args=("logged at exit",), exitpriority=1)
    print("called")

async def main():
    async with aiopool.Pool(1) as pool:
        await pool.run(say_at_exit)

if __name__ == "__main__":
    run(main())
"""


def test_exit_handlers(tmp_path, loop):
    """What a worker writes when it leaves goes to its own descriptors."""
    done = run_program(tmp_path, LEAVING, loop=loop)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["called", "printed at exit"]
    assert done.stderr == "WARNING:root:logged at exit\n"


PIPED = """
def talk(n):
    print("x" * 10_000)

async def main():
    async with aiopool.Pool(2) as pool:
        await pool.map(talk, range(1000))
    print("all done", file=sys.stderr)
    os._exit(0)  # without flushing what nobody reads

if __name__ == "__main__":
    os.close(1)
    reader, writer = os.pipe()
    os.close(reader)
    assert writer == 3 or os.dup2(writer, 1) == 1
    sys.stdout = open(writer, "w")
    run(main())
"""


def test_nobody_reads(tmp_path, loop):
    """A script whose output nobody reads any more finishes its calls and complains once."""
    done = run_program(tmp_path, PIPED, loop=loop)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("all done\n")
    assert 1 <= done.stderr.count("BrokenPipeError: ") <= 2  # one a worker
