"""Files that wait, by name alone and in order, and the orders there are."""

from __future__ import annotations

import re
from bisect import bisect_left
from math import inf, isnan
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def by_name(name: str) -> str:
    """The order of names as people see it: ``2.task`` comes before ``10.task``."""
    # A number is led by the number of its digits, so that text sorts as numbers do.
    return re.sub(r"\d+", lambda found: f"{len(found[0].lstrip('0')):04}{found[0]}", name)


def by_number(pattern: str) -> Callable[[str], tuple[float, str]]:
    r"""An order by the number that a regular expression finds in a name, in its first group.

    Lower comes first, a name without one last, equal ones by name: ``by_number(r"-p(\d+)")``.
    Raises ValueError if the expression is none, or has no group.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    if not expression.groups:
        raise ValueError(rf"{pattern!r} has no group: put the number in brackets, as in 'p(\d+)'")

    def key(name: str) -> tuple[float, str]:
        found = expression.search(name)
        try:
            number = float(found[1]) if found else inf
        except (TypeError, ValueError):
            number = inf
        return inf if isnan(number) else number, by_name(name)

    return key


@final
class Line:
    """Names, each once, the one with the smallest key first.

    A sorted list: a hundred thousand names take 20 MB, and a place among them 30 µs to make.
    """

    def __init__(self, order: Callable[[str], Any]) -> None:
        self._order = order
        self._entries: list[tuple[Any, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str) -> None:
        """Let a name stand in line, unless it does."""
        entry = self._order(name), name
        place = bisect_left(self._entries, entry)
        if self._entries[place : place + 1] != [entry]:
            self._entries.insert(place, entry)

    def pop(self) -> str:
        """Remove the first name."""
        return self._entries.pop(0)[1]

    def replace(self, names: Iterable[str]) -> None:
        """Have exactly these names in line; cheap for those that are there."""
        wanted = set(names)
        entries = [entry for entry in self._entries if entry[1] in wanted]
        wanted.difference_update(name for _, name in entries)
        entries += [(self._order(name), name) for name in wanted]
        entries.sort()  # the first part is in order, which costs it nothing
        self._entries = entries
