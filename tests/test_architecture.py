"""Holds the rooms, the direction of imports and the sizes that docs/architecture.md describes.

Each rule is a function that takes a package and gives the offences against it, one line each;
a test asserts that aiopool has none, and the last tests that an imaginary package's are seen.
"""

import ast
import re
import statistics
import tomllib
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.architecture import FUNCTIONS, Import, Package
from tests.helpers import ROOT

AIOPOOL = Package(ROOT / "aiopool")

# Which room may import from which, beside itself. `facts` are errors.py and events.py, the
# facade is __init__.py, the cli is cli.py, __main__.py and _cli, an add-on any other public file.
# Some add-ons have a room of their own behind them, which nobody else looks into.
MAY_IMPORT = {
    "facts": set(),
    "_core": {"facts"},
    "_wire": {"facts"},
    "_worker": {"_wire", "facts"},
    "_backends": {"_worker", "_wire", "_core", "facts"},
    "_run": {"_backends", "_worker", "_wire", "_core", "facts"},
    "facade": {"_run", "_backends", "_worker", "_wire", "_core", "facts"},
    "add-on": {"facade", "facts"},
    "_spool": {"facts"},
    "spool": {"_spool", "facade", "facts"},
    "_journal": {"facade", "facts"},
    "_asgi": {"facade", "facts"},
    "cli": {"spool", "_journal", "add-on", "facade", "facts"},
}
# Public files that are no add-ons, or are the front of a room of their own.
ROOMS_OF_FILES = {
    "errors": "facts",
    "events": "facts",
    "spool": "spool",
    "journal": "_journal",
    "asgi": "_asgi",
    "cli": "cli",
    "__main__": "cli",
}
# One public file each, that does not lean on its neighbours.
NO_NEIGHBOURS = {"add-on"}

# What a room must not import from outside the package.
FORBIDDEN = {
    "_core": {
        "asyncio",
        "multiprocessing",
        "os",
        "signal",
        "socket",
        "subprocess",
        "threading",
        "time",
    },
    "_wire": {"asyncio"},
    "_worker": {"asyncio"},
}
# What a room must not import from inside the package although its room is allowed.
FORBIDDEN_INSIDE = {"_worker": {"aiopool.events"}}
STANDARD_LIBRARY_ONLY = {"_spool", "_worker"}

# Third-party engines: the name imported -> the name in pyproject.toml. Each has one file; the
# command line, which nothing else is built on, may have one of its own.
ENGINES = {
    "aiolimiter": "aiolimiter",
    "anyio": "anyio",
    "cloudpickle": "cloudpickle",
    "distributed": "distributed",
    "rich": "rich",
    "starlette": "starlette",
    "tenacity": "tenacity",
    "typer": "typer",
    "uvloop": "uvloop",
    "watchfiles": "watchfiles",
}

# Names under which things gather that belong elsewhere.
NO_ROOM_FOR = {"common", "helpers", "misc", "util", "utils"}

LONGEST_FILE = 400
LONGEST_FUNCTION = 40
MEDIAN_FUNCTION = 7
NINTH_DECILE = 22


def room_of(module):
    """Give the room of a module of aiopool by its dotted name, None if it has none."""
    parts = module.split(".")[1:]
    if not parts:
        return "facade"
    if parts[0] == "_cli":
        return "cli"
    if parts[0].startswith("_") and parts[0] != "__main__":
        return parts[0] if parts[0] in MAY_IMPORT else None
    if len(parts) > 1:
        return None
    return ROOMS_OF_FILES.get(parts[0], "add-on")


# --- rules ----------------------------------------------------------------------------------


def modules_without_a_room(package):
    for module in package.modules:
        if room_of(module.name) is None:
            yield f"{module} is in no room: {', '.join(MAY_IMPORT)}"


def imports_against_the_direction(package):
    for module, found in inner_imports(package):
        room, target = room_of(module.name), room_of(found.module)
        if not may_import(room, target, found.module):
            allowed = ", ".join(sorted(MAY_IMPORT.get(room, ()))) or "nothing"
            yield (
                f"{module}:{found.line} imports {found.module} ({target}); "
                f"{room} may import from {allowed}"
            )


