"""A folder as a queue: what is picked up, in which order, and what becomes of it."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

import aiopool
from aiopool import events
from aiopool.spool import Spool, by_number
from tests import jobs
from tests.addons.spool_jobs import drop, names, perform, running
from tests.helpers import wait_until

pytestmark = pytest.mark.usefixtures("watches_end")


class Calls:
    """An async function that notes the names of the files it is given."""

    def __init__(self):
        self.names = []
        self.free = asyncio.Event()
        self.free.set()

    async def note(self, path):
        self.names.append(path.name)
        await self.free.wait()


# --- what is picked up ----------------------------------------------------------------------


async def test_files_that_are_there(inbox, pool):
    """Files that match are executed in the order of their numbers and renamed, others stay."""
    for name in ("10.task", "9.task", "2.task", "b.txt", ".1.task"):
        drop(inbox, name)
    (inbox / "folder.task").mkdir()
    (inbox / "link.task").symlink_to(inbox / "b.txt")
    calls = Calls()
    now = await Spool(inbox, calls.note, limit=1).run(pool, once=True)
    assert calls.names == ["2.task", "9.task", "10.task"]
    assert (now.executed, now.failed, now.running, now.waiting) == (3, 0, (), 0)
    done = ["10.task.done", "2.task.done", "9.task.done"]
    assert names(inbox) == sorted([*done, "b.txt", ".1.task", "folder.task", "link.task"])


async def test_files_that_arrive(inbox, pool):
    """A file that is renamed into the folder is executed, without a look at the whole folder."""
    calls = Calls()
    spool = Spool(inbox, calls.note, rescan=3600)
    async with running(spool, pool):
        for number in range(3):
            drop(inbox, f"{number}.task")
            await wait_until((inbox / f"{number}.task.done").exists)
    assert calls.names == ["0.task", "1.task", "2.task"]


async def test_a_name_that_is_no_text(inbox, pool):
    """A name that is no UTF-8 ends no watch: its file is executed, and those that come later."""
    calls = Calls()
    odd = os.fsdecode(b"\xff.task")
    async with running(Spool(inbox, calls.note, rescan=3600), pool):
        for name in ("1.task", odd, "2.task", "3.task"):
            drop(inbox, name)
            await wait_until((inbox / f"{name}.done").exists)
    assert calls.names == ["1.task", odd, "2.task", "3.task"]


async def test_no_notifications(inbox, pool, monkeypatch, caplog):
    """Where the system tells of nothing, files are found by a look now and then, and it is said."""

    def refuse(*args, **options):
        raise OSError("no more watches")

    monkeypatch.setattr("aiopool.spool.awatch", refuse)
    async with running(Spool(inbox, Calls().note, rescan=0.01), pool):
        drop(inbox, "1.task")
        await wait_until((inbox / "1.task.done").exists)
    assert "no more watches" in caplog.text


@pytest.mark.parametrize("tells", [True, False])
async def test_a_file_that_is_being_written(inbox, pool, monkeypatch, tells):
    """A file is picked up when its writer is done or has long been, and meanwhile others are."""
    if not tells:
        monkeypatch.setattr("aiopool.spool.is_told_of_writers", lambda folder: False)
    calls = Calls()
    spool = Spool(inbox, calls.note, settle=0.0 if tells else 3600.0)
    async with running(spool, pool):
        with (inbox / "1.task").open("w") as file:
            file.write("half")
            file.flush()
            await wait_until(lambda: spool.statistics().growing)
            old = drop(inbox.parent, "2.task")
            os.utime(old, (1, 1))
            old.rename(inbox / "2.task")
            await wait_until((inbox / "2.task.done").exists)
            assert spool.statistics().growing == 1
            file.write(" and whole")
        if not tells:
            os.utime(inbox / "1.task", (1, 1))  # it has not been written for long
        await wait_until((inbox / "1.task.done").exists)
    assert calls.names == ["2.task", "1.task"]
    assert (inbox / "1.task.done").read_text() == "half and whole"


async def test_once_and_a_writer_at_rest(inbox, pool):
    """With ``once`` a file that is held open and does not grow is left to its writer."""
    with (inbox / "1.task").open("w"):
        drop(inbox, "2.task")
        now = await Spool(inbox, Calls().note, settle=0.05).run(pool, once=True)
    assert (now.executed, now.growing) == (1, 1)
    assert names(inbox) == ["1.task", "2.task.done"]


# --- order ----------------------------------------------------------------------------------


async def test_an_order_of_its_own(inbox, pool):
    """The number that an expression finds decides, lower first, those without one at the end."""
    for name in ("a.task", "b-p5.task", "c-p-1.task", "d-p5.task", "e-p10.task"):
        drop(inbox, name)
    calls = Calls()
    await Spool(inbox, calls.note, order=by_number(r"-p(-?\d+)"), limit=1).run(pool, once=True)
    assert [name[0] for name in calls.names] == list("cbdea")


async def test_files_are_claimed_when_there_is_room(inbox, pool):
    """A more important file that comes later is next, and what waits is for others to take."""
    calls = Calls()
    calls.free.clear()
    for number in (5, 6, 7):
        drop(inbox, f"{number}.task")
    spool = Spool(inbox, calls.note, limit=1)
    async with running(spool, pool):
        await wait_until(lambda: calls.names)
        drop(inbox, "1.task")
        (inbox / "6.task").unlink()
        await wait_until(lambda: spool.statistics().waiting == 3)
        assert {"1.task", "7.task"} <= set(names(inbox))
        calls.free.set()
        await wait_until(lambda: spool.statistics().executed == 3)
    assert calls.names == ["5.task", "1.task", "7.task"]


# --- what becomes of them -------------------------------------------------------------------


async def test_facts(inbox, pool):
    """Observers are told when a call starts and in which process, and how it ends."""
    told = []
    drop(inbox, "1.task", "pid")
    drop(inbox, "2.task", "fail", "no good")
    await Spool(inbox, perform, limit=1, observers=[told.append]).run(pool, once=True)
    started, done, began, failed = told
    assert type(started) is type(began) is events.FileStarted
    assert (done.name, done.path) == ("1.task", inbox / "1.task.done")
    assert started.pid == done.pid != os.getpid()
    assert (failed.name, failed.path) == ("2.task", inbox / "2.task.failed")
    assert failed.pid == began.pid
    assert isinstance(failed.error, ValueError)


async def test_an_observer_that_fails(inbox, pool, caplog):
    """What an observer raises is logged and harms nobody."""
    drop(inbox, "1.task")
    now = await Spool(inbox, Calls().note, observers=[lambda event: 1 / 0]).run(pool, once=True)
    assert now.executed == 1
    assert "ZeroDivisionError" in caplog.text


async def test_failures_and_retries(inbox, pool, tmp_path):
    """A file is tried as often as its policy says, and the reason of its failure is beside it."""
    drop(inbox, "1.task", "fail_times", str(tmp_path / "journal"), 2, "x")
    drop(inbox, "2.task", "fail", "no good")
    drop(inbox, "3.task", "exit_with", 3)
    now = await Spool(inbox, perform, retry=aiopool.Retry(3, wait_max=0)).run(pool, once=True)
    assert (now.executed, now.failed) == (1, 2)
    assert {"1.task.done", "2.task.failed", "3.task.failed"} <= set(names(inbox))
    reason = (inbox / "2.task.error").read_text()
    assert reason.startswith("tried 3 times")
    assert "ValueError: no good" in reason
    assert "in fail" in reason
    assert "exited with code 3" in (inbox / "3.task.error").read_text()


async def test_a_timeout(inbox, pool):
    """A call that takes longer than it may is stopped, and its file has failed."""
    drop(inbox, "1.task", "sleep_for", 600)
    now = await Spool(inbox, perform, timeout=0.05).run(pool, once=True)
    assert now.failed == 1
    assert "TaskTimeout" in (inbox / "1.task.error").read_text()


async def test_a_backoff_gives_way(inbox, pool):
    """While a file waits for its next attempt, another one has its place."""
    drop(inbox, "1.task", "fail", "later")
    drop(inbox, "2.task", "echo", 1)
    policy = aiopool.Retry(2, wait_initial=600, wait_max=600)
    async with running(Spool(inbox, perform, limit=1, retry=policy), pool):
        await wait_until((inbox / "2.task.done").exists)
    assert names(inbox) == ["1.task", "2.task.done"]


async def test_nothing_is_overwritten(inbox, pool):
    """Where a name is taken already, the file gets a number."""
    for text in ("one", "two", "three"):
        drop(inbox, "1.task", text)
        await Spool(inbox, Calls().note).run(pool, once=True)
    assert names(inbox) == ["1.task.2.done", "1.task.3.done", "1.task.done"]
    assert "three" in (inbox / "1.task.3.done").read_text()


async def test_a_file_that_may_not_be_moved(inbox, pool, monkeypatch, caplog):
    """A file of somebody else in a sticky folder is left alone, with one warning."""
    rename = Path.rename

    def sticky(path, target):
        if path.name == "2.task":
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", sticky)
    for name in ("1.task", "2.task", "3.task"):
        drop(inbox, name)
    found = await Spool(inbox, Calls().note).run(pool, once=True)
    assert found.executed == 2
    assert names(inbox) == ["1.task.done", "2.task", "3.task.done"]
    assert caplog.text.count("2.task is left alone: Operation not permitted") == 1


@pytest.mark.parametrize("fails", [True, False])
async def test_a_name_without_room_for_an_ending(inbox, pool, fails):
    """It is cut short, and the next file has its turn."""

    async def work(path):
        if fails:
            raise ValueError(path.name)

    (inbox / ("1" * 250 + ".task")).touch()
    drop(inbox, "2.task")
    now = await Spool(inbox, work).run(pool, once=True)
    assert now.executed + now.failed == 2
    endings = [".failed", ".error"] if fails else [".done"]
    long = [name for name in names(inbox) if name.startswith("11")]
    assert sorted(long) == sorted("1" * (255 - len(max(endings))) + end for end in endings)


async def test_a_name_that_comes_again(inbox, pool):
    """A file that comes while another of its name is worked on is next."""
    calls = Calls()
    calls.free.clear()
    spool = Spool(inbox, calls.note, rescan=3600)
    async with running(spool, pool):
        drop(inbox, "1.task", "one")
        await wait_until(lambda: calls.names)
        drop(inbox, "1.task", "two")
        drop(inbox, "2.task")
        await wait_until(lambda: calls.names == ["1.task", "2.task"])
        calls.free.set()
        await wait_until(lambda: spool.statistics().executed == 3)
    assert "one" in (inbox / "1.task.done").read_text()
    assert "two" in (inbox / "1.task.2.done").read_text()


async def test_a_name_that_comes_again_after_its_file_was_removed(inbox, pool):
    """A file waits for the call of another of its name, also if that has removed its own."""
    calls = Calls()
    calls.free.clear()

    async def consume(path):
        path.unlink()
        await calls.note(path)

    spool = Spool(inbox, consume, rescan=3600)
    async with running(spool, pool):
        drop(inbox, "1.task", "one")
        await wait_until(lambda: calls.names)
        drop(inbox, "1.task", "two")
        drop(inbox, "2.task")
        await wait_until(lambda: len(calls.names) == 2)
        assert calls.names == ["1.task", "2.task"]
        calls.free.set()
        await wait_until(lambda: spool.statistics().executed == 3)
    assert names(inbox) == []


async def test_a_file_that_its_call_removes(inbox, pool):
    """A call may remove its file, or fail after it has; the reason is written all the same."""
    told = []

    async def consume(path):
        path.unlink()
        if path.name == "2.task":
            raise ValueError("too late")

    drop(inbox, "1.task")
    drop(inbox, "2.task")
    await Spool(inbox, consume, limit=1, observers=[told.append]).run(pool, once=True)
    assert names(inbox) == ["2.task.error"]
    assert [fact.path for fact in told if not isinstance(fact, events.FileStarted)] == [None, None]


async def test_cancelling_returns_files(inbox, pool, tmp_path):
    """What runs when the spool is cancelled is stopped and waits again."""
    told = []
    drop(inbox, "1.task", "gate", str(tmp_path / "marker"), str(tmp_path / "never"))
    spool = Spool(inbox, perform, observers=[told.append])
    async with running(spool, pool):
        await wait_until((tmp_path / "marker").exists)
        (file,) = spool.statistics().running
        assert (file.name, file.pid) == ("1.task", int((tmp_path / "marker").read_text()))
    assert names(inbox) == ["1.task"]
    assert isinstance(told[-1], events.FileReturned)
    assert spool.statistics().returned == 1


async def test_a_full_pool(inbox, tmp_path, gate):
    """A file waits for a pool that takes no more, and loses nothing by it."""
    async with aiopool.Pool(1, max_pending=1) as pool:
        held = [pool.submit(jobs.gate, *gate.paths)]
        await gate.entered()
        held.append(pool.submit(jobs.echo, 1))
        drop(inbox, "1.task", "echo", 2)
        spool = Spool(inbox, perform)
        async with running(spool, pool):
            await wait_until(lambda: spool.statistics().running)
            gate.open()
            await wait_until((inbox / "1.task.done").exists)
        await asyncio.gather(*held)


# --- mistakes -------------------------------------------------------------------------------


async def test_what_cannot_be_sent(inbox, pool):
    """A function that cannot go to a worker ends the spool, and the file is back."""
    lock = threading.Lock()
    drop(inbox, "1.task")
    with pytest.raises(aiopool.NotTransferable):
        await Spool(inbox, lambda path: lock).run(pool)
    assert names(inbox) == ["1.task"]


async def test_no_worker_can_start(inbox):
    """Where no worker can be started the file is not to blame, and is back."""
    drop(inbox, "1.task", "echo", 1)
    async with aiopool.Pool(1, initializer=jobs.fail, initargs=("no",)) as pool:
        with pytest.raises(aiopool.WorkerCrashed):
            await Spool(inbox, perform).run(pool)
    assert names(inbox) == ["1.task"]


def test_options_out_of_range(tmp_path):
    """A name, and numbers that are out of range, are refused when the spool is made."""
    with pytest.raises(TypeError, match="named after its file"):
        Spool(tmp_path, perform, name="x")
    with pytest.raises(ValueError, match="rescan=0"):
        Spool(tmp_path, perform, rescan=0)
    with pytest.raises(ValueError, match="limit=0"):
        Spool(tmp_path, perform, limit=0)


async def test_running_twice(inbox, pool):
    """A spool that runs cannot be run a second time meanwhile."""
    spool = Spool(inbox, perform)
    async with running(spool, pool):
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="running already"):
            await spool.run(pool)
