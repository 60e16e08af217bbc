"""The `aiopool` program as people run it: pipes, terminals' signals, files, exit statuses."""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.programs import environment, gone, running
from tests.helpers import block_until, run_python

pytest.importorskip("typer")

JOBS = """
import asyncio, os, sys, time

def upper(line):
    return line.upper()

async def upper_later(line):
    await asyncio.sleep(0)
    return line.upper()

def number(line):
    return int(line)

def same(record):
    return record

def talk(line):
    print("printed", line)
    os.system("echo from a child")
    return line

def stuck(line):
    if line != "go":
        time.sleep(600)
    return line

async def stuck_later(line):
    if line != "go":
        await asyncio.sleep(600)
    return line

def crash(line):
    if line == "crash":
        os.kill(os.getpid(), 9)
    return line

def noted(line):
    with open("calls", "a") as calls:
        calls.write(line + "\\n")
    if line == "bad":
        raise ValueError("no")
    return line.upper()

def once(line):
    try:
        os.mkdir(line)
    except FileExistsError:
        return line
    raise OSError("at first")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop.py").write_text(JOBS)
    return tmp_path


def mapped(folder, *args, stdin=""):
    """Run `aiopool map` in the folder to its end."""
    command = ("-m", "aiopool", "map", *args)
    return run_python(*command, stdin=stdin, cwd=folder, env=environment())


@contextlib.contextmanager
def mapping(folder, *args, stdout=subprocess.PIPE):
    """Start `aiopool map` in the folder; kill what is left of it afterwards."""
    pipes = {"stdin": subprocess.PIPE, "stdout": stdout, "stderr": subprocess.PIPE}
    with running("-m", "aiopool", "map", *args, cwd=folder, bufsize=0, **pipes) as process:
        yield process


def answer(process, patience=20.0):
    """Give the next output of a program, whatever there is."""
    readable, _, _ = select.select([process.stdout], [], [], patience)
    assert readable, "no answer came"
    return os.read(process.stdout.fileno(), 1 << 16)


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


# --- records and results --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["upper", "upper_later"])
def test_a_function_over_lines(folder, name):
    """A plain function and a coroutine function are called with each line, results in order."""
    ended = mapped(folder, f"shop:{name}", stdin="a\nb\n\nc")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '"A"\n"B"\n""\n"C"\n', "")


def test_many_lines_of_a_file(folder):
    """Thousands of lines of a file come out in their order."""
    (folder / "in.txt").write_text("".join(f"{n}\n" for n in range(20_000)))
    ended = mapped(folder, "shop:number", "in.txt", "-o", "out.jsonl")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert lines_of((folder / "out.jsonl").read_text()) == list(range(20_000))


def test_unordered_results_and_progress(folder):
    """Results in any order are the same, and progress tells at the end how many are done."""
    options = ("--unordered", "--progress")
    ended = mapped(folder, "shop:upper_later", *options, stdin="a\nb\nc\n")
    assert sorted(lines_of(ended.stdout)) == ["A", "B", "C"]
    assert "aiopool map: 3 in " in ended.stderr


def test_two_commands_in_a_pipe(folder):
    """What one command writes another one reads."""
    (folder / "in.csv").write_text("name,price\ntea,3\ncake,4\n")
    source = f"{sys.executable} -m aiopool map shop:same"
    line = f"{source} --format csv in.csv | {source} --format jsonl --on thread"
    options = {"cwd": folder, "env": environment(), "capture_output": True, "timeout": 60}
    done = subprocess.run(line, shell=True, check=False, **options)
    assert lines_of(done.stdout) == [
        {"name": "tea", "price": "3"},
        {"name": "cake", "price": "4"},
    ]
    assert done.stderr == b""


def test_names_of_files(folder):
    """With names of files as records, arguments are the records."""
    ended = mapped(folder, "shop:upper_later", "--format", "paths", "a.txt", "b.txt")
    assert lines_of(ended.stdout) == ["A.TXT", "B.TXT"]


def test_what_a_function_prints_is_no_result(folder):
    """What the function and its child processes print goes to stderr."""
    ended = mapped(folder, "shop:talk", stdin="a\n")
    assert ended.stdout == '"a"\n'
    assert sorted(ended.stderr.splitlines()) == ["from a child", "printed a"]


# --- failures -------------------------------------------------------------------------------


def test_records_that_fail(folder):
    """Failures are told of on stderr and kept in a file, the rest goes on, the status is 1."""
    ended = mapped(folder, "shop:number", "--errors", "bad.jsonl", stdin="1\nx\n3\n")
    assert ended.returncode == 1
    assert lines_of(ended.stdout) == [1, 3]
    assert "2 done, 1 failed" in ended.stderr
    assert "the first failed with ValueError: invalid literal" in ended.stderr
    (kept,) = lines_of((folder / "bad.jsonl").read_text())
    assert kept.pop("message").startswith("invalid literal")
    assert kept == {"record": "x", "exception": "ValueError", "attempts": 1}


def test_a_record_that_kills_its_worker(folder):
    """It alone fails, with as many attempts as it was given."""
    options = ("--errors", "bad.jsonl", "--retry", "2", "--backoff", "0")
    ended = mapped(folder, "shop:crash", *options, "--workers", "2", stdin="a\ncrash\nb\n")
    assert (ended.returncode, lines_of(ended.stdout)) == (1, ["a", "b"])
    (kept,) = lines_of((folder / "bad.jsonl").read_text())
    assert (kept["record"], kept["exception"], kept["attempts"]) == ("crash", "WorkerCrashed", 2)


def test_a_record_that_passes_when_tried_again(folder):
    """A record is tried again as often as it was said, and then counts as done."""
    ended = mapped(folder, "shop:once", "--retry", "3", "--backoff", "0.01", stdin="a\nb\n")
    assert (ended.returncode, lines_of(ended.stdout), ended.stderr) == (0, ["a", "b"], "")


def test_a_record_that_takes_too_long(folder):
    """One that runs out of its time fails, others do not."""
    ended = mapped(folder, "shop:stuck_later", "--timeout", "0.2", stdin="go\nstop\ngo\n")
    assert (ended.returncode, lines_of(ended.stdout)) == (1, ["go", "go"])
    assert "TaskTimeout: shop:stuck_later did not finish within its timeout" in ended.stderr


def test_the_whole_takes_too_long(folder):
    """When the time of all is over, what is done is written and the status is 1."""
    ended = mapped(folder, "shop:stuck_later", "--deadline", "0.5", stdin="go\nx\ny\n")
    assert (ended.returncode, lines_of(ended.stdout)) == (1, ["go"])
    assert "within its deadline of 0.5 s; 1 done" in ended.stderr


def test_a_journal(folder):
    """What a journal has is not called again, and comes out all the same, in its place."""
    given = {"stdin": "a\nbad\nb\n"}
    for lines in ("a\nbad\nb\n", "a\nbad\nb\nc\n"):
        given["stdin"] = lines
        ended = mapped(folder, "shop:noted", "--journal", "run.db", "--errors", "err", **given)
        assert ended.returncode == 1, ended.stderr
        assert lines_of(ended.stdout) == [line.upper() for line in lines.split() if line != "bad"]
        assert [error["record"] for error in lines_of((folder / "err").read_text())] == ["bad"]
    assert sorted((folder / "calls").read_text().split()) == ["a", "b", "bad", "c"]
    ended = mapped(folder, "shop:noted", "--journal", "run.db", "--rerun-failed", **given)
    assert ended.returncode == 1, ended.stderr
    assert sorted((folder / "calls").read_text().split()) == ["a", "b", "bad", "bad", "c"]


def test_a_journal_of_a_run_that_was_killed(folder):
    """A run that is started again after a SIGKILL calls nothing again that it had written."""
    with mapping(folder, "shop:noted", "--journal", "run.db") as process:
        process.stdin.write(b"1\n2\n3\n")
        written = b""
        while written.count(b"\n") < 3:
            written += answer(process)
        process.kill()
        process.wait()
        gone(process.pid)
    ended = mapped(folder, "shop:noted", "--journal", "run.db", stdin="1\n2\n3\n4\n")
    assert (ended.returncode, lines_of(ended.stdout)) == (0, ["1", "2", "3", "4"])
    assert sorted((folder / "calls").read_text().split()) == ["1", "2", "3", "4"]


def test_a_malformed_record_beside_a_journal(folder):
    """A record that is no JSON is named with its line where a journal is kept, too."""
    lines = '{"a": 1}\n{"b"\n'
    for _ in range(2):
        args = ("shop:same", "--format", "jsonl", "--journal", "run.db")
        ended = mapped(folder, *args, stdin=lines)
        assert ended.returncode == 2
        assert "line 2" in ended.stderr or ":2:" in ended.stderr, ended.stderr


def test_a_rate(folder):
    """Records begin no faster than they may."""
    pytest.importorskip("aiolimiter")
    began = time.monotonic()
    ended = mapped(folder, "shop:upper_later", "--rate", "10/s", stdin="a\n" * 5)
    assert len(lines_of(ended.stdout)) == 5, ended.stderr
    assert time.monotonic() - began > 0.4


MISTAKES = {
    "no function": (["shop"], "no MODULE:FUNCTION"),
    "no module": (["shops:upper"], "no module 'shops'"),
    "no such function": (["shop:uper"], "did you mean 'upper'"),
    "no file": (["shop:upper", "nowhere.txt"], "no file nowhere.txt"),
    "a time of none": (["shop:upper", "--timeout", "0"], "timeout=0.0: must be"),
    "a place for others": (["shop:upper_later", "--on", "process"], "shop:upper_later is an async"),
    "a rate of none": (["shop:upper", "--rate", "fast"], "as in 10/s"),
    "its own input": (["shop:upper", "shop.py", "-o", "shop.py"], "name another one"),
    "one file twice": (["shop:upper", "-o", "x", "--errors", "./x"], "name another one"),
    "no folder": (["shop:upper", "-o", "nowhere/out"], "nowhere/out: No such file"),
}


@pytest.mark.parametrize(("args", "fix"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_arguments(folder, args, fix):
    """It is one line on stderr that names the fix, with status 2."""
    ended = mapped(folder, *args)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.count("\n") == 1
    assert fix in ended.stderr
    assert (folder / "shop.py").read_text() == JOBS


@pytest.mark.parametrize("args", [("--rate", "fast"), ("--timeout", "0"), ("--journal", "shop.py")])
def test_a_mistake_keeps_earlier_results(folder, args):
    """Files that would be written stay as they are."""
    for name in ("out", "err"):
        (folder / name).write_text("earlier\n")
    ended = mapped(folder, "shop:upper", "-o", "out", "--errors", "err", *args, stdin="a\n")
    assert ended.returncode == 2, ended.stderr
    assert (folder / "out").read_text() == (folder / "err").read_text() == "earlier\n"


def test_a_record_that_is_no_json(folder):
    """Results before it are written, and the mistake names its line."""
    ended = mapped(folder, "shop:same", "--format", "jsonl", stdin='1\n\n{"a": 2}\n[x\n5\n')
    assert (ended.returncode, lines_of(ended.stdout)) == (2, [1, {"a": 2}])
    assert ended.stderr.startswith("aiopool: stdin:4: not JSON: ")


# --- pipes, signals, memory -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["upper", "upper_later"])
def test_an_answer_comes_before_the_next_question(folder, name):
    """Each line that comes is answered at once, though the input stays open."""
    with mapping(folder, f"shop:{name}") as process:
        for word in (b"a", b"b", b"c"):
            process.stdin.write(word + b"\n")
            assert answer(process) == b'"%s"\n' % word.upper()
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize("place", ["process", "loop", "thread"])
def test_interrupted(folder, place):
    """A Ctrl-C ends it with status 130 and a summary, what was done is written, nobody is left."""
    name = "upper_later" if place == "loop" else "stuck"
    with mapping(folder, f"shop:{name}", "--workers", "2", "--on", place) as process:
        process.stdin.write(b"go\nstop\nstop\n")
        word = b'"GO"\n' if place == "loop" else b'"go"\n'
        seen = answer(process)
        os.killpg(process.pid, signal.SIGINT)
        seen += process.stdout.read()
        assert process.wait(20) == 130
        assert seen.startswith(word)
        assert seen.endswith(b"\n")
        stderr = process.stderr.read().decode()
        assert stderr.startswith("aiopool map: interrupted; "), stderr
        assert stderr.count("\n") == 1
        gone(process.pid)


def test_terminated(folder):
    """A SIGTERM does the same with status 143, and leaves nothing to complain of."""
    with mapping(folder, "shop:stuck") as process:
        process.stdin.write(b"go\nstop\n")
        assert answer(process) == b'"go"\n'
        process.terminate()
        assert process.wait(20) == 143
        stderr = process.stderr.read().decode()
        assert stderr.startswith("aiopool map: terminated; "), stderr
        assert stderr.count("\n") == 1
        gone(process.pid)


@pytest.mark.parametrize(("is_closed", "status"), [(True, 1), (False, 141)])
def test_nobody_reads_what_went_wrong(folder, is_closed, status):
    """A closed stderr changes nothing, and one whose reader is gone ends it as by SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    command = f"exec {sys.executable} -m aiopool map shop:number" + " 2>&-" * is_closed
    ended = subprocess.run(
        ["sh", "-c", command],
        input=b"1\nx\n",
        stdout=subprocess.PIPE,
        stderr=writer,
        cwd=folder,
        env=environment(),
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stdout) == (status, b"1\n")


