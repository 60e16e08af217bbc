"""The live line of `map(..., progress=True)`."""

import sys

import pytest

from aiopool import Pool
from aiopool._run import meter
from tests import jobs
from tests.run.support import double


async def test_progress_counts_calls(capsys):
    """Without a terminal progress is plain lines on stderr, the last one with all calls."""
    async with Pool(1) as pool:
        assert await pool.map(jobs.inc, range(50), progress=True) == list(range(1, 51))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("inc: 0 of 50")
    assert lines[-1].startswith("inc: 50 of 50, ")


async def test_progress_of_an_input_of_unknown_length(capsys):
    """Of an input whose length nobody knows only the calls that ended are counted."""
    async with Pool() as pool:
        await pool.map(double, iter(range(3)), progress=True, name="doubling")
    assert capsys.readouterr().err.splitlines()[-1].startswith("doubling: 3")


async def test_a_failure_passes_the_progress(capsys):
    """A map that fails raises its own error and leaves the last line standing."""
    async with Pool() as pool:
        with pytest.raises(TypeError):
            await pool.map(double, [1, None], progress=True)
    assert "double: " in capsys.readouterr().err


async def test_a_broken_stream_breaks_no_work(monkeypatch):
    """A progress line that cannot be written ends the line and not the work."""

    class Broken:
        def isatty(self):
            return False

        def write(self, text):
            raise OSError(text)

    monkeypatch.setattr(sys, "stderr", Broken())
    async with Pool() as pool:
        assert await pool.map(double, [1, 2], progress=True) == [2, 4]


async def test_a_bar_in_a_terminal(monkeypatch, capsys):
    """In a terminal rich draws a bar."""
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = meter._display("x")
    bar.close()
    assert type(bar) is meter._Bar
    monkeypatch.setenv("TERM", "dumb")
    async with Pool() as pool:
        assert await pool.map(double, [1, 2], progress=True) == [2, 4]
    assert "double" in capsys.readouterr().err
