"""The examples that do what people build by hand: what their functions promise, call by call."""

import contextlib
import importlib
import math
import os
import re
import signal

import pytest

from aiopool import Pool, PoolClosed, WorkerCrashed
from tests.e2e.programs import environment, gone, running
from tests.helpers import ROOT, block_until, run_python

EXAMPLES = ROOT / "docs" / "examples"
LONG = {
    "failed_queue.py": ["--jobs", "4000"],
    "background_worker.py": ["--chunks", "4000"],
    "pet_names.py": ["--seconds", "600"],
    "priority_pool.py": ["--most", "100000"],
}


@pytest.fixture
def load(monkeypatch):
    """Give a function that imports an example by name; workers import it as well."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


# --- failed_queue ---------------------------------------------------------------------------


async def worked_off(load, folder, *jobs, **options):
    """Work off jobs given as tuples; the outcomes, and the errors of each."""
    module = load("failed_queue")
    jobs = [module.Job(*job) for job in jobs]
    outcomes, failed = await module.work_off(jobs, folder, **options)
    errors = [[type(error).__name__ for error in failed.errors[n]] for n in range(len(jobs))]
    return outcomes, errors


async def test_a_failing_job_stops_no_other(load, tmp_path):
    """More jobs than workers are all done, in their order, beside one that always fails."""
    jobs = [("a",), ("bad", 99), ("c",), ("d",), ("e",)]
    outcomes, _ = await worked_off(load, tmp_path, *jobs, workers=2, attempts=2)
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert [outcome.ok for outcome in outcomes] == [True, False, True, True, True]
    assert outcomes[4].value == "e answered call 1"


async def test_retrying_ends_with_success_or_the_last_attempt(load, tmp_path):
    """A job is tried again until it succeeds, or has had the attempts that were set."""
    jobs = [("good",), ("twice", 2), ("never", 99)]
    outcomes, errors = await worked_off(load, tmp_path, *jobs, workers=2, attempts=4)
    assert [outcome.attempts for outcome in outcomes] == [1, 3, 4]
    assert [len((tmp_path / name).read_text()) for name, *_ in jobs] == [1, 3, 4]
    assert errors == [[], ["ConnectionError"] * 2, ["ConnectionError"] * 4]
    assert str(outcomes[2].error) == "no answer to call 4"


async def test_a_job_that_kills_its_worker_is_tried_again(load, tmp_path):
    """A dead worker is one failed attempt of the one job it did."""
    jobs = [("a",), ("killer", 1, True), ("c",), ("d",)]
    outcomes, errors = await worked_off(load, tmp_path, *jobs, workers=1, attempts=2)
    assert [outcome.attempts for outcome in outcomes] == [1, 2, 1, 1]
    assert errors == [[], ["WorkerCrashed"], [], []]


async def test_failed_attempts_are_told_as_they_happen(load, tmp_path, capsys):
    """Each failed attempt has its line, the last says that the job is given up."""
    await worked_off(load, tmp_path, ("never", 99), workers=1, attempts=2)
    assert capsys.readouterr().out.splitlines() == [
        "never failed, attempt 1: again in 0.05 s",
        "never failed, attempt 2: given up",
    ]


# --- background_worker ----------------------------------------------------------------------


async def test_results_are_matched_to_tasks(load):
    """Every task is collected with its own result, in the order of the tasks, again and again."""
    module = load("background_worker")
    async with module.BackgroundWorker(module.double) as worker:
        for task in (3, 13, 1, 2):
            assert not worker.process_task(task).done()
        results = await worker.collect_tasks()
        assert [task for task, _ in results] == [3, 13, 1, 2]
        assert [outcome.value for _, outcome in results] == [6, None, 2, 4]
        assert [type(outcome.error) for _, outcome in results if not outcome.ok] == [WorkerCrashed]
        again = await worker.collect_tasks()
    later = await worker.collect_tasks()
    for collected in (again, later):
        assert [outcome.value for _, outcome in collected] == [6, None, 2, 4]


async def test_a_task_given_right_after_a_crash(load):
    """A worker that has died without anybody knowing takes no task with it."""
    module = load("background_worker")
    async with module.BackgroundWorker(module.double) as worker:
        assert await worker.process_task(1) == 2
        (first,) = worker._pool.statistics().workers
        os.kill(first.pid, signal.SIGKILL)
        for task in range(20, 30):
            worker.process_task(task)
        results = await worker.collect_tasks()
    assert [task for task, _ in results] == [1, *range(20, 30)]
    assert [outcome.value for _, outcome in results] == [2, *range(40, 60, 2)]
    assert {outcome.pid for _, outcome in results[1:]} != {first.pid}


async def test_work_goes_on_while_the_producer_is_not_done(load):
    """What was handed over first is done before the producer has the next."""
    module = load("background_worker")
    async with module.BackgroundWorker(module.double) as worker:
        for task in range(5):
            assert await worker.process_task(task) == 2 * task
        assert len(await worker.collect_tasks()) == 5


async def test_no_task_after_collecting(load):
    """Collecting ends the job: a later task is refused, and not lost in silence."""
    module = load("background_worker")
    async with module.BackgroundWorker(module.double) as worker:
        worker.process_task(1)
        await worker.collect_tasks()
        with pytest.raises(PoolClosed):
            worker.process_task(2)
        assert len(await worker.collect_tasks()) == 1


async def test_leaving_without_collecting(load):
    """Tasks that nobody collects are done all the same before the block is left."""
    module = load("background_worker")
    async with module.BackgroundWorker(module.double) as worker:
        handles = [worker.process_task(task) for task in range(3)]
    assert [handle.result() for handle in handles] == [0, 2, 4]


def test_lines_never_mix():
    """Every line of the program is a whole line of the worker's or of its own."""
    done = run_python(EXAMPLES / "background_worker.py", "--chunks", 4, env=environment())
    lines = done.stdout.splitlines()
    line = re.compile(
        r"worker: doubling \d+|parent: looking for tasks \d+ to \d+|parent: handed over 5 tasks"
        r"|\d+ -> (\d+|worker \d+ exited with code 1 while executing double)"
        r"|20 results of 20 tasks, by 2 worker\(s\), one at a time"
    )
    assert [text for text in lines if not line.fullmatch(text)] == []
    assert len(lines) == 20 + 4 + 4 + 20 + 1


