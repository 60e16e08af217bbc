"""The example of a drop folder: what becomes of its task files."""

import asyncio
import importlib
import re

import pytest

from tests.helpers import ROOT, wait_until

pytest.importorskip("watchfiles")
pytestmark = pytest.mark.usefixtures("watches_end")


@pytest.fixture
def tasku(monkeypatch):
    """Give the example as a module; workers import it as well."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    return importlib.import_module("tasku")


async def test_a_folder_is_worked_off(tasku, tmp_path, capsys):
    """Tasks start in the order of their numbers, each in a process of its own."""
    tasku.fill(tmp_path)
    statistics = await tasku.Board(tmp_path, 1).run(1, once=True)
    assert (statistics.executed, statistics.failed, statistics.running) == (4, 2, ())
    started = re.findall(r"\] (\d+)\.task started, pid (\d+)", capsys.readouterr().out)
    assert [int(name) for name, _ in started] == [1, 2, 3, 4, 5, 10]
    assert len({pid for _, pid in started}) == 6


async def test_a_task_file_tells_how_it_ended(tasku, tmp_path):
    """What was done is named so, what failed as well, with the reason beside it."""
    tasku.fill(tmp_path)
    await tasku.Board(tmp_path, 2).run(2, once=True)
    done = [f"{name}.task.done" for name in (1, 10, 2, 5)]
    failed = [f"{name}.task.{what}" for name in (3, 4) for what in ("error", "failed")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(done + failed)
    assert "could not convert" in (tmp_path / "3.task.error").read_text()
    assert "message;seconds" in (tmp_path / "4.task.error").read_text()


async def test_a_task_dropped_while_the_folder_is_watched(tasku, tmp_path):
    """A watched folder does what is dropped into it, until it is cancelled."""
    watching = asyncio.ensure_future(tasku.Board(tmp_path, 1).run(1, once=False))
    for name in ("1.task", "2.task"):
        (tmp_path / name).write_text("late;0")
        await wait_until((tmp_path / f"{name}.done").exists)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