def may_import(room, target, module):
    if module in FORBIDDEN_INSIDE.get(room, ()):
        return False
    if room == target:
        return room not in NO_NEIGHBOURS
    return target in MAY_IMPORT.get(room, ())


def forbidden_imports(package):
    for module in package.modules:
        forbidden = FORBIDDEN.get(room_of(module.name), set())
        for found in module.imports:
            if found.top in forbidden:
                yield f"{module}:{found.line} imports {found.module}"


def third_party_imports_of_workers(package):
    for module, found in outer_imports(package):
        if room_of(module.name) in STANDARD_LIBRARY_ONLY:
            yield f"{module}:{found.line} imports {found.module}, which is not standard library"


def engines_in_several_files(package):
    """The command line is a program beside the library: it may have a home of its own for one."""
    for engine, modules in engines(package).items():
        cli = {module for module in modules if room_of(module.name) == "cli"}
        for several in (modules - cli, cli):
            if len(several) > 1:
                yield f"{engine} is imported in {', '.join(sorted(map(str, several)))}"


def engines_nobody_declared(package):
    for module, found in outer_imports(package):
        if found.top not in ENGINES:
            yield f"{module}:{found.line} imports {found.module}, which ENGINES does not know"


def import_cycles(package):
    """Give a cycle of imports that happen; those for type checkers may close one."""
    graph = {module.name: set() for module in package.modules}
    for module, found in inner_imports(package):
        if not found.for_types:
            graph[module.name].add(found.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield " imports ".join(reversed(error.args[1]))


def long_files(package):
    for module in package.modules:
        if module.line_count > LONGEST_FILE:
            yield f"{module} has {module.line_count} lines, more than {LONGEST_FILE}"


def long_functions(package):
    for module in package.modules:
        for function in module.functions:
            if function.length > LONGEST_FUNCTION:
                yield (
                    f"{module}:{function.line} {function.name} has {function.length} lines, "
                    f"more than {LONGEST_FUNCTION}"
                )


def badly_named_files(package):
    for module in package.modules:
        if module.path.stem in NO_ROOM_FOR:
            yield f"{module} does not say what it is for"


def inner_imports(package):
    for module in package.modules:
        for found in module.imports:
            if found.top == package.root.name:
                yield module, found


def outer_imports(package):
    for module in package.modules:
        for found in module.imports:
            if found.is_third_party and found.top != package.root.name:
                yield module, found


def engines(package):
    """Map every engine in use to the modules that import it."""
    users = {}
    for module, found in outer_imports(package):
        users.setdefault(found.top, set()).add(module)
    return users


RULES = [
    modules_without_a_room,
    imports_against_the_direction,
    forbidden_imports,
    third_party_imports_of_workers,
    engines_in_several_files,
    engines_nobody_declared,
    import_cycles,
    long_files,
    long_functions,
    badly_named_files,
]


# --- aiopool --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_aiopool_keeps(rule):
    """No module of aiopool offends against the rule."""
    offences = list(rule(AIOPOOL))
    assert not offences, "\n".join([f"{rule.__name__.replace('_', ' ')}:", *offences])


def test_every_dependency_is_used():
    """Whatever aiopool cannot be installed without is imported by exactly one of its files."""
    required = {re.match(r"[\w.-]+", line)[0] for line in project()["dependencies"]}
    users = {ENGINES[engine]: modules for engine, modules in engines(AIOPOOL).items()}
    unused = {name for name in required if len(users.get(name, ())) != 1}
    assert not unused, f"imported by no file or by several: {unused}"


def test_every_engine_is_declared():
    """Every third-party package in use is a dependency or belongs to an extra."""
    extras = project()["optional-dependencies"]
    lines = [*project()["dependencies"]]
    lines += [line for name, extra in extras.items() if name != "test" for line in extra]
    declared = {re.match(r"[\w.-]+", line)[0] for line in lines}
    assert {ENGINES[engine] for engine in engines(AIOPOOL)} <= declared


def test_functions_are_short():
    """Half of the functions have at most 7 lines, nine of ten at most 22."""
    lengths = [function.length for module in AIOPOOL.modules for function in module.functions]
    deciles = statistics.quantiles(lengths, n=10, method="inclusive")
    assert statistics.median(lengths) <= MEDIAN_FUNCTION
    assert deciles[8] <= NINTH_DECILE


def test_every_test_says_what_it_shows():
    """The docstring of every test is a single sentence."""
    offences = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, FUNCTIONS) and node.name.startswith("test_"):
                docstring = ast.get_docstring(node)
                if not is_one_sentence(docstring):
                    place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                    offences.append(f"{place}: {docstring or 'no docstring'}")
    assert not offences, "\n".join(["not a single sentence:", *offences])


