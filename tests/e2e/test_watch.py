"""``aiopool watch``, the program: killed, interrupted, and beside others of its kind."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.addons.spool_jobs import drop, names
from tests.e2e.programs import environment, gone, running
from tests.helpers import block_until, is_alive, run_python

WATCH = ["-m", "aiopool", "watch"]
CALL = ["--call", "tests.addons.spool_jobs:perform"]


@contextlib.contextmanager
def watching(folder, log, *options):
    """Have a watcher run while the block does; its lines go to the log."""
    command = [*WATCH, folder, *CALL, "--workers", "2", *options]
    with log.open("w") as out, running(*command, stdout=out, stderr=out) as process:
        yield process
        process.terminate()
        gone(process.pid)


def watch_once(folder, *options):
    """Run a watcher until the folder is done with."""
    return run_python(*WATCH, folder, "--once", *options, env=environment())


def test_a_folder_is_drained(inbox, tmp_path):
    """With ``--once`` all is done in order and told line by line; a failure makes the status 1."""
    journal = str(tmp_path / "journal")
    for number, priority in enumerate([3, 10, 1, 2]):
        drop(inbox, f"{number}-p{priority}.job", "record", journal, priority)
    drop(inbox, "4.job", "fail", "no good")
    drop(inbox, "5.job", "fail_times", str(tmp_path / "times"), 1, "x")
    options = ["--pattern", "*.job", "--priority", r"p(\d+)", "--workers", "1"]
    done = watch_once(inbox, *CALL, *options, "--retry", "2", "--backoff", "0.01")
    assert done.returncode == 1
    assert (tmp_path / "journal").read_text().split() == ["1", "2", "3", "10"]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("2-p1.job: started in process ")
    assert lines[1].startswith("2-p1.job: done in ")
    assert "4.job: failed, tried 2 times: ValueError: no good" in lines
    assert "5 executed, 1 failed" in done.stderr
    assert {"4.job.failed", "4.job.error", "5.job.done"} < set(names(inbox))
    again = watch_once(inbox, *CALL)
    assert (again.returncode, again.stdout) == (0, "")


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("nothing", CALL, "nothing: No such file or directory"),
        (".", [*CALL, "--priority", "p1"], "has no group"),
        (".", ["--call", "tests.addons.spool_jobs"], "is no MODULE:FUNCTION"),
    ],
)
def test_mistakes(inbox, folder, options, message):
    """A mistake is one line that names it, and status 2."""
    done = watch_once(inbox / folder, *options)
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert last.startswith("aiopool: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_a_killed_watcher(inbox, tmp_path, make_gate):
    """What a watcher had in work when it was killed is done again by the next one, and no more."""
    gates = [make_gate(), make_gate()]
    journal = str(tmp_path / "journal")
    drop(inbox, "0.task", "record", journal, "early")
    for number, gate in enumerate(gates, 1):
        drop(inbox, f"{number}.task", "gate", *gate.paths)
    with watching(inbox, tmp_path / "log") as watcher:
        for gate in gates:
            block_until(gate.is_entered)
        drop(inbox, "3.task", "record", journal, "late")
        watcher.kill()
        watcher.wait()
        block_until(lambda: not any(is_alive(gate.pid) for gate in gates), "its workers are gone")
        gone(watcher.pid)
    assert names(inbox)[1:] == ["0.task.done", "3.task"]
    for gate in gates:
        gate.open()
    done = watch_once(inbox, *CALL)
    assert done.returncode == 0
    assert done.stdout.count("waits again: its watcher is dead") == 2
    assert names(inbox) == [f"{number}.task.done" for number in range(4)]
    assert (tmp_path / "journal").read_text().split() == ["early", "late"]


def test_watchers_that_share_a_folder(inbox, tmp_path, make_gate):
    """Two programs that watch one folder execute every file once, and each of them some."""
    gates = [make_gate(), make_gate()]
    logs = [tmp_path / "1", tmp_path / "2"]
    with watching(inbox, logs[0], "--limit", "1"), watching(inbox, logs[1], "--limit", "1"):
        for number, gate in enumerate(gates):
            drop(inbox, f"{number}.task", "gate", *gate.paths)
        for gate in gates:
            block_until(gate.is_entered)
        for number in range(2, 42):
            drop(inbox, f"{number}.task", "record", str(tmp_path / "journal"), number)
        for gate in gates:
            gate.open()
        wanted = {f"{number}.task.done" for number in range(42)}
        block_until(lambda: wanted <= set(names(inbox)), "all is done")
    executed = (tmp_path / "journal").read_text().split()
    assert sorted(map(int, executed)) == list(range(2, 42))
    assert all("started in process" in log.read_text() for log in logs)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_watcher(inbox, tmp_path, gate, sent):
    """A signal to the whole group stops it at once: files are back, the status tells the signal."""
    drop(inbox, "1.task", "gate", *gate.paths)
    drop(inbox, "2.task", "echo", 1)
    with watching(inbox, tmp_path / "log") as watcher:
        block_until(gate.is_entered)
        block_until((inbox / "2.task.done").exists)
        os.killpg(watcher.pid, sent) if sent == signal.SIGINT else watcher.send_signal(sent)
        assert watcher.wait(20) == 128 + sent
        gone(watcher.pid)
    assert names(inbox) == ["1.task", "2.task.done"]
    log = (tmp_path / "log").read_text()
    assert "1.task: waits again" in log
    assert "1 executed, 0 failed, 1 returned" in log
    assert "Traceback" not in log


def test_the_live_line(inbox, tmp_path, gate):
    """With ``--progress`` a live line tells what runs where, and lines of what went wrong stay."""
    drop(inbox, "1.task", "gate", *gate.paths)
    drop(inbox, "2.task", "fail", "no good")
    drop(inbox, "3.task", "say", "a line")
    drop(inbox, "4.task", "say", "an error", "stderr")
    log = tmp_path / "log"
    with watching(inbox, log, "--progress"):
        block_until(gate.is_entered)
        wanted = [
            f"2 executed, 1 failed, 0 waiting, 1 running (1.task in {gate.pid})",
            "\x1b[K2.task: failed, tried once: ValueError: no good\n",
            "\x1b[Ka line\n",
            "\x1b[Kan error\n",
        ]
        block_until(lambda: all(part in log.read_text() for part in wanted), "all was told")
        assert "started" not in log.read_text()


def test_nobody_reads(inbox, tmp_path, gate):
    """A watcher whose lines nobody reads any more returns its files and ends as by SIGPIPE."""
    drop(inbox, "1.task", "gate", *gate.paths)
    reader, writer = os.pipe()
    with (
        (tmp_path / "err").open("w") as err,
        running(*WATCH, inbox, *CALL, stdout=writer, stderr=err) as process,
    ):
        os.close(writer)
        os.close(reader)
        assert process.wait(20) == 128 + signal.SIGPIPE
        gone(process.pid)
    assert names(inbox) == ["1.task"]
    assert "Traceback" not in (tmp_path / "err").read_text()


def test_a_reader_that_is_stuck(inbox):
    """A watcher whose lines nobody takes is ended by a second Ctrl-C."""
    drop(inbox, "1.task", "echo", 1)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with running(*WATCH, inbox, *CALL, stdout=writer) as process:

        def ended():
            process.send_signal(signal.SIGINT)
            return process.poll() is not None

        block_until(lambda: not (inbox / "1.task").exists())
        where = Path(f"/proc/{process.pid}/wchan")
        with contextlib.suppress(AssertionError):  # it is not told everywhere
            block_until(lambda: "pipe" in where.read_text(), patience=3.0)
        block_until(ended)
        assert process.wait() == -signal.SIGINT
        gone(process.pid)
    os.close(reader)
    os.close(writer)