def test_the_reader_goes_away(folder):
    """When nobody reads the results any more it ends at once, without a word."""
    with mapping(folder, "shop:upper", "--workers", "2") as process:
        feeding = Feeding(process.stdin)
        answer(process)
        process.stdout.close()
        assert process.wait(20) == 141
        feeding.join()
        assert process.stderr.read() == b""
        gone(process.pid)


@pytest.mark.parametrize("to_file", [False, True])
def test_killed(folder, to_file):
    """However it is killed, the lines that it has written are whole."""
    path = folder / "out.jsonl"
    options = ["-o", "out.jsonl"] if to_file else []
    with mapping(folder, "shop:upper", "--workers", "2", *options) as process:
        feeding = Feeding(process.stdin)
        data = b""
        if to_file:
            block_until(lambda: path.exists() and path.stat().st_size > 100_000, "it writes")
        while len(data) < 100_000 and not to_file:
            data += answer(process)
        process.kill()
        process.wait()
        feeding.join()
        data = path.read_bytes() if to_file else data + process.stdout.read()
    assert data.endswith(b"\n")
    assert set(data.splitlines()) == {b'"LINE"'}


def test_endless_input_in_constant_memory(folder):
    """An endless input takes no more memory late than early."""
    with mapping(folder, "shop:upper", "--workers", "2") as process:
        feeding = Feeding(process.stdin)
        early = after(process, 500_000)
        late = after(process, 2_000_000)
        process.kill()
        feeding.join()
    assert late < early * 1.2 + 5_000_000