def is_one_sentence(text):
    if not text or "\n\n" in text or not text.endswith("."):
        return False
    plain = text.replace("e.g. ", "").replace("i.e. ", "")
    return re.search(r"[.!?]['\")`]*\s+[A-Z]", plain) is None


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# --- the rules themselves -------------------------------------------------------------------


IMAGINARY = {
    "an upward import": (
        imports_against_the_direction,
        {"_core/queue.py": "from aiopool._run import pool", "_run/pool.py": ""},
        "aiopool/_core/queue.py:1 imports aiopool._run.pool (_run); _core may import from facts",
    ),
    "an upward import for types": (
        imports_against_the_direction,
        {
            "_wire/framing.py": (
                "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n"
                "    from .._core.queue import Queue"
            ),
            "_core/queue.py": "",
        },
        (
            "aiopool/_wire/framing.py:3 imports aiopool._core.queue (_core); "
            "_wire may import from facts"
        ),
    ),
    "an upward import by name": (
        imports_against_the_direction,
        {"_run/pool.py": "def f():\n    importlib.import_module('aiopool.progress')"},
        (
            "aiopool/_run/pool.py:2 imports aiopool.progress (add-on); "
            "_run may import from _backends, _core, _wire, _worker, facts"
        ),
    ),
    "an add-on that goes around the facade": (
        imports_against_the_direction,
        {"trace.py": "import aiopool._run.pool"},
        "aiopool/trace.py:1 imports aiopool._run.pool (_run); add-on may import from facade, facts",
    ),
    "an add-on that uses another": (
        imports_against_the_direction,
        {"trace.py": "from aiopool.progress import track", "progress.py": ""},
        (
            "aiopool/trace.py:1 imports aiopool.progress (add-on); "
            "add-on may import from facade, facts"
        ),
    ),
    "an add-on that uses the spool's room": (
        imports_against_the_direction,
        {"trace.py": "from aiopool._spool import claims", "_spool/claims.py": ""},
        (
            "aiopool/trace.py:1 imports aiopool._spool.claims (_spool); "
            "add-on may import from facade, facts"
        ),
    ),
    "a worker that uses events": (
        imports_against_the_direction,
        {"_worker/serve.py": "from aiopool import events", "events.py": ""},
        (
            "aiopool/_worker/serve.py:1 imports aiopool.events (facts); "
            "_worker may import from _wire, facts"
        ),
    ),
    "a clock in the core": (
        forbidden_imports,
        {"_core/queue.py": "def f():\n    from time import monotonic"},
        "aiopool/_core/queue.py:2 imports time",
    ),
    "a part of asyncio on the wire": (
        forbidden_imports,
        {"_wire/framing.py": "import asyncio.streams"},
        "aiopool/_wire/framing.py:1 imports asyncio.streams",
    ),
    "a worker with an engine": (
        third_party_imports_of_workers,
        {"_worker/serve.py": "import cloudpickle"},
        "aiopool/_worker/serve.py:1 imports cloudpickle, which is not standard library",
    ),
    "an engine in two files": (
        engines_in_several_files,
        {"_run/pool.py": "import anyio.abc", "_run/handle.py": "from anyio import sleep"},
        "anyio is imported in aiopool/_run/handle.py, aiopool/_run/pool.py",
    ),
    "an engine in two files of the command line": (
        engines_in_several_files,
        {
            "_run/meter.py": "import rich",
            "cli.py": "import rich",
            "__main__.py": "from rich import table",
        },
        "rich is imported in aiopool/__main__.py, aiopool/cli.py",
    ),
    "an engine nobody knows": (
        engines_nobody_declared,
        {"_run/pool.py": "import numpy.linalg"},
        "aiopool/_run/pool.py:1 imports numpy.linalg, which ENGINES does not know",
    ),
    "a cycle": (
        import_cycles,
        {
            "_run/a.py": "from . import b",
            "_run/b.py": "from aiopool._run.a import thing",
        },
        "aiopool._run.a imports aiopool._run.b imports aiopool._run.a",
    ),
    "a file that is too long": (
        long_files,
        {"_run/pool.py": "\n" * 401},
        "aiopool/_run/pool.py has 401 lines, more than 400",
    ),
    "a function that is too long": (
        long_functions,
        {"_run/pool.py": "def f():\n    '''Two\n    lines.'''\n" + "    pass\n" * 40},
        "aiopool/_run/pool.py:1 f has 41 lines, more than 40",
    ),
    "a drawer": (
        badly_named_files,
        {"_run/utils.py": ""},
        "aiopool/_run/utils.py does not say what it is for",
    ),
    "a file without a room": (
        modules_without_a_room,
        {"_stuff/thing.py": ""},
        (
            "aiopool/_stuff/thing.py is in no room: "
            "facts, _core, _wire, _worker, _backends, _run, facade, add-on, "
            "_spool, spool, _journal, _asgi, cli"
        ),
    ),
}


