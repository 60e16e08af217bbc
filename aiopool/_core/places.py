"""The places of a task group with a ``limit``, and the line of those who wait for one.

The order is the one of ``TurnQueue``: ``since + priority * aging``, first in, first out among
equals. Those of one priority come in the order of their age, so they stand in a plain deque, and
only the heads of these deques are compared: a waiting child costs eight bytes here and no time,
however many there are, as long as the priorities in use are few.

Leaving the line is lazy: who is not ``lined`` any more is skipped, and never lines up again at the
same priority. No clock: ``since`` is seconds on whatever monotonic clock the shell keeps.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SWEEP_AT: Final = 64


class Entrant(Protocol):
    """Who waits for a place."""

    lined: bool
    """Whether it stands in line; the line's own business."""

    @property
    def since(self) -> float:
        """When it came."""

    @property
    def priority(self) -> int:
        """Lower comes first."""

    def enter(self) -> None:
        """It has a place."""


@final
class Places:
    """So many places, and a line."""

    __slots__ = ("_aging", "_lines", "_standing", "capacity", "running", "waiting")

    def __init__(self, capacity: float, aging: float) -> None:
        self.capacity = capacity
        self.running = 0  # places taken; may pass ``capacity`` when a lent one is forced back
        self.waiting = 0  # entrants in line
        self._aging = aging
        self._lines: dict[int, deque[Entrant]] = {}  # by priority; none is empty
        self._standing = 0  # in all of the lines, with those who have left

    @property
    def has_room(self) -> bool:
        """Whether a place is free."""
        return self.running < self.capacity

    def __iter__(self) -> Iterator[Entrant]:
        """Those in line, in no particular order."""
        return (each for line in self._lines.values() for each in line if each.lined)

    def push(self, entrant: Entrant) -> None:
        """Put somebody in line, by priority and age."""
        priority = entrant.priority
        line = self._lines.get(priority)
        if line is None:
            line = self._lines[priority] = deque()
        since = entrant.since
        if line and line[-1].since > since:  # it has been in line before
            place = len(line) - 1
            while place and line[place - 1].since > since:
                place -= 1
            line.insert(place, entrant)
        else:
            line.append(entrant)
        entrant.lined = True
        self.waiting += 1
        self._standing += 1

    def remove(self, entrant: Entrant) -> None:
        """Let somebody leave the line for good."""
        entrant.lined = False
        self.waiting -= 1
        if self._standing > 2 * self.waiting + _SWEEP_AT:
            self._sweep()

    def reprioritise(self, entrant: Entrant, old: int) -> None:
        """The priority of somebody in line was ``old``: move it where it belongs now."""
        line = self._lines[old]
        line.remove(entrant)
        self.waiting -= 1
        self._standing -= 1
        if not line:
            del self._lines[old]
        self.push(entrant)

    def peek(self) -> Entrant | None:
        """Who is next, None if nobody waits."""
        return self._lines[self._next()][0] if self.waiting else None

    def take(self) -> Entrant | None:
        """Give the next in line a free place, None if there is nobody or no place."""
        if self.running >= self.capacity or not self.waiting:
            return None
        priority = self._next()
        line = self._lines[priority]
        entrant = line.popleft()
        if not line:
            del self._lines[priority]
        self._standing -= 1
        entrant.lined = False
        self.waiting -= 1
        self.running += 1
        return entrant

    def outranks(self, priority: int) -> bool:
        """Whether the next in line is more important than that."""
        if not self.waiting or min(self._lines) >= priority:
            return False
        head = self.peek()
        return head is not None and head.priority < priority

    def _next(self) -> int:
        """The priority of the next, who stands at the head of that line. Somebody waits."""
        if len(self._lines) == 1:
            (priority,) = self._lines
            if not self._lines[priority][0].lined:
                self._head(priority)
            return priority
        heads = ((each, self._head(each)) for each in list(self._lines))
        return min((self._key(head), each) for each, head in heads if head is not None)[1]

    def _key(self, entrant: Entrant) -> tuple[float, float]:
        if self._aging == inf:
            return entrant.priority, entrant.since
        return entrant.since + entrant.priority * self._aging, entrant.since

    def _head(self, priority: int) -> Entrant | None:
        line = self._lines[priority]
        while line and not line[0].lined:
            line.popleft()
            self._standing -= 1
        if line:
            return line[0]
        del self._lines[priority]
        return None

    def _sweep(self) -> None:
        kept = {
            key: deque(each for each in line if each.lined) for key, line in self._lines.items()
        }
        self._lines = {key: line for key, line in kept.items() if line}
        self._standing = self.waiting

    def validate(self) -> None:
        """Raise AssertionError unless what always holds holds."""
        assert self.running >= 0, self.running
        assert self.waiting == sum(1 for _ in self), self.waiting
        assert self._standing == sum(map(len, self._lines.values())), self._standing
        for priority, line in self._lines.items():
            assert line, f"an empty line of priority {priority}"
            ages = [each.since for each in line]
            assert ages == sorted(ages), ages
            assert all(each.priority == priority for each in line if each.lined), priority
