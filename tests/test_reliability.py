"""docs/reliability.md names tests that exist."""

import re

from tests.helpers import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def named():
    """Give the file and the name of every test on the page; a bare name follows its file's."""
    path = None
    for before, name in re.findall(r"`([\w/]*(?:\.py)?)::(\w+)`", PAGE.read_text()):
        path = before or path
        yield path, name


def is_defined(path, name):
    source = (ROOT / "tests" / path).read_text()
    return re.search(rf"^(async )?def {name}\(", source, re.MULTILINE) is not None


def test_every_test_on_the_page_exists():
    """Whatever test the page names is defined in the file that it names."""
    pairs = list(named())
    assert len(pairs) > 80
    missing = [f"{path}::{name}" for path, name in pairs if not is_defined(path, name)]
    assert missing == []


def test_every_row_is_on_the_page():
    """Every row of the tables of faults that tests are made from is covered by the page."""
    from tests.backends.test_faults import FAULTS
    from tests.e2e.test_faults_of_resources import REFUSALS

    rows = set()
    for first, last in re.findall(r"([A-I]\d+)(?:\u2013([A-I]\d+))?", PAGE.read_text()):
        end = int((last or first)[1:])
        rows.update(f"{first[0]}{number}" for number in range(int(first[1:]), end + 1))
    assert {row.split()[0] for row in (*FAULTS, *REFUSALS)} <= rows
