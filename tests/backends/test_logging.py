"""Log records and warnings of calls: under their logger, by the parent's levels and filters."""

import asyncio
import contextlib
import functools
import logging
import warnings

import pytest

import aiopool
from tests import jobs
from tests.backends import writers
from tests.helpers import wait_until

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def records():
    """Give the records that reach the root logger, whatever pytest does with them."""
    kept = []
    handler = logging.Handler()
    handler.emit = kept.append
    logging.getLogger().addHandler(handler)
    yield kept
    logging.getLogger().removeHandler(handler)


@contextlib.contextmanager
def level_of(name, level):
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield logger
    finally:
        logger.setLevel(before)


async def test_record(start_method, records):
    """A record arrives under its logger with level, text and fields, and tells of task and pid."""
    async with aiopool.Pool(1, mp_context=start_method) as pool:
        log = functools.partial(writers.log_at, shop="corner")
        args = (logging.WARNING, "%s of %d", "one", 2)
        pid = await pool.run(log, *args, name="a task")
        (record,) = records
        assert (record.name, record.levelname, record.getMessage()) == (
            "tests.writers",
            "WARNING",
            "one of 2",
        )
        assert (record.process, record.taskName) == (pid, "a task")
        assert record.shop == "corner"
        assert (record.funcName, record.module) == ("log_at", "writers")


async def test_record_is_there_before_the_value(records):
    """When a call's value is there, so are its records, in order."""
    async with aiopool.Pool(1) as pool:
        for n in range(5):
            await pool.run(writers.log_at, logging.ERROR, str(n))
            assert [record.msg for record in records] == [str(number) for number in range(n + 1)]
        assert {record.taskName for record in records} == {"log_at"}


async def test_exception(records):
    """The traceback of an exception that was logged arrives as text."""
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.log_failure, "it failed")
    (record,) = records
    text = logging.Formatter().format(record)
    assert text.startswith("it failed\nTraceback (most recent call last):")
    assert text.endswith("ValueError: inside")
    assert 'raise ValueError("inside")' in text


async def test_odd_records(records, capsys):
    """Fields that cannot be sent come as their repr, and a text that cannot be made is reported."""
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.log_odd_things)
    (record,) = records
    assert record.pair == (1, 2)
    assert record.lock.startswith("<unlocked _thread.lock")
    assert "--- Logging error ---" in capsys.readouterr().err


async def test_levels_are_those_of_the_parent(start_method, records):
    """Workers send what the parent's loggers let through when they start, and no more."""
    with level_of("tests", logging.DEBUG), level_of("tests.quiet", logging.ERROR):
        async with aiopool.Pool(1, mp_context=start_method) as pool:
            await pool.run(writers.log_at, logging.DEBUG, "fine")
            await pool.run(writers.log_at, 5, "too fine")
            for level in (logging.WARNING, logging.ERROR):
                await pool.run(log_quietly, level)
            await pool.run(log_elsewhere, logging.INFO)
    assert [record.getMessage() for record in records] == ["fine", f"quiet {logging.ERROR}"]


def log_quietly(level):
    logging.getLogger("tests.quiet").log(level, "quiet %d", level)


def log_elsewhere(level):
    logging.getLogger("elsewhere").log(level, "not wanted")


async def test_level_on_arrival(records):
    """The parent's logger is asked again when a record arrives."""
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.log_at, logging.WARNING, "before")
        with level_of("tests.writers", logging.CRITICAL) as logger:
            await pool.run(writers.log_at, logging.WARNING, "meanwhile")
            logger.setLevel(logging.NOTSET)
            logger.disabled = True
            await pool.run(writers.log_at, logging.WARNING, "disabled")
            logger.disabled = False
        await pool.run(writers.log_at, logging.WARNING, "after")
    assert [record.msg for record in records] == ["before", "after"]


@pytest.mark.parametrize("force", [False, True])
async def test_basic_config_in_a_call(force, records, capsys):
    """A call that configures logging does not make one record into two."""
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.configure_and_log, force)
    told = [record.msg for record in records]
    assert told == ([] if force else ["configured"])
    assert capsys.readouterr().err == ("mine: configured\n" if force else "")


async def test_handler_of_an_initializer(records):
    """A handler that the initializer adds gets the records beside the parent."""
    options = {"initializer": writers.add_handler, "initargs": ("tests",)}
    async with aiopool.Pool(1, **options) as pool:
        assert await pool.run(writers.log_through, "tests.writers") == ["through"]
    assert [record.msg for record in records] == ["through"]


async def test_thread_left_behind(make_gate, records):
    """A record of a thread tells of the task that started it while that runs, then of none."""
    gate = make_gate()
    async with aiopool.Pool(1) as pool:
        await pool.run(writers.start_late_talker, str(gate.release))
        pid = await pool.run(jobs.pid)
        gate.open()
        await wait_until(lambda: records and records[-1].msg == "late", "the late record")
    assert records[-1].taskName is None
    assert records[-1].process == pid


async def test_handler_that_raises():
    """A handler of the parent's that raises is reported once and harms no call."""
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    logger = logging.getLogger("tests.writers")
    logger.addFilter(_refuse)
    try:
        async with aiopool.Pool(1) as pool:
            for _ in range(3):
                assert await pool.run(writers.log_at, logging.ERROR, "refused")
    finally:
        logger.removeFilter(_refuse)
    assert [str(report["exception"]) for report in reports] == ["no records here"]


def _refuse(record):
    raise LookupError("no records here")


# --- warnings -------------------------------------------------------------------------------


async def test_warning(start_method):
    """A warning arrives with its text, category and place."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with aiopool.Pool(1, mp_context=start_method) as pool:
            await pool.run(writers.warn, "careful", RuntimeWarning)
            (warning,) = caught
            assert (str(warning.message), warning.category) == ("careful", RuntimeWarning)
            assert warning.filename == writers.__file__


async def test_warning_that_cannot_be_sent():
    """A warning that does not survive pickling arrives as its text, under its builtin base."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with aiopool.Pool(1) as pool:
            await pool.run(writers.warn_oddly)
    (warning,) = caught
    assert (str(warning.message), warning.category) == ("left and right", RuntimeWarning)


async def test_filters_of_the_parent():
    """The parent's filters decide what is shown, once for all workers where they say once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", "not this")
        async with aiopool.Pool(2) as pool:
            for text in ("not this", "but this", "but this"):
                await pool.run(writers.warn, text)
                for handle in [pool.submit(writers.warn, text) for _ in range(4)]:
                    await handle
    assert [str(warning.message) for warning in caught] == ["but this"]


async def test_filter_that_makes_errors():
    """A warning that a filter of the parent's would have raised is shown."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        async with aiopool.Pool(1) as pool:
            await pool.run(writers.warn, "careful")
    assert [str(warning.message) for warning in caught] == ["careful"]


async def test_filters_of_a_call():
    """A call that makes errors of warnings fails by them, and so does nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        async with aiopool.Pool(1) as pool:
            with pytest.raises(UserWarning, match="an error"):
                await pool.run(writers.warn_as_error, "an error")
            await pool.run(writers.warn, "a warning")
        assert warnings.filters == filters
    assert [str(warning.message) for warning in caught] == ["a warning"]
