"""Scripts as people write them: everything in `__main__`, with and without the guard."""

import pytest

from tests.e2e.programs import run_program
from tests.helpers import run_python

METHODS = ["forkserver", "spawn"]

MAIN = """
class Point:
    def __init__(self, x):
        self.x = x
    def double(self):
        return Point(self.x * 2)

class MyError(Exception):
    pass

def square(x):
    return x * x

def move(point):
    return Point(point.x + OFFSET)

def fail(x):
    raise MyError(x)

OFFSET = 10

async def main():
    async with aiopool.Pool(2, mp_context=sys.argv[1]) as pool:
        assert await pool.map(square, range(100)) == [n * n for n in range(100)]
        assert await pool.run(lambda x: x + OFFSET, 1) == 11
        factor = 3
        def scale(x):
            return x * factor
        assert await pool.map(scale, [1, 2]) == [3, 6]
        factor = 4
        assert await pool.map(scale, [1, 2]) == [4, 8]
        moved = await pool.run(move, Point(1))
        assert type(moved) is Point and moved.x == 11, moved
        assert (await pool.run(Point(4).double)).x == 8
        assert (await pool.run(Point, 7)).x == 7
        try:
            await pool.run(fail, 5)
        except MyError as error:
            assert error.args == (5,)
        else:
            raise AssertionError
        adder = await pool.run(lambda n: lambda x: x + n, 5)
        assert adder(1) == 6
    print("done")

if __name__ == "__main__":
    run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("method", METHODS)
def test_functions_and_classes_of_main(method, loop, tmp_path):
    """Functions, classes, lambdas and closures of a script run in workers and come back."""
    ended = run_program(tmp_path, MAIN, method, loop=loop)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "done\n"
    assert ended.stderr == ""


def test_program_given_by_c(tmp_path):
    """A program given with -c uses its own functions in workers."""
    source = (
        "import aiopool\n"
        "def square(x): return x * x\n"
        "async def main():\n"
        "    async with aiopool.Pool(2) as pool:\n"
        "        print(await pool.map(square, range(5)), await pool.run(lambda: 7))\n"
        "if __name__ == '__main__': aiopool.run(main())\n"
    )
    ended = run_python("-c", source)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[0, 1, 4, 9, 16] 7\n", "")


def test_program_from_standard_input():
    """A program read from standard input uses its own functions in workers, or is told why not."""
    source = (
        "import aiopool\n"
        "def square(x): return x * x\n"
        "async def main():\n"
        "    async with aiopool.Pool(2) as pool:\n"
        "        print(await pool.map(square, range(5)))\n"
        "aiopool.run(main())\n"
    )
    ended = run_python("-", stdin=source)
    if ended.returncode == 0:
        assert (ended.stdout, ended.stderr) == ("[0, 1, 4, 9, 16]\n", "")
    else:
        assert "main module" in ended.stderr.splitlines()[-1], ended.stderr
        assert ended.stderr.count("Traceback") == 1, ended.stderr


UNGUARDED = """
with open(sys.argv[2], "a") as journal:
    journal.write(f"{os.getpid()}\\n")

def square(x):
    return x * x

async def main():
    async with aiopool.Pool(2, mp_context=sys.argv[1]) as pool:
        print(await pool.map(square, range(5)))

run(main())
"""


@pytest.mark.parametrize("method", METHODS)
def test_script_without_the_guard(method, tmp_path):
    """A script without the guard works, or says how to fix it, and starts few processes."""
    journal = tmp_path / "journal"
    ended = run_program(tmp_path, UNGUARDED, method, journal, patience=40)
    started = journal.read_text().split()
    assert len(started) <= 6
    if ended.returncode == 0:
        assert ended.stdout == "[0, 1, 4, 9, 16]\n"
    else:
        assert "if __name__ == '__main__':" in ended.stderr.splitlines()[-1], ended.stderr
        assert ended.stderr.count("Traceback") == 1, ended.stderr


QUIET = """
async def main():
    async with aiopool.Pool(1) as pool:
        try:
            await pool.run(deeds.make_coroutine, 1)
        except TypeError as error:
            print(type(error).__mro__[-4:-2], "coroutine" in str(error))

if __name__ == "__main__":
    run(main())
"""


def test_no_warning_of_a_coroutine_result(tmp_path):
    """A worker closes a coroutine that a call returned, so nobody warns that it was not awaited."""
    ended = run_program(tmp_path, QUIET)
    assert "True" in ended.stdout, ended
    assert ended.stderr == ""


def test_stdin_is_not_stolen(tmp_path):
    """Calls that read standard input leave the program's own input alone."""
    source = (
        "import aiopool, sys\n"
        "from tests import jobs\n"
        "async def main():\n"
        "    async with aiopool.Pool(2) as pool:\n"
        "        print(await pool.map(lambda _: jobs.read_stdin(), range(4)))\n"
        "    print(sys.stdin.read())\n"
        "if __name__ == '__main__': aiopool.run(main())\n"
    )
    ended = run_python("-c", source, stdin="mine")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "['', '', '', '']\nmine\n", "")
