"""CPython's own tests of asyncio.TaskGroup, those of this interpreter, run against aiopool's."""

import importlib.util
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import HAS_UVLOOP
from tests.helpers import run_python

SUITE = "test.test_asyncio.test_taskgroups"

# They await the refused coroutine afterwards, which aiopool has closed, as Python 3.13 does.
CLOSED_BEFORE_3_13 = {
    "test_taskgroup_finished",
    "test_taskgroup_not_entered",
    "test_taskgroup_without_parent_task",
    "test_taskgroup_no_create_task_after_failure",
}

PROGRAM = f"""
import asyncio, functools, logging, sys, unittest
import asyncio.taskgroups, aiopool

loop, factory, limit = sys.argv[1:]
group = aiopool.TaskGroup
if limit == "limited":
    group = functools.partial(aiopool.TaskGroup, limit=1000)
asyncio.taskgroups.TaskGroup = asyncio.TaskGroup = group
if loop == "uvloop":
    import uvloop
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

import {SUITE} as suite

async def be_eager(self):
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

cases = [c for c in vars(suite).values() if isinstance(c, type) and hasattr(c, "run")]
if factory == "eager":
    for case in cases:
        case.asyncSetUp = be_eager
logging.disable(logging.CRITICAL)
load = unittest.defaultTestLoader.loadTestsFromTestCase
result = unittest.TestResult()
unittest.TestSuite(load(case) for case in cases).run(result)
print(result.testsRun)
for test, _ in result.failures + result.errors:
    print(test.id().rpartition(".")[2])
"""

LOOPS = ["asyncio", "uvloop"] if HAS_UVLOOP else ["asyncio"]
FACTORIES = ["lazy", "eager"] if sys.version_info >= (3, 12) else ["lazy"]
WAYS = list(itertools.product(LOOPS, FACTORIES, ["unlimited", "limited"]))


@pytest.fixture(scope="module")
def results():
    """Give what became of the suite in each way, run side by side since it mostly sleeps."""
    try:
        found = importlib.util.find_spec(SUITE)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"this installation of Python comes without {SUITE}")
    with ThreadPoolExecutor(len(WAYS)) as threads:
        ends = threads.map(lambda way: run_python("-c", PROGRAM, *way), WAYS)
        return dict(zip(WAYS, ends, strict=True))


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_the_suite_passes(results, way):
    """All tests pass, but for the four of old Pythons that await a coroutine that was refused."""
    done = results[way]
    if "unexpected keyword argument 'eager_start'" in done.stderr and way[:2] == (
        "uvloop",
        "eager",
    ):
        pytest.skip("this uvloop cannot use this Python's eager task factory at all")
    assert done.returncode == 0, done.stderr
    run, *failed = done.stdout.split()
    assert int(run) >= 35
    assert set(failed) == (CLOSED_BEFORE_3_13 if sys.version_info < (3, 13) else set())
