"""Reads a package's source for `test_architecture`: its modules, imports and functions.

Nothing is imported, so that a package that cannot be imported can still be judged.
"""

import ast
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, by its full dotted name, and where that is written.

    `for_types` says that it stands under `if TYPE_CHECKING:` and never happens.
    """

    module: str
    line: int
    for_types: bool

    @property
    def top(self):
        return self.module.partition(".")[0]

    @property
    def is_third_party(self):
        return self.top not in sys.stdlib_module_names


@dataclass(frozen=True, slots=True)
class Function:
    """A function and its length in lines, from `def` to its end, without its docstring."""

    name: str
    line: int
    length: int


class Module:
    """One source file of a package."""

    def __init__(self, package, path):
        self.package = package
        self.path = path
        self.source = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.source, path)

    def __repr__(self):
        return self.shown

    @property
    def shown(self):
        """The path as failure messages show it."""
        return self.path.relative_to(self.package.root.parent).as_posix()

    @cached_property
    def name(self):
        parts = self.path.relative_to(self.package.root.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def line_count(self):
        return len(self.source.splitlines())

    @cached_property
    def imports(self):
        return list(self._imports_in(self.tree, for_types=False))

    @cached_property
    def functions(self):
        return [
            Function(node.name, node.lineno, length(node))
            for node in ast.walk(self.tree)
            if isinstance(node, FUNCTIONS) and not is_overload(node)
        ]

    def _imports_in(self, node, *, for_types):
        if isinstance(node, ast.If) and mentions(node.test, "TYPE_CHECKING"):
            for child in node.body:
                yield from self._imports_in(child, for_types=True)
            children = node.orelse
        else:
            yield from (Import(m, node.lineno, for_types) for m in self._modules_of(node))
            children = ast.iter_child_nodes(node)
        for child in children:
            yield from self._imports_in(child, for_types=for_types)

    def _modules_of(self, node):
        """Give the modules that one statement or call imports."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            origin = self._absolute(node)
            names = dict.fromkeys(self._submodule(origin, alias.name) for alias in node.names)
            return list(names)
        if isinstance(node, ast.Call) and mentions(node.func, "import_module", "__import__"):
            return [arg.value for arg in node.args[:1] if is_string(arg)]
        return []

    def _absolute(self, node):
        if not node.level:
            return node.module
        is_package = self.path.name == "__init__.py"
        parts = self.name.split(".")
        kept = parts[: len(parts) - node.level + is_package]
        return ".".join([*kept, *filter(None, [node.module])])

    def _submodule(self, origin, name):
        """Give `origin.name` if that is a module of this package, otherwise `origin`."""
        whole = f"{origin}.{name}"
        return whole if whole in self.package.names else origin


class Package:
    """All modules of a package, by name."""

    def __init__(self, root):
        self.root = Path(root)
        paths = sorted(self.root.rglob("*.py"))
        self.modules = [Module(self, path) for path in paths]
        self.names = {module.name for module in self.modules}


def mentions(node, *names):
    return getattr(node, "id", getattr(node, "attr", None)) in names


def is_string(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_overload(function):
    return any(mentions(decorator, "overload") for decorator in function.decorator_list)


def length(function):
    """Count the lines of a function, without those of its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines
