"""A run with a journal, killed at every commit and at random, ends as one that is never killed.

The program notes each call it executes, from the worker, and each result that it is given. It is
killed and started again until it ends. Then its results are those of an undisturbed run, and no
call was executed after its result had been given. `AIOPOOL_JOURNAL_SEEDS=50` kills so many runs at
random instead of the default's few.
"""

import os
import random
import signal

import pytest

from tests.e2e.programs import gone, run_program, started
from tests.helpers import block_until, wanted

SEEDS = int(os.environ.get("AIOPOOL_JOURNAL_SEEDS", "2"))

FEW, MANY = 16, 400
WAYS = ["unordered", "ordered", "map"]

PROGRAM = """
import sqlite3
from aiopool.journal import Journal

def note(path, text):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\\n".encode())
    os.close(descriptor)

def work(folder, n):
    note(f"{folder}/executed", n)
    time.sleep(0.001)
    if n % 10 == 3:
        raise ValueError(n)
    return n * n

class Deadly(sqlite3.Connection):
    commits = 0

    def execute(self, sql, *args):
        if sql != "COMMIT":
            return super().execute(sql, *args)
        Deadly.commits += 1
        die_at(2 * Deadly.commits - 1)
        done = super().execute(sql, *args)
        die_at(2 * Deadly.commits)
        return done

def die_at(point):
    if point == POINT:
        os.kill(os.getpid(), signal.SIGKILL)

async def main(folder, count, way):
    items = list(range(count)) + [1, 3]
    args = [folder] * len(items), items
    async with aiopool.Pool(2) as pool, Journal(f"{folder}/run.db") as journal:
        small = count < 100  # and without processes, as there are many runs of it
        options = {"key": lambda _, n: n, "return_exceptions": True}
        options["on"] = "thread" if small else "process"
        if way == "map":
            ends = await journal.map(pool, work, *args, **options)
        else:
            ends = []
            options |= {"ordered": way == "ordered", "buffersize": 8 if small else None}
            stream = journal.stream(pool, work, *args, **options)
            async with stream as results:
                async for outcome in results.outcomes():
                    note(f"{folder}/reported", items[outcome.index])
                    ends.append((outcome.index, outcome.value if outcome.ok else outcome.error))
            ends = [end for _, end in sorted(ends, key=lambda pair: pair[0])]
    print([repr(end) for end in ends])

if __name__ == "__main__":
    folder, count, way, POINT = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, factory=Deadly, **options)
    run(main(folder, count, way))
"""


def expected(count):
    items = [*range(count), 1, 3]
    return [repr(ValueError(n) if n % 10 == 3 else n * n) for n in items]


def lines(path):
    return path.read_text().split() if path.exists() else []


class Life:
    """A run that is killed, and started again, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.frozen = {}  # item -> executions when it was first known to be reported

    def look(self):
        executed = lines(self.folder / "executed")
        for item in lines(self.folder / "reported"):
            self.frozen.setdefault(item, executed.count(item))

    def check(self):
        """Assert that nothing was executed after it had been reported."""
        executed = lines(self.folder / "executed")
        assert {item: executed.count(item) for item in self.frozen} == self.frozen


def ended(folder, count, way, point=0):
    return run_program(folder, PROGRAM, folder, count, way, point)


def ends_as_undisturbed(folder, count, way):
    done = ended(folder, count, way)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{expected(count)}\n"


@pytest.mark.parametrize("way", wanted(WAYS, ["unordered", "map"]))
def test_killed_at_every_commit(way, tmp_path):
    """Killed before or after any one of its commits, it comes to its end."""
    for point in range(1, 1000):
        folder = tmp_path / str(point)
        folder.mkdir()
        life, done = Life(folder), ended(folder, FEW, way, point)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        life.look()
        ends_as_undisturbed(folder, FEW, way)
        life.check()
    assert point > (4 if way == "map" else 8)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_random(seed, tmp_path):
    """Killed at any moment, again and again, it comes to its end."""
    dice = random.Random(seed)
    way = WAYS[seed % 3]
    life = Life(tmp_path)
    for _ in range(3):
        enough = len(lines(tmp_path / "executed")) + dice.randrange(1, 80)
        with started(tmp_path, PROGRAM, tmp_path, MANY, way, 0) as program:
            block_until(
                lambda: program.poll() is not None or len(lines(tmp_path / "executed")) >= enough  # noqa: B023 - asked in this turn
            )
            program.kill()
            program.wait()
            gone(program.pid)
        life.look()
    ends_as_undisturbed(tmp_path, MANY, way)
    life.check()