@pytest.mark.parametrize(("rule", "files", "offence"), IMAGINARY.values(), ids=IMAGINARY)
def test_an_offence_is_seen(tmp_path, rule, files, offence):
    """The rule names the offence of a package that differs from a good one in nothing else."""
    assert list(rule(imagine(tmp_path, files))) == [offence]


def test_a_good_package_has_no_offences(tmp_path):
    """A package that uses every permission of the rooms offends against no rule."""
    files = {
        "__init__.py": "from aiopool._run.pool import Pool",
        "errors.py": "",
        "events.py": "",
        "cli.py": "import typer\nfrom aiopool import errors\nfrom aiopool._cli import map",
        "_cli/map.py": "import rich\nfrom aiopool import progress",
        "progress.py": "import rich\nfrom aiopool import Pool",
        "_core/queue.py": "import heapq\nfrom aiopool import events",
        "_wire/framing.py": "import os\nimport cloudpickle",
        "_worker/serve.py": "import os\nfrom aiopool._wire import framing\nimport aiopool.errors",
        "_backends/lane.py": "import asyncio\nfrom aiopool._worker import serve",
        "_run/pool.py": "from aiopool._backends.lane import Lane\nfrom . import handle",
        "_run/handle.py": "if TYPE_CHECKING:\n    from .pool import Pool",
    }
    package = imagine(tmp_path, files)
    assert {rule.__name__: list(rule(package)) for rule in RULES} == {
        rule.__name__: [] for rule in RULES
    }


def test_imports_are_read_as_they_are_written(tmp_path):
    """Every way to write an import is resolved to the module that it loads."""
    files = {
        "_run/__init__.py": "from .pool import Pool\nfrom .. import errors",
        "_run/pool.py": "from . import handle, nothing\nimport os.path as p",
        "_run/handle.py": "",
        "errors.py": "",
    }
    modules = {module.name: module for module in imagine(tmp_path, files).modules}
    assert modules["aiopool._run"].imports == [
        Import("aiopool._run.pool", 1, for_types=False),
        Import("aiopool.errors", 2, for_types=False),
    ]
    assert modules["aiopool._run.pool"].imports == [
        Import("aiopool._run.handle", 1, for_types=False),
        Import("aiopool._run", 1, for_types=False),
        Import("os.path", 2, for_types=False),
    ]


def imagine(folder, files):
    """Write an imaginary aiopool and read it."""
    for name, source in {"__init__.py": "", **files}.items():
        path = folder / "aiopool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return Package(folder / "aiopool")
