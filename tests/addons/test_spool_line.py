"""The line in which files wait, the orders there are, and files that are being written."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopool._spool.line import Line
from aiopool._spool.writing import Growing, is_being_written, is_told_of_writers
from aiopool.spool import by_name, by_number
from tests.helpers import block_until

NAMES = st.text("ab01239.-", min_size=1, max_size=6)


@given(st.lists(st.integers(0, 10**12)))
def test_numbers_are_in_order(numbers):
    """Names that differ in one number are in the order of the number."""
    ordered = sorted((f"job-{number}.task" for number in numbers), key=by_name)
    assert ordered == [f"job-{number}.task" for number in sorted(numbers)]


def test_no_order():
    """What is no regular expression, or has no group, is refused in words."""
    with pytest.raises(ValueError, match="is not a regular expression"):
        by_number("(")
    with pytest.raises(ValueError, match="has no group"):
        by_number("p1")


def test_what_is_no_number():
    """A name in which the group finds no number comes after those in which it does."""
    key = by_number(r"p(\w+)|(?:q)")
    assert min("pnan", "q", "p7", "x", "pseven", key=key) == "p7"


@given(st.lists(st.tuples(st.sampled_from(["add", "pop", "replace"]), NAMES, st.sets(NAMES))))
def test_a_line_is_a_sorted_set(steps):
    """Whatever happens, a line gives each of its names once, in order."""
    line, model = Line(by_name), set()
    for what, name, more in steps:
        if what == "add":
            line.add(name)
            model.add(name)
        elif what == "replace":
            line.replace(more)
            model = set(more)
        elif model:
            first = min(model, key=lambda name: (by_name(name), name))
            assert line.pop() == first
            model.remove(first)
        assert len(line) == len(model)


def test_a_file_that_a_writer_holds(tmp_path):
    """The system tells that a file is open for writing, and not that it is open for reading."""
    path = tmp_path / "file"
    with path.open("w"):
        assert is_being_written(path)
    with path.open():
        assert not is_being_written(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        is_being_written(path)


def test_a_file_at_rest(tmp_path):
    """Where the system does not tell, a file is whole when it has not changed for long enough."""
    growing = Growing(tmp_path, 0.05)
    path = tmp_path / "file"
    path.write_text("x")
    ahead = 2**33  # its time is one of another machine's
    os.utime(path, (ahead, ahead))
    assert not growing.is_whole("file")
    assert list(growing.files) == ["file"]
    block_until(lambda: growing.is_whole("file"), "it is whole")
    assert not growing.files
    assert growing.at_rest


@pytest.mark.parametrize(
    ("kinds", "asked"), [(["ext4"], True), (["nfs4"], False), ([], False), (["xfs", "cifs"], False)]
)
def test_who_is_asked(tmp_path, monkeypatch, kinds, asked):
    """Only file systems that are known to answer are asked who writes."""
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = [f"36 35 {number} / /somewhere rw - {kind} /dev/x rw" for kind in kinds]
    mounts += ["37 35 0:999 / /elsewhere rw shared:1 - proc proc rw"]
    monkeypatch.setattr(type(tmp_path), "read_text", lambda *args, **options: "\n".join(mounts))
    assert is_told_of_writers(tmp_path) is asked


def test_what_is_no_file(tmp_path):
    """A folder, a pipe and nothing at all are not whole, and not waited for."""
    growing = Growing(tmp_path, 0.0)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert not any(map(growing.is_whole, ["folder", "pipe", "nothing"]))
    assert not growing.files
