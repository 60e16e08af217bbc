"""Whose a file is: several watchers of a folder, dead ones, and folders that are no good."""

import asyncio
import fcntl
import os
import re
import shutil
import sys

import pytest

import aiopool
from aiopool import events
from aiopool._spool.claims import Claims
from aiopool.spool import Spool
from tests.addons.spool_jobs import drop, names, perform, running
from tests.helpers import wait_until

pytestmark = pytest.mark.usefixtures("watches_end")

TASK = re.compile(r".*\.task\Z")


async def nothing(path):
    """Be a call that does nothing."""


def abandoned(folder, *files, owner="1-dead"):
    """Make what a watcher leaves that was killed."""
    claims = folder / f".running-{owner}"
    claims.mkdir()
    (claims / ".lock").touch()
    for name in files:
        drop(claims, name)
    return claims


# --- sharing --------------------------------------------------------------------------------


async def test_two_watchers(inbox, pool):
    """Watchers that share a folder execute each file exactly once."""
    executed = []

    async def note(path):
        executed.append(path.name)
        await asyncio.sleep(0)

    async with running(Spool(inbox, note), pool), running(Spool(inbox, note), pool):
        for number in range(60):
            drop(inbox, f"{number}.task")
            await asyncio.sleep(0)
        await wait_until(lambda: sum(name.endswith(".done") for name in names(inbox)) == 60)
    assert sorted(executed) == sorted(f"{n}.task" for n in range(60))
    assert len(names(inbox)) == 60


async def test_what_a_dead_watcher_had(inbox, pool):
    """Files claimed by a watcher that is dead are executed, whoever has its process id now."""
    told = []
    claims = abandoned(inbox, "1.task", "result.txt", owner=f"{os.getpid()}-00000000")
    await Spool(inbox, nothing, observers=[told.append]).run(pool, once=True)
    assert names(inbox) == ["1.task.done", "result.txt"]
    assert not claims.exists()
    assert [fact.name for fact in told if isinstance(fact, events.FileRecovered)] == ["1.task"]


async def test_what_a_live_watcher_has(inbox, pool):
    """Files claimed by a watcher that lives are left alone, and taken when it has died."""
    claims = abandoned(inbox, "1.task", owner="999999999-00000000")
    async with running(Spool(inbox, nothing, rescan=0.02), pool):
        with (claims / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            drop(inbox, "2.task")
            await wait_until((inbox / "2.task.done").exists)
            drop(inbox, "3.task")
            await wait_until((inbox / "3.task.done").exists)
            assert (claims / "1.task").exists()
        await wait_until((inbox / "1.task.done").exists)


async def test_a_file_that_cannot_go_back_yet(inbox, pool):
    """A recovered file gives way to one of its name that waits, and is next; neither is lost."""
    claims = abandoned(inbox)
    drop(claims, "1.task", "old")
    drop(inbox, "1.task", "new")
    await Spool(inbox, nothing).run(pool, once=True)
    assert "new" in (inbox / "1.task.done").read_text()
    assert "old" in (inbox / "1.task.2.done").read_text()
    assert not claims.exists()


@pytest.mark.parametrize("ending", ["", ".done", ".2.failed"])
async def test_a_move_that_a_kill_cut_short(inbox, pool, ending):
    """A file that has its new name already, and still the old one, is not executed once more."""
    executed = []

    async def note(path):
        executed.append(path.name)

    claims = abandoned(inbox, "1.task", "2.task")
    os.link(claims / "1.task", inbox / f"1.task{ending}")
    os.link(claims / "2.task", inbox / "another name of it.txt")
    await Spool(inbox, note).run(pool, once=True)
    assert sorted(executed) == (["2.task"] if ending else ["1.task", "2.task"])
    assert not claims.exists()


async def test_a_file_that_somebody_was_quicker_with(inbox, pool):
    """A file that is gone when its turn comes is passed over."""
    drop(inbox, "1.task")
    spool = Spool(inbox, nothing)
    line = spool._line
    line.add("0.task")  # as if it had been listed a moment ago
    now = await spool.run(pool, once=True)
    assert (now.executed, now.failed) == (1, 0)


def test_without_hard_links(inbox, monkeypatch):
    """Where a file cannot be linked it is renamed, and still overwrites nothing."""

    def refuse(*args):
        raise PermissionError(1, "no")

    monkeypatch.setattr(os, "link", refuse)
    claims = Claims(inbox, TASK)
    for text in ("one", "two"):
        drop(inbox, "1.task", text)
        assert claims.take("1.task")
        claims.conclude("1.task", ".done")
    drop(inbox, "2.task")
    assert claims.take("2.task")
    claims.close()
    assert names(inbox) == ["1.task.2.done", "1.task.done", "2.task"]


def test_a_folder_that_is_taken_for_a_dead_ones(inbox, monkeypatch):
    """A watcher whose folder is removed before it is locked makes another."""
    opened = os.open
    removed = []

    def too_late(path, *args, **options):
        if not removed:
            removed.append(path.parent)
            path.parent.rmdir()
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", too_late)
    claims = Claims(inbox, TASK)
    assert claims.path not in removed
    assert names(inbox) == [claims.path.name]
    claims.close()
    assert names(inbox) == []


# --- folders that are no good ---------------------------------------------------------------


async def test_no_folder(inbox, pool):
    """A folder that is not there, or is a file, is refused at once."""
    with pytest.raises(FileNotFoundError):
        await Spool(inbox / "nothing", nothing).run(pool)
    with pytest.raises(NotADirectoryError):
        await Spool(drop(inbox, "1.task"), nothing).run(pool)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such permissions")
async def test_a_folder_that_cannot_be_written(inbox, pool):
    """A folder in which nothing can be claimed is refused at once, and stays as it was."""
    drop(inbox, "1.task")
    inbox.chmod(0o555)
    if is_root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            await Spool(inbox, nothing).run(pool)
    finally:
        if is_root:
            os.seteuid(0)
        inbox.chmod(0o755)
    assert names(inbox) == ["1.task"]


@pytest.mark.parametrize("again", [False, True])
async def test_a_folder_that_is_removed(inbox, pool, again):
    """Watching ends when the folder is removed, also if there is another of its name."""
    spool = Spool(inbox, nothing, rescan=3600)
    async with running(spool, pool) as task:
        drop(inbox, "1.task")
        await wait_until((inbox / "1.task.done").exists)
        shutil.rmtree(inbox)
        if again:
            inbox.mkdir()
        await wait_until(task.done)
    with pytest.raises(FileNotFoundError):
        task.result()


async def test_a_removed_folder_and_a_call(inbox, gate):
    """A call that runs when its folder is removed is stopped."""
    async with aiopool.Pool(1) as pool:
        drop(inbox, "1.task", "gate", *gate.paths)
        async with running(Spool(inbox, perform, rescan=3600), pool) as task:
            await gate.entered()
            shutil.rmtree(inbox)
            await wait_until(task.done)
        assert pool.statistics().running == 0
