"""The file of a journal: who may have it, what it may be, and what happens when it is full."""

import asyncio
import logging
import os
import sqlite3
import sys
import threading

import pytest

import aiopool
from aiopool._journal.store import FORMAT
from aiopool.journal import Journal
from tests.helpers import run_python

ASYNCIO = pytest.mark.asyncio(loop_factories=["asyncio"])  # nothing here depends on the loop


async def double(x):
    return 2 * x


async def blob(x):
    await asyncio.sleep(0.002)
    return os.urandom(20_000)


@pytest.fixture
async def pool():
    async with aiopool.Pool(1) as pool:
        yield pool


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


def limit_pages(journal, pages):
    """Let the file have so many more pages, as a disk that is almost full does."""
    db = journal._store._db
    more = db.execute("PRAGMA page_count").fetchone()[0] + pages
    db.execute(f"PRAGMA max_page_count = {more}")


# --- the lock -------------------------------------------------------------------------------

OPENS = """
import asyncio, sys, aiopool
from aiopool.journal import Journal

async def main():
    async with Journal(sys.argv[1]):
        pass

try:
    asyncio.run(main())
except aiopool.JournalLocked as error:
    print(error)
"""


async def test_another_process_is_refused(path):
    """A second process gets an error that names the file; when it is closed it may have it."""
    async with Journal(path):
        done = await asyncio.to_thread(run_python, "-c", OPENS, path)
    assert "another run has it open" in done.stdout and str(path) in done.stdout, done.stderr
    assert run_python("-c", OPENS, path).stdout == ""


@ASYNCIO
async def test_another_journal_of_this_process_is_refused(path, pool):
    """A second journal of the same file in one process is refused, and harms the first nothing."""
    async with Journal(path) as journal:
        with pytest.raises(aiopool.JournalLocked):
            async with Journal(path):
                pass
        done = await asyncio.to_thread(run_python, "-c", OPENS, path)
        assert "another run has it open" in done.stdout
        assert await journal.map(pool, double, [1]) == [2]


@ASYNCIO
async def test_creating_it_at_once(path):
    """Of several that create a file in one moment one has it, and it is as good as any."""
    journals = [Journal(path) for _ in range(4)]
    ends = await asyncio.gather(*(j.__aenter__() for j in journals), return_exceptions=True)
    for journal in journals:
        if journal in ends:
            await journal.aclose()
    assert sum(end in journals for end in ends) == 1
    assert sum(isinstance(end, aiopool.JournalLocked) for end in ends) == 3
    async with Journal(path) as journal:
        assert await journal.failed() == []


OPEN_AT_ONCE = """
import multiprocessing, sys
from aiopool._journal.store import Store
from aiopool.errors import JournalLocked

def contend(path, barrier, ends):
    for number in range(6):
        store = Store(f"{path}{number}", durable=False, on_full="stop")
        barrier.wait()
        try:
            store.guarded(store.open)
            won = True
        except JournalLocked:
            won = False
        barrier.wait()
        ends.put((number, won))
        if won:
            store.close()

if __name__ == "__main__":
    ends, barrier = multiprocessing.SimpleQueue(), multiprocessing.Barrier(2)
    args = sys.argv[1], barrier, ends
    rivals = [multiprocessing.Process(target=contend, args=args) for _ in range(2)]
    for rival in rivals:
        rival.start()
    found = sorted(ends.get() for _ in range(12))
    for rival in rivals:
        rival.join()
    print([number for number, won in found if won])
"""


def test_processes_that_open_it_at_once(path, tmp_path):
    """Of two processes that open a file in one moment exactly one has it."""
    program = tmp_path / "program.py"
    program.write_text(OPEN_AT_ONCE)
    done = run_python("-m", "program", path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.stdout == "[0, 1, 2, 3, 4, 5]\n", done.stderr


# --- what it may be -------------------------------------------------------------------------


def text(path):
    path.write_text("not a database " * 200)


def foreign(path):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE mine (x)")
    db.close()


def newer(path):
    async def create():
        async with Journal(path):
            pass

    asyncio.run(create())
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()


def folder(path):
    path.mkdir()


def damaged(path):
    foreign(path)
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 8092)


BAD = {
    text: "this file is no journal; give the journal a path of its own",
    foreign: "the database of another program; give the journal a path of its own",
    newer: f"format {FORMAT + 1}, and this one reads {FORMAT}; run pip install --upgrade",
    folder: "is it a file in a folder that exists, and may both be written to",
    damaged: "the file is damaged .* put a copy in its place, or delete it",
}


@pytest.mark.parametrize(("make", "message"), BAD.items(), ids=[each.__name__ for each in BAD])
def test_a_file_that_it_cannot_use(path, make, message):
    """It is left as it was, and the error says what to do."""
    make(path)
    before = path.is_file() and path.read_bytes()

    async def enter():
        async with Journal(path):
            pass

    with pytest.raises(aiopool.JournalError, match=message):
        asyncio.run(enter())
    assert (path.is_file() and path.read_bytes()) == before
    assert [each.name for each in path.parent.iterdir()] == ["run.db"]


@ASYNCIO
async def test_it_may_not_be_written(path, pool):
    """Where nothing may be written the error says what has to be writable."""
    async with Journal(path) as journal:
        journal._store._db.execute("PRAGMA query_only = 1")
        with pytest.raises(aiopool.JournalError, match="may both be written to"):
            await journal.map(pool, double, [1])


