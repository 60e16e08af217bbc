"""The facade: which names there are, that they are described, and what importing it costs."""

import inspect
import os
import pkgutil
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

import aiopool
from tests.helpers import ROOT, run_python
from tests.test_architecture import ENGINES

ERRORS = {
    "AiopoolError",
    "JournalError",
    "JournalFull",
    "JournalLocked",
    "NotTransferable",
    "PoolClosed",
    "PoolFull",
    "RemoteError",
    "TaskTimeout",
    "WorkerCrashed",
}
PUBLIC = ERRORS | {
    "Meter",
    "Outcome",
    "Pool",
    "PoolExecutor",
    "PoolOptions",
    "PoolStatistics",
    "PoolView",
    "Priority",
    "Retry",
    "Shared",
    "Stream",
    "TaskGroup",
    "TaskHandle",
    "TaskOptions",
    "available_cpus",
    "checkpoint",
    "preserve",
    "restore",
    "run",
}
# Every spawned child pays for what the facade imports.
HEAVY = {
    "anyio",
    "asyncio",
    "cloudpickle",
    "concurrent.futures",
    "multiprocessing",
    "tenacity",
}
# A worker is started by `concurrent.futures` and `multiprocessing`, so it has those already.
HEAVY_FOR_A_WORKER = {"anyio", "asyncio", "cloudpickle", "tenacity"}

NEWLY_LOADED = """
import sys
before = set(sys.modules)
import {module}
print(*sorted(set(sys.modules) - before))
"""


def loaded_by(module):
    """Give the modules that importing this one adds to a fresh interpreter."""
    done = run_python("-c", NEWLY_LOADED.format(module=module))
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_public_names():
    """The facade exports exactly the names of the documented interface."""
    assert set(aiopool.__all__) == PUBLIC


def test_names_are_listed_once_and_in_order():
    """The list of exports is sorted and has no duplicates."""
    assert list(aiopool.__all__) == sorted(set(aiopool.__all__))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_name_resolves_and_is_described(name):
    """Every public name exists and the first line of its docstring is a sentence."""
    docstring = inspect.getdoc(getattr(aiopool, name))
    assert docstring
    assert docstring.splitlines()[0].endswith("."), docstring.splitlines()[0]


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_errors_share_one_root(name):
    """Every public error is an AiopoolError."""
    assert issubclass(getattr(aiopool, name), aiopool.AiopoolError)


def test_dir_lists_the_names_before_they_are_loaded():
    """Completion in a fresh interpreter offers every public name."""
    done = run_python("-c", "import aiopool; print(*dir(aiopool))")
    assert set(done.stdout.split()) >= PUBLIC


def test_star_import_gives_the_public_names():
    """A star import binds the public names and nothing else."""
    namespace = {}
    exec("from aiopool import *", namespace)
    assert namespace.keys() - {"__builtins__"} == PUBLIC


def test_an_unknown_name_is_an_attribute_error():
    """Asking the facade for what it does not have says so in the usual words."""
    with pytest.raises(AttributeError, match=r"module 'aiopool' has no attribute 'nothing'"):
        aiopool.nothing  # noqa: B018 - the access is the test


def test_the_facade_is_light():
    """Importing aiopool loads neither asyncio nor any engine."""
    assert loaded_by("aiopool") & HEAVY == set()


def test_a_worker_is_light():
    """Importing what a worker runs loads neither asyncio nor any engine of the parent."""
    assert loaded_by("aiopool._worker.serve") & HEAVY_FOR_A_WORKER == set()


def test_every_module_can_be_imported_first():
    """No module depends on another one having been imported before."""
    names = [module.name for module in pkgutil.walk_packages(aiopool.__path__, "aiopool.")]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        ends = threads.map(lambda name: run_python("-c", f"import {name}"), names)
    failed = {name: end.stderr for name, end in zip(names, ends, strict=True) if end.returncode}
    assert {name: text for name, text in failed.items() if not lacks_an_extra(text)} == {}


def lacks_an_extra(error_text):
    """Tell whether an import failed for want of a package that only an extra installs."""
    missing = re.search(r"ModuleNotFoundError: No module named '([^'.]+)", error_text)
    return missing is not None and missing[1] in ENGINES


def test_the_package_is_typed():
    """Type checkers are told that the annotations are there to be used."""
    assert (ROOT / "aiopool" / "py.typed").exists()
