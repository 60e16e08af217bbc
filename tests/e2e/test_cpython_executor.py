"""The standard library's own tests of process pools pass with `PoolExecutor` in their place."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e import cpython_executor
from tests.helpers import run_python

METHODS = ["fork", "forkserver", "spawn"]

pytestmark = pytest.mark.skipif(
    not cpython_executor.is_available(),
    reason="this Python was installed without its test.test_concurrent_futures",
)


def run(method):
    done = run_python("-m", cpython_executor.__name__, method, patience=300)
    assert done.returncode == 0, done.stderr
    print(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    """Run the tests of all start methods side by side, as they sleep a lot."""
    with ThreadPoolExecutor(len(METHODS)) as threads:
        yield dict(zip(METHODS, threads.map(run, METHODS), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_they_pass(method, found):
    """All tests of this start method pass but those left out, and hardly any is skipped."""
    assert found[method]["failed"] == []
    assert found[method]["ran"] >= 40
    assert len(found[method]["skipped"]) <= 3


def test_none_is_left_out_in_vain(found):
    """Each test named as left out exists."""
    ids = [name for each in found.values() for name in each["left_out"]]
    for name in cpython_executor.LEFT_OUT:
        assert any(each.endswith(name) for each in ids), name
