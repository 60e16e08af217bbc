"""Looks after every test: both event loops, nothing left behind, no blocking call in a loop.

Order matters. `_no_leaks` is set up first and torn down last, after the event loop of an async
test is closed; `_no_pending_task` is torn down after all other async fixtures, while the loop
still runs.
"""

import asyncio
import importlib.util
import signal

import hypothesis
import pytest
import pytest_asyncio

from tests import leaks
from tests.blocking import BlockingGuard
from tests.helpers import Gate

# These machines are noisy: a slow example is not a wrong one.
hypothesis.settings.register_profile("aiopool", deadline=None, print_blob=True)
hypothesis.settings.load_profile("aiopool")

leaks.mark_session()
# A shell has what it runs in the background ignore Ctrl-C, and with it all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None
if HAS_UVLOOP:
    import uvloop

    # libuv opens a pipe of its own with the first loop and keeps it.
    uvloop.new_event_loop().close()

_guard = BlockingGuard()
_call_failed = pytest.StashKey[bool]()


def pytest_configure():
    _guard.install()


def pytest_unconfigure():
    _guard.uninstall()


# --- both loops -----------------------------------------------------------------------------


def pytest_asyncio_loop_factories():
    """Run every async test under asyncio's own loop and under uvloop.

    A test that is about one of them says `@pytest.mark.asyncio(loop_factories=["asyncio"])`.
    """
    return {"asyncio": asyncio.new_event_loop, "uvloop": _new_uvloop}


def pytest_collection_modifyitems(items):
    """Skip what asks for uvloop where there is none."""
    if HAS_UVLOOP:
        return
    for item in items:
        if hasattr(item, "callspec") and _new_uvloop in item.callspec.params.values():
            item.add_marker(pytest.mark.skip(reason="uvloop is not installed"))


def _new_uvloop():
    return uvloop.new_event_loop()


# --- nothing is left behind -----------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[_call_failed] = report.failed
    return report


def _complain(item, title, lines):
    """Fail the test; if it has failed already, only add the finding to its report."""
    if not lines:
        return
    text = "\n".join([f"{title}:", *lines])
    if item.stash.get(_call_failed, False):
        item.add_report_section("teardown", "what is left of the test", text)
    else:
        pytest.fail(text, pytrace=False)


@pytest.fixture(autouse=True)
def _no_leaks(request):
    """Fail a test after which a process, thread, descriptor or shared memory file is left."""
    before = leaks.Snapshot.take()
    yield
    _complain(request.node, "the test left behind", before.settle())


@pytest.fixture(autouse=True)
def _no_blocking_call(_no_leaks, request):
    """Fail a test during which aiopool blocked a running event loop."""
    _guard.take()
    yield
    _complain(request.node, "aiopool blocked the event loop", _guard.take())


@pytest.fixture(autouse=True)
def _watch_tasks(_no_leaks, request):
    """Ask for `_no_pending_task` where there is a loop."""
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("_no_pending_task")


@pytest.fixture
async def _no_pending_task(request):
    """Fail an async test at whose end another task than its own is pending."""
    yield
    pending = asyncio.all_tasks() - {asyncio.current_task()}
    if pending:
        _, pending = await asyncio.wait(pending, timeout=leaks.SETTLE)
    _complain(request.node, "the test left pending", [repr(task) for task in pending])


# --- fixtures to ask for --------------------------------------------------------------------


@pytest.fixture
def gate(tmp_path):
    """Give a `Gate` for worker calls, opened at the end of the test."""
    gate = Gate(tmp_path / "gate.marker", tmp_path / "gate.release")
    yield gate
    gate.open()


@pytest.fixture
def make_gate(tmp_path):
    """Give a function that makes any number of gates, opened at the end of the test."""
    gates = []

    def make():
        number = len(gates)
        gates.append(Gate(tmp_path / f"{number}.marker", tmp_path / f"{number}.release"))
        return gates[-1]

    yield make
    for gate in gates:
        gate.open()


@pytest.fixture
def inbox(tmp_path):
    """Give an empty folder beside which, on the same file system, other files can be."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder
