"""Every script in the documentation runs, each in an interpreter of its own.

A block marked ```` ```python ```` is a script unless the line above it says `<!-- fragment -->`.
"""

import ast
import re

import pytest

from tests.e2e.programs import run_program
from tests.helpers import ROOT

pytestmark = pytest.mark.once

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(<!-- fragment -->\n)?```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(*, fragments):
    """Give the scripts, or the fragments, named by page and line."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if bool(block[1]) == fragments:
                line = text.count("\n", 0, block.start()) + 1
                yield pytest.param(block[2], id=f"{page.name}:{line}")


@pytest.mark.parametrize("source", list(blocks(fragments=False)))
def test_a_script_runs(source, tmp_path):
    """The script ends well and has nothing to complain about."""
    ended = run_program(tmp_path, source, head="", patience=120)
    assert ended.returncode == 0, ended.stderr
    assert not re.search("Traceback|ResourceWarning", ended.stderr), ended.stderr


@pytest.mark.parametrize("source", list(blocks(fragments=True)))
def test_a_fragment_is_python(source):
    """What is marked as a fragment can be parsed."""
    compile(source, "fragment", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def test_no_block_is_missed():
    """Every fence that says python belongs to a block that was found."""
    found = [*blocks(fragments=False), *blocks(fragments=True)]
    fences = sum(page.read_text(encoding="utf-8").count("```python") for page in PAGES)
    assert len(found) == fences
