"""What `progress=True` and `Meter` show: counts, rates, when, and whose fault is whose."""

import asyncio
import gc
import logging
import sys

import pytest

from aiopool import Meter, Pool, Priority, Retry
from aiopool._run import meter
from tests import jobs
from tests.helpers import wait_until
from tests.run.support import Numbers, Source, double, is_cancelled, settled, sweep, turn_then


@pytest.fixture
def counts_of(monkeypatch):
    """Give the `counts` of each meter that a pool begins, by name."""
    seen = {}

    def note(name, counts):
        seen[name] = counts
        return Meter(name, counts)

    monkeypatch.setattr("aiopool._run.verbs.Meter", note)
    return seen


def lines_of(capsys):
    return capsys.readouterr().err.splitlines()


# --- map ------------------------------------------------------------------------------------


async def test_progress_counts_calls(capsys):
    """Without a terminal progress is plain lines on stderr, the last one with all calls."""
    async with Pool(1) as pool:
        assert await pool.map(jobs.inc, range(50), progress=True) == list(range(1, 51))
    lines = lines_of(capsys)
    assert lines[0] == "inc: 0 of 50"
    assert lines[-1].startswith("inc: 50 of 50 in ")


async def test_progress_of_an_input_of_unknown_length(capsys):
    """How many there are in all is said once the input has ended."""
    async with Pool() as pool:
        await pool.map(double, iter(range(3)), progress=True, name="doubling")
    lines = lines_of(capsys)
    assert lines[0] == "doubling: 0"
    assert lines[-1].startswith("doubling: 3 of 3 in ")


async def test_a_failure_passes_the_progress(capsys):
    """A map that fails raises its own error and leaves the last line standing."""
    async with Pool() as pool:
        with pytest.raises(TypeError):
            await pool.map(double, [1, None], progress=True)
    assert lines_of(capsys)[-1].startswith("double: 2 of 2 in ")


async def test_a_cancelled_map_leaves_its_line(shop, capsys):
    """Calls that were stopped are not among those that have ended."""
    async with Pool(limit=2) as pool:
        mapping = asyncio.ensure_future(pool.map(shop.work, range(5), progress=True, name="work"))
        await shop.has_started(0, 1)
        shop.let(0)
        await shop.has_started(2)
        mapping.cancel()
        await asyncio.wait([mapping])
        assert mapping.cancelled()
    assert lines_of(capsys)[-1].startswith("work: 1 of 5 in ")


async def test_calls_that_wait_again_count_once(shop, counts_of):
    """A call that has to wait for its second attempt adds nothing to how many there are."""
    failed = set()

    async def flaky(x):
        if x not in failed:
            failed.add(x)
            pool.submit(shop.work, "urgent", priority=Priority.URGENT)
            raise ValueError(x)

    async with Pool(limit=1, aging=float("inf")) as pool:
        options = {"retry": Retry(attempts=2, wait=lambda _: 0), "name": "flaky"}
        mapping = asyncio.ensure_future(pool.map(flaky, [1, 2], progress=True, **options))
        await shop.has_started("urgent")
        workload = next(each for each in pool._parts.engine.live if each.name == "flaky")
        await wait_until(lambda: workload.here, "the failed call to wait in the queue again")
        assert counts_of["flaky"]() == (0, 2)
        shop.open()
        await mapping


# --- stream ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
async def test_progress_of_a_stream(ordered, capsys):
    """A stream shows calls that have ended, and all of them at its end."""
    async with Pool(1) as pool:
        stream = pool.stream(jobs.inc, range(50), ordered=ordered, progress=True)
        assert sorted([value async for value in stream]) == list(range(1, 51))
    lines = lines_of(capsys)
    assert lines[0] == "inc: 0 of 50"
    assert lines[-1].startswith("inc: 50 of 50 in ")


async def test_progress_of_outcomes(capsys):
    """Failures among outcomes are calls that have ended."""
    async with Pool() as pool:
        stream = pool.stream(double, [1, None, 3], progress=True)
        assert [outcome.ok async for outcome in stream.outcomes()] == [True, False, True]
    assert lines_of(capsys)[-1].startswith("double: 3 of 3 in ")