def after(process, count):
    """Read so many bytes of results; give the bytes of memory the program then has."""
    while count > 0:
        count -= len(answer(process))
    fields = Path(f"/proc/{process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")


def test_a_slow_reader_holds_up_the_reading(folder):
    """While nobody reads the results, no more is read than fits the window and the pipes."""
    with mapping(folder, "shop:upper", "--workers", "2") as process:
        feeding = Feeding(process.stdin)
        answer(process)

        def is_held_up():
            before = feeding.count
            time.sleep(0.2)
            return feeding.count == before

        block_until(is_held_up, "the input is held up")
        assert feeding.count < 3_000_000
        process.kill()
        feeding.join()


class Feeding(threading.Thread):
    """Writes lines until nobody reads them any more; ``count`` is the bytes that went."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.count = 0
        self._fd = stream.fileno()
        self.start()

    def run(self):
        block = b"line\n" * 800
        with contextlib.suppress(BrokenPipeError):
            while True:
                self.count += os.write(self._fd, block)


def test_standard_input_stays_as_it_is(folder):
    """A pipe that others read, too, is as blocking afterwards as it was before."""
    source, sink = os.pipe()
    os.write(sink, b"a\n")
    os.close(sink)
    try:
        command = [sys.executable, "-m", "aiopool", "map", "shop:upper"]
        options = {"cwd": folder, "env": environment(), "capture_output": True, "timeout": 60}
        done = subprocess.run(command, stdin=source, check=False, **options)
        assert (done.returncode, done.stdout) == (0, b'"A"\n')
        assert not fcntl.fcntl(source, fcntl.F_GETFL) & os.O_NONBLOCK
    finally:
        os.close(source)


# --- the program itself ---------------------------------------------------------------------


def test_bench():
    """The table has a row for everybody, and aiopool in each part of it."""
    ended = run_python(
        "-m", "aiopool", "bench", "--quick", "--rounds", "1", cwd="/", env=environment()
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("  aiopool ") == 5, ended.stdout
    for peer in ("run_in_executor", "ProcessPoolExecutor", "TaskGroup and Semaphore"):
        assert peer in ended.stdout


def test_help_and_workers_are_light():
    """Help loads neither the pool nor rich, and a worker that imports the program no typer."""
    source = (
        "import sys, aiopool.__main__; print('typer' in sys.modules)\n"
        "import aiopool.cli; print([name for name in sys.modules\n"
        "    if name in ('asyncio', 'rich', 'multiprocessing') or '._run' in name])"
    )
    assert run_python("-c", source).stdout == "False\n[]\n"
    ended = run_python("-m", "aiopool", "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage: aiopool ")


def test_without_the_extra():
    """A program without typer says which extra is missing."""
    source = "import sys; sys.modules['typer'] = None\nfrom aiopool.__main__ import main\nmain()"
    ended = run_python("-c", source)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "needs the extra `cli`: pip install" in ended.stderr
