"""What calls print: whole, in order, on the streams the parent has at that moment."""

import asyncio
import collections
import contextlib
import io
import signal
import sys

import pytest

import aiopool
from tests import jobs
from tests.backends import deeds, writers
from tests.helpers import wait_until

SPAWNED = {"mp_context": "spawn"}  # its descriptors are those that capfd has set up


async def test_print(start_method, capsys):
    """What a call prints is there when the call's value is."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        await pool.run(writers.say_both, "hello")
        assert capsys.readouterr() == ("hello\n", "hello\n")
        for n in range(5):
            await pool.run(print, n)
            assert capsys.readouterr().out == f"{n}\n"
        await pool.map(print, range(50))
        assert capsys.readouterr().out == "".join(f"{n}\n" for n in range(50))


async def test_print_of_submitted_calls(capsys):
    """Calls that were submitted together have printed when they are done, each of them."""
    async with aiopool.Pool(1) as pool:
        handles = [pool.submit(print, n) for n in range(20)]
        printed = ""
        for n, handle in enumerate(handles):
            await handle
            printed += capsys.readouterr().out
            assert f"{n}\n" in printed


async def test_unfinished_line(capsys):
    """A line that has no end is shown when its call has ended."""
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.say_part, "one ")
        assert capsys.readouterr().out == "one "
        await pool.run(writers.say_part, "two ")
        assert capsys.readouterr().out == "two "


async def test_bursts(start_method, capsys):
    """Bursts of a megabyte from several workers arrive in whole lines, in order for each call."""
    count, width = 1000, 1000
    async with aiopool.Pool(2, mp_context=start_method) as pool:
        await asyncio.gather(*[pool.run(writers.say_lines, mark, count, width) for mark in "abcd"])
    numbers = collections.defaultdict(list)
    for line in capsys.readouterr().out.splitlines():
        mark, number, filling = line.split(" ")
        assert filling == mark * width
        numbers[mark].append(int(number))
    assert numbers == {mark: list(range(count)) for mark in "abcd"}


async def test_long_lines(capsys):
    """Lines of a megabyte from several workers do not mix."""
    async with aiopool.Pool(2) as pool:
        await pool.starmap(writers.say_one_line, [(mark, 1 << 20) for mark in "abcdef"])
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == [mark * (1 << 20) for mark in "abcdef"]


async def test_lines_of_threads(capsys):
    """Threads of one call do not break into one another's lines."""
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.say_from_threads, 4, 100)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"<{m}>{n}" * 2 for m in range(4) for n in range(100))


@pytest.mark.parametrize("way", [(jobs.exit_with, 3), (jobs.kill_self, signal.SIGKILL)])
async def test_what_a_dead_worker_had_printed(way, start_method, capsys):
    """Lines, and what was flushed, outlive the worker; they are there when the call has failed."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        with pytest.raises(aiopool.WorkerCrashed):
            await pool.run(writers.say_then, *way)
        assert capsys.readouterr().out == "a line\nflushed"


async def test_what_a_killed_call_had_printed(gate, capsys):
    """Lines printed by a call that had to be killed are not lost."""
    async with aiopool.Pool(1, grace_period=0.1) as pool:
        guilty = pool.submit(writers.say_then, deeds.swallow_interrupts, str(gate.marker))
        await gate.entered()
        guilty.cancel()
        with pytest.raises(asyncio.CancelledError):
            await guilty
        assert capsys.readouterr().out == "a line\nflushed"


async def test_what_a_stopped_call_had_printed(gate, capsys):
    """All that was printed by a call that let itself be stopped is shown."""
    async with aiopool.Pool(1, grace_period=10) as pool:
        guilty = pool.submit(writers.say_then, jobs.gate, *gate.paths)
        worker = await gate.entered()
        guilty.cancel()
        with pytest.raises(asyncio.CancelledError):
            await guilty
        assert capsys.readouterr().out == "a line\nflushed and not"
        assert await pool.run(jobs.pid) == worker


async def test_what_a_call_out_of_time_had_printed(gate, capsys):
    """Lines printed by a call that was stopped by its timeout are there when it has failed."""
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.say_at_once, "")
        handle = pool.submit(writers.say_then, jobs.gate, *gate.paths, timeout=1)
        await gate.entered()
        with pytest.raises(aiopool.TaskTimeout):
            await handle
        assert capsys.readouterr().out == "a line\nflushed and not"


class Sink(io.TextIOBase):
    """Counts what it is given."""

    def __init__(self):
        self.largest = self.total = 0

    def write(self, text):
        self.largest = max(self.largest, len(text))
        self.total += len(text)
        return len(text)


async def test_flood(start_method, gate, monkeypatch):
    """A call that floods its output keeps neither the loop nor other calls from going on."""
    monkeypatch.setattr(sys, "stdout", Sink())
    async with aiopool.Pool(2, mp_context=start_method) as pool:
        guilty = pool.submit(writers.flood, str(gate.release))
        await wait_until(lambda: sys.stdout.total > 1 << 20, "a megabyte")
        for n in range(50):
            assert await pool.run(jobs.inc, n) == n + 1
        gate.open()
        assert await guilty * 1001 == sys.stdout.total
        assert sys.stdout.largest <= 64 * 1024


async def test_flood_stopped(start_method, monkeypatch):
    """A call that floods its output is stopped as any other, again and again in one worker."""
    monkeypatch.setattr(sys, "stdout", Sink())
    async with aiopool.Pool(1, mp_context=start_method, grace_period=10) as pool:
        await pool.run(writers.say_at_once, "")  # a worker stopped while it imports is replaced
        worker = await pool.run(jobs.pid)
        for n in range(10):
            with pytest.raises(aiopool.TaskTimeout):
                await pool.run(writers.flood_for_ever, timeout=0.02 + n / 1000)
        assert await pool.run(jobs.pid) == worker
        assert -sys.stdout.total % 1001 <= 10  # some lines may have been stopped before their end


async def test_flood_left_behind(monkeypatch):
    """A pool that is closed amid a flood need not kill its worker to end it."""
    monkeypatch.setattr(sys, "stdout", Sink())
    with pytest.raises(LookupError):
        async with asyncio.timeout(30), aiopool.Pool(1, grace_period=60) as pool:
            pool.submit(writers.flood_for_ever)
            await wait_until(lambda: sys.stdout.total > 1 << 20, "a megabyte")
            raise LookupError


async def test_flood_in_one_write(monkeypatch):
    """A very long text goes in pieces that end with lines."""
    monkeypatch.setattr(sys, "stdout", Sink())
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.say_at_once, "a line\n" * (1 << 20))
    assert sys.stdout.total == 7 << 20
    assert sys.stdout.largest % 7 == 0
    assert sys.stdout.largest <= 64 * 1024


async def test_bytes():
    """Bytes that are no text arrive as they are where the parent's stream takes bytes."""
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")) as stream:
        async with aiopool.Pool(1) as pool:
            await pool.run(writers.say_bytes, b"\xff\x00\n")
            await pool.run(print, "text")
        stream.flush()
        assert stream.buffer.getvalue() == b"\xff\x00\ntext\n"


