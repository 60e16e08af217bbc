"""So many calls at once, in whatever venues they run: the ``limit`` of a view.

A workload that comes to the head of its venue's queue while the quota is used up is parked in a
line, one for each venue, and the queue goes on with the next. When a place is free the first of
each line goes back to the queue, at its age; which of them has it the venues decide as ever, and
who comes to the head too late is parked again. So no call is chosen before it can start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from aiopool._core.fairness import FairQueue
    from aiopool._core.scheduler import Venue
    from aiopool._core.workload import Workload


@final
class Quota:
    """What all calls made through one view may take at once."""

    __slots__ = ("capacity", "lines", "running")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.running = 0  # places taken; may pass ``capacity`` when a lent one is forced back
        self.lines: dict[Venue, FairQueue[Workload]] = {}  # what is parked; none is empty

    @property
    def has_room(self) -> bool:
        """Whether a place is free."""
        return self.running < self.capacity

    def release(self) -> None:
        """A place is free."""
        self.running -= 1
        for venue in tuple(self.lines):
            venue.admit(self)

    def __repr__(self) -> str:
        return f"<Quota {self.running} of {self.capacity}>"
