"""Runs the interpreter's own tests of process pools with `PoolExecutor` in their place.

`python -m tests.e2e.cpython_executor METHOD PART PARTS` runs every so many of those for one start
method, from that one on, and prints what ran as JSON. The tests of the standard library are left as
they are, except for those in `LEFT_OUT`, and for programs they start, which get the same
replacement.
"""

import concurrent.futures
import importlib.util
import json
import sys
import unittest

from aiopool import PoolExecutor
from aiopool._backends import launch  # has the real one before it is replaced
from tests.helpers import ROOT

PRIVATE = "reads private attributes of the standard library's executor"
WHOLE_POOL = "expects a whole pool broken by one call that does not unpickle"

# By the end of the test's name.
LEFT_OUT = {
    "test_killed_child": PRIVATE,  # _processes; and expects the pool broken
    "test_traceback": PRIVATE,  # that the cause is its own _RemoteTraceback
    "test_saturation": PRIVATE,  # _max_workers, _processes
    "test_idle_process_reuse_one": PRIVATE,  # the same
    "test_idle_process_reuse_multiple": PRIVATE,  # the same
    "test_max_tasks_per_child": PRIVATE,  # _processes
    "test_max_tasks_per_child_defaults_to_spawn_context": PRIVATE,  # _mp_context
    "test_processes_terminate": PRIVATE,  # _processes
    "test_context_manager_shutdown": PRIVATE,  # _processes
    "test_del_shutdown": PRIVATE,  # _executor_manager_thread
    "test_shutdown_no_wait": PRIVATE,  # the same
    "test_shutdown_deadlock_pickle": PRIVATE,  # the same
    "FailingInitializerTest.test_initializer": PRIVATE,  # _broken
    "test_exit_at_task_unpickle": WHOLE_POOL,
    "test_error_at_task_unpickle": WHOLE_POOL,
    "test_error_during_result_unpickle_in_result_handler": WHOLE_POOL,
    "test_exit_during_result_unpickle_in_result_handler": WHOLE_POOL,
}


class ProcessPoolExecutor(PoolExecutor):
    """The standard library's name, and its name of one parameter."""

    def __init__(self, *args, max_tasks_per_child=None, **options):
        super().__init__(*args, max_tasks_per_worker=max_tasks_per_child, **options)


def install():
    assert launch.ProcessPoolExecutor is not ProcessPoolExecutor
    concurrent.futures.ProcessPoolExecutor = ProcessPoolExecutor
    concurrent.futures.process.ProcessPoolExecutor = ProcessPoolExecutor


def is_available():
    """Tell whether this installation has the tests: many leave them out."""
    try:
        return importlib.util.find_spec("test.test_concurrent_futures") is not None
    except ModuleNotFoundError:
        return False


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def chosen(method):
    """Give the tests of process pools with this start method, and those left out."""
    module = importlib.import_module("test.test_concurrent_futures")
    loaded = unittest.defaultTestLoader.loadTestsFromModule(module)
    name = f"ProcessPool{method.capitalize()}"
    tests = [test for test in flat(loaded) if belongs(type(test).__name__, name)]
    left_out = [test for test in tests if test.id().endswith(tuple(LEFT_OUT))]
    return [test for test in tests if test not in left_out], left_out


def belongs(class_name, name):
    return class_name.startswith(name) and not class_name.startswith(f"{name}server")


def replace_in_programs(test):
    """Have programs that a test starts use the replacement, too."""
    module = sys.modules[type(test).__module__]
    original = getattr(module, "assert_python_ok", None)
    if original is None or hasattr(original, "replaced"):
        return

    def replaced(dash_c, source, **environment):
        head = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        head += f"from {__spec__.name} import install; install()\n"
        return original(dash_c, head + source, **environment)

    replaced.replaced = True
    module.assert_python_ok = replaced


def main(method, part, parts):
    install()
    tests, left_out = chosen(method)
    tests, left_out = (each[int(part) :: int(parts)] for each in (tests, left_out))
    for test in tests:
        replace_in_programs(test)
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(tests))
    found = {
        "ran": [test.id() for test in tests],
        "skipped": [[str(test), reason] for test, reason in result.skipped],
        "failed": [str(test) for test, _ in result.failures + result.errors],
        "left_out": [test.id() for test in left_out],
    }
    print()  # the tests leave their last line open
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
