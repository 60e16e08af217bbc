"""The parts of the command line: records in, lines out, functions by name, rates."""

import asyncio
import contextlib
import json
import os
import select
import sys

import pytest

from aiopool._cli.inputs import Source
from aiopool._cli.mistakes import Mistake
from aiopool._cli.outputs import Lines
from aiopool._cli.rate import limiter
from aiopool._cli.records import AsyncCall, Call, Malformed, NotJSON, line_of
from aiopool._cli.target import load

# --- records in -----------------------------------------------------------------------------


async def read(folder, form, *texts):
    """Give the records of files with these contents, and the mistake that ended them."""
    names = []
    for number, text in enumerate(texts):
        path = folder / f"{number}.txt"
        path.write_bytes(text)
        names.append(str(path))
    records = []
    try:
        async for record in Source(names, form).records():
            records.append(record)
    except Mistake as mistake:
        return records, str(mistake).removeprefix(f"{folder}{os.sep}")
    return records, None


LINES = {
    "the last line has no end": (b"a\nb", ["a", "b"]),
    "the last line has one": (b"a\nb\n", ["a", "b"]),
    "empty lines are records": (b"\n\na\n", ["", "", "a"]),
    "lines end as on Windows": (b"a\r\nb\rc\r\n", ["a", "b\rc"]),
    "the file begins with a mark": (b"\xef\xbb\xbfa\n", ["a"]),
    "other ends of lines are text": ("a\u2028b\x0c\nc".encode(), ["a\u2028b\x0c", "c"]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize(("data", "records"), LINES.values(), ids=LINES)
async def test_lines_of_a_file(tmp_path, data, records):
    """A record is what stands between ends of lines."""
    assert await read(tmp_path, "lines", data) == (records, None)


async def test_lines_longer_than_a_block_and_several_files(tmp_path):
    """Lines are whole wherever the blocks they are read in end, file after file."""
    first = [str(n) * (n % 97) for n in range(20_000)]
    second = ["x" * 1_000_000, "y"]
    data = ["\n".join(lines).encode() for lines in (first, second)]
    assert await read(tmp_path, "lines", *data) == (first + second, None)


async def test_a_line_that_is_no_text(tmp_path):
    """What stands before it is read, and the mistake names the line."""
    records, mistake = await read(tmp_path, "lines", b"a\nb\nc\xff\nd\n")
    assert records == ["a", "b"]
    assert mistake.startswith("0.txt:3: not UTF-8 text")


async def test_names_of_files_that_are_no_text(tmp_path):
    """Names of files are what the system makes of their bytes."""
    assert await read(tmp_path, "paths", b"a\xff\n") == ([os.fsdecode(b"a\xff")], None)


ROWS = {
    "rows": (b"a,b\n1,2\n3,4\n", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}], None),
    "quotes": (
        b'a,b\n"x, ""y""\nz",2\n\n3,"4"',
        [{"a": 'x, "y"\nz', "b": "2"}, {"a": "3", "b": "4"}],
        None,
    ),
    "a field too few": (
        b'a,b\n"1\n2",3\n4\n',
        [{"a": "1\n2", "b": "3"}],
        "0.txt:4: 1 fields under a heading of 2",
    ),
    "a quote that is not closed": (b'a\n1\n"2\n3\n', [{"a": "1"}], "0.txt:3: a quote"),
    "two quotes amid fields": (
        b'a,b\n1,5" nail\n2,3" nail\n',
        [],
        "0.txt:2: a field without quotes holds one",
    ),
    "lines end as on an old Mac": (b"a,b\r1,2\r", [], "0.txt:1: a field without quotes"),
    "a long field": (b'a\n"%b"\n' % (b"x" * 200_000), [{"a": "x" * 200_000}], None),
    "a quote before much else": (b'a\n"\n' + b"1\n" * 50_000, [], "0.txt:2: a quote that begins"),
    "a heading alone": (b"a,b\n", [], None),
}


