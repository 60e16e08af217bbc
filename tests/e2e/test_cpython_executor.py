"""The standard library's own tests of process pools pass with `PoolExecutor` in their place.

By default with two start methods; `AIOPOOL_ALL_ROWS=1` adds spawn, which takes the longest.
"""

import itertools
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e import cpython_executor
from tests.helpers import run_python, wanted

METHODS = wanted(["fork", "forkserver", "spawn"], ["fork", "forkserver"])
PARTS = 4  # of each method's tests, all side by side, as they sleep a lot

pytestmark = pytest.mark.skipif(
    not cpython_executor.is_available(),
    reason="this Python was installed without its test.test_concurrent_futures",
)


def run(method, part):
    done = run_python("-m", cpython_executor.__name__, method, part, PARTS, patience=300)
    assert done.returncode == 0, done.stderr
    print(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    """Run the tests; for each start method, what ran, was skipped, failed, was left out."""
    runs = list(itertools.product(METHODS, range(PARTS)))
    with ThreadPoolExecutor(len(runs)) as threads:
        ends = list(threads.map(run, *zip(*runs, strict=True)))
    found = {method: defaultdict(list) for method in METHODS}
    for (method, _), end in zip(runs, ends, strict=True):
        for key, tests in end.items():
            found[method][key] += tests
    return found


@pytest.mark.parametrize("method", METHODS)
def test_they_pass(method, found):
    """All tests of this start method pass but those left out, and hardly any is skipped."""
    assert found[method]["failed"] == []
    assert len(found[method]["ran"]) >= 40
    assert len(found[method]["skipped"]) <= 3


def test_none_is_left_out_in_vain(found):
    """Each test named as left out exists."""
    ids = [name for each in found.values() for name in each["left_out"]]
    for name in cpython_executor.LEFT_OUT:
        assert any(each.endswith(name) for each in ids), name