async def test_progress_of_an_endless_stream(counts_of, capsys):
    """An endless input is counted with no end in sight, and its line ends where it is left."""
    async with Pool() as pool:
        async with pool.stream(double, Numbers(), buffersize=4, progress=True) as stream:
            async for value in stream:
                ended, total = counts_of["double"]()
                assert total is None
                assert value // 2 < ended <= value // 2 + 6
                if value == 40:
                    break
        lines = lines_of(capsys)
    assert lines[0] == "double: 0"
    assert " of " not in lines[-1]
    assert 21 <= int(lines[-1].split()[1]) <= 26


async def test_progress_of_an_async_input(capsys):
    """How many items an async iterable has is known when it has ended."""

    async def items():
        for n in range(7):
            yield n

    async with Pool() as pool:
        assert len([value async for value in pool.stream(double, items(), progress=True)]) == 7
    assert lines_of(capsys)[-1].startswith("double: 7 of 7 in ")


async def test_progress_of_a_stream_that_is_never_begun(capsys):
    """A stream that nobody iterates shows nothing."""
    async with Pool() as pool:
        await pool.stream(double, [1], progress=True).aclose()
    assert not lines_of(capsys)


async def test_progress_of_a_dropped_stream(shop, capsys):
    """The line of a stream that is dropped half way ends with it."""
    async with Pool(limit=1) as pool:
        stream = pool.stream(shop.work, Numbers(), progress=True, name="work")
        shop.let(0)
        assert await anext(stream) == 0
        del stream
        gc.collect()
        await wait_until(lambda: not pool.statistics().running, "the stream to be stopped")
    assert lines_of(capsys)[-1].startswith("work: 1 in ")


async def by_map(pool):
    return await pool.map(turn_then, range(3), progress=True)


async def by_stream(pool):
    async with pool.stream(turn_then, range(3), progress=True) as stream:
        return [value async for value in stream]


async def by_outcomes(pool):
    stream = pool.stream(turn_then, Source(3).items(), progress=True)
    return [outcome.value async for outcome in stream.outcomes()]


@pytest.mark.parametrize("verb", [by_map, by_stream, by_outcomes])
async def test_cancelled_at_every_step_no_meter_goes_on(verb, monkeypatch, capsys):
    """Wherever a verb is cancelled its meter has ended when nothing of it is left in the pool."""
    begun = []

    def note(name, counts):
        begun.append(Meter(name, counts))
        return begun[-1]

    async def check(task, step):
        await settled(pool)
        assert is_cancelled(task) or task.result() == [0, 1, 2]
        assert all(each._display is None and each._timer is None for each in begun), step

    monkeypatch.setattr("aiopool._run.verbs.Meter", note)
    async with Pool(limit=2) as pool:
        assert await sweep(lambda: verb(pool), check) > 5
    assert begun
    assert capsys.readouterr().err


# --- whose fault is whose -------------------------------------------------------------------


class Broken:
    """A stream that takes so many texts and no more."""

    def __init__(self, good=0):
        self.good = good

    def write(self, text):
        self.good -= 1
        if self.good < 0:
            raise RuntimeError(text)


@pytest.mark.parametrize("good", [0, 1])
async def test_a_broken_stream_breaks_no_work(good, monkeypatch, caplog):
    """A line that cannot be written ends the display and not the work, and is logged once."""
    monkeypatch.setattr(sys, "stderr", Broken(good))
    async with Pool() as pool:
        assert await pool.map(double, [1, 2], progress=True) == [2, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "the progress display of double ended"
    ]


async def test_logging_that_breaks_with_the_stream_breaks_no_work(monkeypatch):
    """Where the complaint cannot be written either, the work goes on."""
    monkeypatch.setattr(sys, "stderr", Broken())
    logger = logging.getLogger("aiopool")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        async with Pool() as pool:
            assert await pool.map(double, [1, 2], progress=True) == [2, 4]
    finally:
        logger.removeHandler(handler)


