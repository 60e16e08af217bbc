"""Programs that end without closing their pool."""

import time

import pytest

from tests.e2e.programs import run_program

BOTH = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
PHASES = pytest.mark.parametrize("phase", ["unused", "idle", "sleeping", "in C"])
METHODS = pytest.mark.parametrize("method", ["forkserver", "spawn"])

OPEN = """
async def open_pool():
    pool = await aiopool.Pool(2, mp_context=sys.argv[2]).__aenter__()
    phase = sys.argv[1]
    if phase != "unused":
        await pool.map(jobs.square, range(10))
    marker = f"{sys.argv[3]}/marker"
    if phase == "sleeping":
        pool.submit(deeds.say_then, marker, jobs.sleep_for, 600)
    if phase == "in C":
        pool.submit(deeds.say_then, marker, jobs.spin_in_c, 10**12)
    while phase in ("sleeping", "in C") and not os.path.exists(marker):
        await asyncio.sleep(0.01)
    return pool
"""


def ends_well(tmp_path, source, phase, method, loop="asyncio"):
    """Run a program and check that it ended promptly, with at most a ResourceWarning."""
    started = time.monotonic()
    ended = run_program(tmp_path, OPEN + source, phase, method, tmp_path, loop=loop)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "done\n"
    assert not unexpected(ended.stderr), ended.stderr
    assert time.monotonic() - started < 15


def unexpected(stderr):
    """Give the lines that are neither a ResourceWarning nor its hint or source line."""
    lines = [line for line in stderr.splitlines() if not line.startswith("  ")]
    return [line for line in lines if "ResourceWarning" not in line]


@METHODS
@PHASES
def test_interpreter_exits(phase, method, tmp_path):
    """An interpreter whose pool is open and whose loop just stops running ends without hanging."""
    source = """
    if __name__ == "__main__":
        loop = asyncio.new_event_loop()
        pool = loop.run_until_complete(open_pool())
        print("done", flush=True)
    """
    ends_well(tmp_path, _dedented(source), phase, method)


@METHODS
@PHASES
def test_loop_closed(phase, method, tmp_path):
    """A loop closed by hand with the pool open does not keep the interpreter from ending."""
    source = """
    if __name__ == "__main__":
        loop = asyncio.new_event_loop()
        pool = loop.run_until_complete(open_pool())
        loop.close()
        print("done", flush=True)
    """
    ends_well(tmp_path, _dedented(source), phase, method)


@BOTH
@PHASES
def test_run_ends(phase, loop, tmp_path):
    """A main coroutine that returns without closing its pool ends the program all the same."""
    source = """
    async def main():
        global pool
        pool = await open_pool()

    if __name__ == "__main__":
        run(main())
        print("done", flush=True)
    """
    ends_well(tmp_path, _dedented(source), phase, "forkserver", loop)


@BOTH
def test_run_ends_and_the_pool_is_dropped(loop, tmp_path):
    """A pool nobody refers to any more is let go of by the loop or the interpreter."""
    source = """
    async def main():
        pool = await open_pool()
        del pool
        await asyncio.sleep(0)

    if __name__ == "__main__":
        run(main())
        print("done", flush=True)
    """
    ends_well(tmp_path, _dedented(source), "idle", "forkserver", loop)


def test_several_loops_one_after_the_other(tmp_path):
    """Each of several loops can have a pool of its own, closed or not."""
    source = """
    async def main():
        pool = await open_pool()
        assert await pool.run(jobs.add, 1, 2) == 3

    async def tidy():
        async with aiopool.Pool(1) as pool:
            assert await pool.run(jobs.add, 1, 2) == 3

    if __name__ == "__main__":
        for _ in range(2):
            run(main())
            run(tidy())
        print("done", flush=True)
    """
    ends_well(tmp_path, _dedented(source), "idle", "forkserver")


def test_sys_exit_in_main(tmp_path):
    """A main coroutine that calls sys.exit inside the block gives its exit code, promptly."""
    source = """
    async def main():
        async with aiopool.Pool(1) as pool:
            await pool.run(jobs.add, 1, 2)
            pool.submit(jobs.sleep_for, 600)
            await pool.run(jobs.echo, 1, on="thread")
            sys.exit(7)

    if __name__ == "__main__":
        run(main())
    """
    ended = run_program(tmp_path, _dedented(source))
    assert (ended.returncode, ended.stderr) == (7, "")


def _dedented(source):
    return "\n".join(line[4:] for line in source.splitlines()) + "\n"


def test_a_fork_server_that_is_stopped(tmp_path):
    """A program that stops its fork server and goes on gets another one."""
    done = run_program(
        tmp_path,
        """
        import multiprocessing.forkserver

        async def main():
            for number in range(2):
                async with aiopool.Pool(1, mp_context="forkserver") as pool:
                    print(await pool.run(jobs.inc, number))
                multiprocessing.forkserver._forkserver._stop()

        if __name__ == "__main__":
            run(main())
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "2"]