async def test_bytes_for_a_text_stream():
    """Bytes that are no text arrive escaped where the parent's stream takes text only."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        async with aiopool.Pool(1) as pool:
            await pool.run(writers.say_bytes, b"\xff\n")
    assert stream.getvalue() == "\\xff\n"


async def test_text_the_parent_cannot_encode():
    """Characters that the parent's stream cannot encode arrive escaped."""
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "ascii")) as stream:
        async with aiopool.Pool(1) as pool:
            await pool.run(print, "é")
        stream.flush()
        assert stream.buffer.getvalue() == b"\\xe9\n"


async def test_no_stream(monkeypatch):
    """A parent without a console does without the output."""
    monkeypatch.setattr(sys, "stdout", None)
    async with aiopool.Pool(1) as pool:
        assert await pool.run(writers.say_part, "nothing") == "nothing"


async def test_broken_stream():
    """A stream of the parent's that fails costs the output, is reported once, and harms no call."""
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    closed = io.StringIO()
    closed.close()
    with contextlib.redirect_stdout(closed):
        async with aiopool.Pool(1) as pool:
            assert await pool.map(writers.say_part, ["a\n", "b\n", "c\n"]) == ["a\n", "b\n", "c\n"]
            await pool.run(print, "d")
    assert [type(report["exception"]) for report in reports] == [ValueError]


async def test_streams_take_what_scripts_do(capsys):
    """The streams of a worker have descriptors, are no terminals, and outlive their closing."""
    async with aiopool.Pool(1) as pool:
        assert await pool.run(writers.abuse_streams) == [1, 2, False, "utf-8"]
        await pool.run(writers.say_both, "still there")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\nsurrogate \\udc80\nstill there\n"
    assert err == "still there\n"


async def test_child_processes(capfd):
    """What child processes and C code write goes to the descriptors, which are the parent's."""
    async with aiopool.Pool(1, **SPAWNED) as pool:
        await pool.run(writers.say_by_child)
    assert capfd.readouterr().out == "from a child process\nfrom the descriptor\n"


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
async def test_forked_by_a_call(capfd):
    """A process that a call forks writes to the descriptors and harms no one."""
    async with aiopool.Pool(1, **SPAWNED) as pool:
        assert await pool.run(writers.say_by_fork) == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["from a fork", "from the call"]
    assert err == "WARNING:tests.writers:logged in a fork\n"


async def test_nested_pool(start_method, capsys, caplog):
    """What the workers of a worker write arrives through it."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        await pool.run(writers.say_by_pool, "from below")
        assert capsys.readouterr() == ("from below\n", "from below\n")
    assert [record.getMessage() for record in caplog.records] == ["from below"]


async def test_finalizers_that_print(capsys):
    """Lines that finalizers print come whole among those of the call."""
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.say_while_freed)
        assert await pool.run(jobs.inc, 1) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line != "freed"] == [f"call {n}" for n in range(2000)]
    assert "freed" in lines


async def test_thread_left_behind(make_gate, capsys):
    """What a thread prints after its call has ended arrives all the same."""
    gate = make_gate()
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.start_late_talker, str(gate.release))
        gate.open()
        await wait_until(lambda: "late line\n" in capsys.readouterr().out, "the late line")


async def test_initializer_that_prints(start_method, capsys):
    """What an initializer prints arrives, even if it fails then."""
    options = {"initializer": writers.say_and_fail, "initargs": ("setting up",)}
    async with aiopool.Pool(1, mp_context=start_method, **options) as pool:
        with pytest.raises(aiopool.WorkerCrashed, match="no start"):
            await pool.run(jobs.inc, 1)
    assert set(capsys.readouterr().out.splitlines()) == {"setting up"}


async def test_not_forwarded(capfd):
    """With forward_output=False workers write to the descriptors that they inherit."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        async with aiopool.Pool(1, forward_output=False, **SPAWNED) as pool:
            await pool.run(writers.say_both, "by itself")
            await pool.run(writers.log_at, 30, "logged by itself")
    assert stream.getvalue() == ""
    out, err = capfd.readouterr()
    assert (out, err) == ("by itself\n", "by itself\nlogged by itself\n")