async def test_nothing_where_there_is_no_stderr(monkeypatch, caplog):
    """Where stderr is None, as without a console, nothing is shown and nothing is said."""
    monkeypatch.setattr(sys, "stderr", None)
    async with Pool() as pool:
        assert await pool.map(double, [1, 2], progress=True) == [2, 4]
    assert not caplog.records


async def test_nothing_where_stderr_is_closed(monkeypatch, tmp_path, caplog):
    """Where stderr is closed nothing is shown and nothing is said."""
    with (tmp_path / "err").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
    async with Pool() as pool:
        assert await pool.map(double, [1, 2], progress=True) == [2, 4]
    assert not caplog.records


async def test_counts_that_fail_end_the_display(capsys, caplog):
    """What `counts` raises ends the display, is logged, and does not reach the block."""
    answers = iter([(0, 2), (0, 2)])
    with Meter("mine", lambda: next(answers)):
        pass
    assert lines_of(capsys) == ["mine: 0 of 2"]
    assert "the progress display of mine ended" in caplog.text


# --- a meter --------------------------------------------------------------------------------


async def test_a_meter_of_ones_own(capsys):
    """A meter shows whatever is counted, with what else there is to say beside it."""
    loaded = 0
    with Meter("rows", lambda: (loaded, None, f"{loaded} good", "below")):
        loaded = 1_200
    assert lines_of(capsys)[0] == "rows: 0, 0 good"


def test_a_meter_needs_a_loop():
    """Without a running event loop a meter cannot begin."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        Meter("x", lambda: (0, None)).begin()


async def test_a_meter_looks_again(capsys, monkeypatch):
    """While its block runs a meter looks again and again, and no more once it has ended."""
    monkeypatch.setattr("aiopool._run.screen._LINE_EVERY", 0.001)
    looked = 0

    def counts():
        nonlocal looked
        looked += 1
        return looked, None

    with Meter("x", counts):
        await wait_until(lambda: looked > 4)
    last = looked
    await asyncio.sleep(0.01)
    assert looked == last
    assert len(lines_of(capsys)) == last - 1, "one look is for where it began"


async def test_slow_looks_are_rare(monkeypatch, capsys):
    """Looking and drawing take a hundredth of the time at most."""
    used = 0.0

    def counts():
        nonlocal used
        used += 0.5
        return 0, 1

    monkeypatch.setattr(meter, "thread_time", lambda: used)
    slow = Meter("slow", counts)
    slow.begin()
    slow._look()
    pause = slow._timer.when() - asyncio.get_running_loop().time()
    assert 40 < pause < 60
    slow.end()
    assert slow._timer is None


PACES = [
    ([(0.0, 0, 100)], "0 of 100"),
    ([(2.0, 10, 100)], "10 of 100, 5/s, 0:00:18 left"),
    ([(2.0, 10, None)], "10, 5/s"),
    ([(1.0, 50_000, 60_000)], "50,000 of 60,000, 50,000/s, 0.2 s left"),
    ([(100.0, 1, 2)], "1 of 2, 0.01/s, 0:01:40 left"),
    ([(100.0, 100, None), (200.0, 100, None)], "100"),
    ([(10.0, 1_000, None), (41.0, 1_310, None), (42.0, 1_320, None)], "1,320, 10/s"),
]


@pytest.mark.parametrize(("looks", "words"), PACES)
def test_what_a_pace_is_in_words(looks, words):
    """The rate is that of the last half minute, and the time left follows from it."""
    pace = meter._Pace(0, 0.0)
    for now, done, total in looks:
        said = pace.words(done, total, now, last=False)
    assert said == words


def test_the_last_words():
    """In the end it is the rate over the whole time, from where the count began."""
    pace = meter._Pace(100, 1.0)
    pace.words(150, 300, 2.0, last=False)
    assert pace.words(300, 300, 101.0, last=True) == "300 of 300 in 0:01:40, 2/s"
    assert meter._Pace(0, 1.0).words(0, 0, 1.0, last=True) == "0 of 0 in 0.0 s"