def test_a_name_that_means_memory_to_the_engine(tmp_path, monkeypatch):
    """Every path is that of a file, and an empty one is refused."""
    monkeypatch.chdir(tmp_path)

    async def remember(path):
        async with aiopool.Pool(1) as pool, Journal(path) as journal:
            await journal.map(pool, double, [1])

    asyncio.run(remember(":memory:"))
    assert [each.name for each in tmp_path.iterdir()] == [":memory:"]
    with pytest.raises(aiopool.JournalError, match="is it a file"):
        asyncio.run(remember(""))


def test_bad_options(path):
    """An unknown answer to a full disk is refused at once."""
    with pytest.raises(ValueError, match="on_full="):
        Journal(path, on_full="ignore")


@ASYNCIO
async def test_durable(path, pool):
    """With durable every commit is synced."""
    async with Journal(path, durable=True) as journal:
        assert journal._store._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert await journal.map(pool, double, range(9)) == [2 * n for n in range(9)]


@ASYNCIO
async def test_cancelled_while_opening(path):
    """Who is cancelled while the file is opened leaves it closed."""
    task = asyncio.ensure_future(Journal(path).__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with Journal(path):
        pass


# --- no room --------------------------------------------------------------------------------


@ASYNCIO
async def test_full_stops_the_run(path, pool):
    """The run ends with one clear error, and what was committed before is in the file."""
    got = []
    async with Journal(path) as journal:
        limit_pages(journal, 300)
        with pytest.raises(aiopool.JournalFull, match="make room and run again"):
            async with journal.stream(pool, blob, range(200), limit=10) as results:
                async for outcome in results.outcomes():
                    got.append((outcome.index, outcome.value))
    assert 0 < len(got) < 200
    async with Journal(path) as journal:
        again = await journal.map(pool, blob, range(200))
    assert all(again[index] == value for index, value in got)


@ASYNCIO
async def test_full_and_the_run_goes_on(path, pool, caplog):
    """The run gives all results, says once that it remembers no more, and counts what it forgot."""
    with caplog.at_level(logging.ERROR, "aiopool.journal"):
        async with Journal(path, on_full="continue") as journal:
            limit_pages(journal, 300)
            results = await journal.map(pool, blob, range(200), limit=10)
            unsaved = journal.unsaved
    assert len(caplog.records) == 1 and "goes on" in caplog.text
    assert 0 < unsaved < 200 and len(set(results)) == 200
    async with Journal(path) as journal:
        again = await journal.map(pool, blob, range(200))
    assert sum(one == other for one, other in zip(results, again, strict=True)) == 200 - unsaved


@ASYNCIO
@pytest.mark.parametrize("on_full", ["stop", "continue"])
async def test_full_before_the_first_call(path, pool, on_full):
    """A function that is new to a file that has no room left is run, if the run is to go on."""
    name = {"name": "long " * 2000}  # which needs pages of its own
    async with Journal(path, on_full=on_full) as journal:
        await journal.map(pool, double, [1])
        limit_pages(journal, 0)
        if on_full == "stop":
            with pytest.raises(aiopool.JournalFull):
                await journal.map(pool, blob, range(4), **name)
            return
        for _ in range(2):
            assert len(await journal.map(pool, blob, range(4), **name)) == 4
        assert journal.unsaved == 8
        limit_pages(journal, 300)
        made = await journal.map(pool, blob, range(4), **name)
        assert await journal.map(pool, blob, range(4), **name) == made
        assert await journal.map(pool, double, [1, 2]) == [2, 4]


FILLS = """
import asyncio, os, resource, sys, aiopool
from aiopool.journal import Journal

async def blob(x):
    return bytes([x]) * 20_000

async def main():
    async with aiopool.Pool(1) as pool, Journal(sys.argv[1]) as journal:
        if sys.argv[2] == "limited":
            resource.setrlimit(resource.RLIMIT_FSIZE, (800_000, resource.RLIM_INFINITY))
        print(sum(map(len, await journal.map(pool, blob, range(100)))))

try:
    asyncio.run(main())
except aiopool.JournalFull as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no resource limits")
def test_the_system_refuses_to_write(path):
    """Where the system lets no file grow further the run stops, and the next one goes on."""
    stopped = run_python("-c", FILLS, path, "limited")
    assert "nothing more can be written" in stopped.stdout, stopped.stderr
    done = run_python("-c", FILLS, path, "free")
    assert done.stdout == "2000000\n", done.stderr


@ASYNCIO
async def test_a_result_that_cannot_be_read_back(path, pool, monkeypatch):
    """A result whose class is gone is that call's error, and is not executed again."""
    made = []

    kept = Kept

    async def make(x):
        made.append(x)
        return kept(x) if x else x

    async with Journal(path) as journal:
        await journal.map(pool, make, [0, 1], version=1)
        monkeypatch.delattr(sys.modules[__name__], "Kept")
        results = await journal.map(pool, make, [0, 1], version=1, return_exceptions=True)
    assert results[0] == 0 and made == [0, 1]
    assert "the call with (1,) cannot be read back" in str(results[1])


class Kept:
    def __init__(self, x):
        self.x = x


@ASYNCIO
async def test_nothing_is_left(path, pool):
    """After closing there is the file alone, and no thread."""
    before = set(threading.enumerate())
    async with Journal(path) as journal:
        await journal.map(pool, double, range(100))
        assert len(set(threading.enumerate()) - before) == 1
    assert [each.name for each in path.parent.iterdir()] == ["run.db"]
