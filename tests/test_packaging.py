"""What the project file promises."""

import re
import tomllib

from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text_of(*path):
    return ROOT.joinpath(*path).read_text(encoding="utf-8")


def test_the_test_extra_is_the_test_group():
    """The suite needs the same packages whether installed as an extra or as a dependency group."""
    extra = PROJECT["project"]["optional-dependencies"]["test"]
    assert extra == PROJECT["dependency-groups"]["test"]


def test_the_automatic_run_tests_as_the_readme_says():
    """The command by which the README runs the tests is the one that is run automatically."""
    command = re.search(r"^readonly test_command='(.+)'$", text_of(".ci", "run"), re.MULTILINE)[1]
    assert command in text_of("README.md")


def test_the_readme_names_the_distribution():
    """The README tells how to install what is imported under another name."""
    assert PROJECT["project"]["name"] in text_of("README.md")