# --- pet_names ------------------------------------------------------------------------------


async def test_all_names_in_the_order_of_the_keys(load):
    """Names come in the order in which they were asked for, a missing one as its error."""
    module = load("pet_names")
    async with Pool(1) as pool:
        pets = await module.pets_of(["Gus", "Ivo", "Ada"], pool, seconds=0)
    assert list(pets) == ["Gus", "Ivo", "Ada"]
    assert (pets["Gus"], pets["Ada"]) == ("Waldi", "Biscuit")
    assert isinstance(pets["Ivo"], KeyError)


@pytest.mark.parametrize(("limit", "most"), [(None, 8), (3, 3)])
async def test_look_ups_run_together(load, monkeypatch, limit, most):
    """So many look-ups are under way at the same time as there are, or as the limit lets."""
    module = load("pet_names")
    running, seen = 0, []
    look_up = module.look_up

    async def counted(*args):
        nonlocal running
        running += 1
        seen.append(running)
        try:
            return await look_up(*args)
        finally:
            running -= 1

    monkeypatch.setattr(module, "look_up", counted)
    async with Pool(1) as pool:
        assert await module.pets_of(module.PETS, pool, seconds=0.05, limit=limit) == module.PETS
    assert max(seen) == most


async def test_spellings_are_counted_in_processes(load):
    """The plain function gives its numbers in the order of the names."""
    module = load("pet_names")
    async with Pool(2) as pool:
        assert await module.spellings_of(["Otto", "Miau"], pool) == {"Otto": 6, "Miau": 24}


# --- priority_pool --------------------------------------------------------------------------


async def test_the_important_are_first(load):
    """High tasks are done before medium ones, those before low ones, equals as they came."""
    done = await load("priority_pool").order(3)
    assert done == [f"{level} {n}" for level in ("HIGH", "NORMAL", "LOW") for n in range(3)]


async def test_ageing_ends_starvation(load):
    """Without ageing all high tasks pass the low one; with it the low one has its turn."""
    module = load("priority_pool")
    assert await module.passed(math.inf, 40) == 40
    assert 0 < await module.passed(0.001, 40) < 40
    assert await module.passed(0, 20) <= 2


async def test_a_dead_worker_is_replaced(load, tmp_path):
    """The task that killed its worker is done by another, and there are two workers again."""
    *_, health = await load("priority_pool").recover(tmp_path)
    assert (health.done, health.failed, health.crashed, health.retried) == (12, 0, 1, 1)
    assert len(health.workers) == 2


async def test_a_long_task_gives_way(load):
    """The urgent task runs between two slices of the long one, which then goes on."""
    log = await load("priority_pool").give_way()
    assert log == ["slice 0", "slice 1", "urgent", "slice 2", "slice 3"]


async def test_closing_ends_what_runs_and_what_waits(load):
    """Tasks of an hour are over when the pool is closed without draining."""
    assert await load("priority_pool").end() == ["cancelled"] * 3


# --- tasku ----------------------------------------------------------------------------------


def test_a_folder_left_by_an_interrupt(tmp_path):
    """A task that was under way at a Ctrl-C waits in the folder for the next watcher."""
    pytest.importorskip("watchfiles")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.task").write_text("long;600")
    with begun(tmp_path, "tasku.py", folder) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
    assert [path.name for path in folder.iterdir()] == ["1.task"]


# --- all of them ----------------------------------------------------------------------------


@contextlib.contextmanager
def begun(folder, name, *arguments):
    """Run an example in a process group of its own until it has printed something."""
    out, err = folder / "out", folder / "err"
    with (
        out.open("w") as stdout,
        err.open("w") as stderr,
        running("-u", EXAMPLES / name, *arguments, stdout=stdout, stderr=stderr) as process,
    ):
        block_until(out.read_text, f"{name} has begun")
        yield process


@pytest.mark.parametrize("name", LONG)
def test_interrupted(name, tmp_path):
    """One Ctrl-C ends the example, which says nothing of it and leaves no process."""
    with begun(tmp_path, name, *LONG[name]) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
        gone(process.pid)
    assert (tmp_path / "err").read_text() == ""