@pytest.mark.parametrize(("data", "rows", "mistake"), ROWS.values(), ids=ROWS)
async def test_rows_of_a_csv_file(tmp_path, data, rows, mistake):
    """A row is a dict by the heading; one that is none names its line, after those before it."""
    found, told = await read(tmp_path, "csv", data)
    assert found == rows
    assert told is None if mistake is None else told.startswith(mistake)


async def test_each_csv_file_has_its_own_heading(tmp_path):
    """The rows of a second file go by its own first row."""
    records, _ = await read(tmp_path, "csv", b"a\n1\n", b"b\n2\n")
    assert records == [{"a": "1"}, {"b": "2"}]


async def test_a_named_pipe_that_nobody_writes_to_yet(tmp_path):
    """It holds up nothing until somebody writes to it, and ends when he has closed it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    records = Source([str(pipe)], "lines").records()
    first = asyncio.ensure_future(anext(records))
    done, _ = await asyncio.wait([first], timeout=0.05)
    assert not done
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)  # fails unless there is a reader
    os.write(writer, b"a\nb\n")
    os.close(writer)
    assert [await first, *[record async for record in records]] == ["a", "b"]


async def test_where_a_record_was_read(tmp_path):
    """The place of a record is its line in its own file."""
    for name in ("one", "two"):
        (tmp_path / name).write_text("x\ny\n")
    source = Source([str(tmp_path / "one"), str(tmp_path / "two")], "jsonl")
    assert [record async for record in source.records()] == ["x", "y", "x", "y"]
    assert [source.place(n).rpartition(os.sep)[2] for n in (0, 1, 2, 3)] == [
        "one:1",
        "one:2",
        "two:1",
        "two:2",
    ]


@pytest.mark.parametrize(("name", "fix"), [("nowhere", "check its name"), (".", "the files in it")])
def test_a_file_that_cannot_be_read(name, fix, tmp_path):
    """It is refused before the first record of another is read."""
    with pytest.raises(Mistake, match=fix):
        Source([str(tmp_path / name)], "lines")


# --- what is called -------------------------------------------------------------------------


def test_a_record_of_json_becomes_a_value_and_a_value_a_line():
    """Records of JSON are decoded before the call, results encoded after it."""
    call = Call(lambda record: {"sum": sum(record)}, "job", is_json=True)
    assert call("[1, 2]") == '{"sum": 3}\n'
    assert call("  ") == ""
    assert Call(str.upper, "job", is_json=False)("a é") == '"A É"\n'
    with pytest.raises(Malformed, match="column 2"):
        call("[x")


async def test_a_coroutine_function_is_awaited():
    """A coroutine function is called with a value and its result encoded, too."""

    async def double(record):
        return record * 2

    assert await AsyncCall(double, "job", is_json=True)("2") == "4\n"
    assert await AsyncCall(double, "job", is_json=True)("") == ""


@pytest.mark.parametrize("value", [{1}, float("nan"), b"x", object(), (n for n in ())])
def test_a_result_that_is_no_json(value):
    """What has no form in JSON is an error that names its type and the fix."""
    with pytest.raises(NotJSON, match=f"{type(value).__name__}, is not JSON: .*; return a str"):
        line_of(value)


def test_a_result_that_is_no_unicode():
    """A name of a file with odd bytes in it is written with an escape."""
    line = line_of(["é", "\udcff"])
    assert line.isascii()
    assert json.loads(line) == ["é", "\udcff"]


TARGETS = {
    "aiopool": "no MODULE:FUNCTION",
    "nowhere.at.all:f": "no module 'nowhere'",
    "json:lods": "did you mean 'loads'",
    "json:__all__": "is list, not a function",
    "broken_module:f": r"ZeroDivisionError: .*broken_module.py:2",
    "unparsable_module:f": r"SyntaxError: .*unparsable_module.py:1",
    "leaving_module:f": r"SystemExit: 0 .*leaving_module.py:2",
    "needy_module:f": "ModuleNotFoundError: No module named 'nowhere'",
}


@pytest.mark.parametrize(("target", "fix"), TARGETS.items(), ids=TARGETS)
def test_a_function_that_is_not_there(target, fix, tmp_path, monkeypatch):
    """The mistake says what is missing, or where importing it failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "broken_module.py").write_text("\n1 / 0\n")
    (tmp_path / "unparsable_module.py").write_text("def :\n")
    (tmp_path / "leaving_module.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "needy_module.py").write_text("import nowhere\n")
    with pytest.raises(Mistake, match=fix):
        load(target)


def test_a_function_is_found_by_its_name():
    """A function, and a method of a class, are found by module and name."""
    assert load("json:loads") is json.loads
    assert load("builtins:str.upper") is str.upper


@pytest.mark.parametrize("rate", ["10", "0/s", "-1/s", "x/s", "1/d", "inf/s", "nan/s"])
def test_a_rate_that_is_none(rate):
    """What is no number above zero and a unit is refused with an example."""
    with pytest.raises(Mistake, match="as in 10/s"):
        limiter(rate)


def test_a_rate_lets_a_tenth_of_a_second_through_at_once():
    """The bucket holds a tenth of a second's worth, at least one."""
    pytest.importorskip("aiolimiter")
    assert (limiter("1000/s").max_rate, limiter("1000/s").time_period) == (100, 0.1)
    assert (limiter("30/m").max_rate, limiter("30/m").time_period) == (1, 2)


# --- lines out ------------------------------------------------------------------------------


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def lines(pipe):
    with contextlib.closing(Lines(pipe[1], "out")) as opened:
        yield opened


async def test_lines_are_written_whole_and_in_groups(pipe, lines):
    """Nobody who reads a pipe sees half a line, and many lines go together."""
    writing = asyncio.create_task(lines.written())
    texts = [f"{'x' * (n % 50)}\n" for n in range(1_000)]
    for text in texts:
        assert not lines.add(text)
    lines.end()
    await writing
    data = os.read(pipe[0], 1 << 20).decode()
    assert data == "".join(texts)


async def test_lines_wait_for_a_slow_reader(pipe, lines):
    """A full pipe holds up those who add lines and not the loop, and nothing is lost."""
    writing = asyncio.create_task(lines.written())
    line, added = "x" * 99 + "\n", 0
    while not lines.add(line):
        added += 1
        await asyncio.sleep(0)
    waiting = asyncio.create_task(lines.room())
    lines.end()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    data = b""
    while not writing.done():
        readable, _, _ = select.select([pipe[0]], [], [], 0)
        if readable:
            data += os.read(pipe[0], 1 << 16)
            assert data.endswith(b"\n")
        await asyncio.sleep(0)
    await waiting
    while select.select([pipe[0]], [], [], 0)[0]:
        data += os.read(pipe[0], 1 << 16)
    assert data == (line * (added + 1)).encode()


async def test_a_line_longer_than_a_pipe_takes_arrives(pipe, lines):
    """A line that no pipe takes whole is written in parts, and the next one after it."""
    writing = asyncio.create_task(lines.written())
    text = "x" * 200_000
    lines.add(f"{text}\n")
    lines.add("y\n")
    lines.end()
    data = b""
    while not data.endswith(b"y\n"):
        if select.select([pipe[0]], [], [], 0)[0]:
            data += os.read(pipe[0], 1 << 16)
        await asyncio.sleep(0)
    await writing
    assert data.decode() == f"{text}\ny\n"


async def test_a_reader_that_went_away():
    """Writing to a pipe that nobody reads any more raises BrokenPipeError."""
    source, sink = os.pipe()
    os.close(source)
    try:
        with contextlib.closing(Lines(sink, "out")) as lines:
            lines.add("x\n")
            with pytest.raises(BrokenPipeError):
                await asyncio.wait_for(lines.written(), 10)
    finally:
        os.close(sink)


def test_what_waits_is_written_at_the_end(pipe, lines):
    """After an interrupt all that was added is written at once."""
    lines.add("x\n")
    lines.add("y\n")
    lines.finish()
    assert os.read(pipe[0], 100) == b"x\ny\n"
