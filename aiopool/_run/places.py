"""A child's place in a group with a ``limit``: lent and taken back as any seat is."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aiopool._backends.seats import Seat

if TYPE_CHECKING:
    from aiopool._core.places import Entrant
    from aiopool._run.floor import Floor


@final
class Turn:
    """A seat that stands in line to be taken again."""

    __slots__ = ("lined", "priority", "seat", "since")

    def __init__(self, seat: GroupSeat, since: float, priority: int) -> None:
        self.seat = seat
        self.since = since
        self.priority = priority
        self.lined = False

    def enter(self) -> None:
        """Its turn has come."""
        self.seat.seat_again()


@final
class GroupSeat(Seat):
    """The place of one child, for the time that it runs."""

    __slots__ = ("_child", "_floor", "_places")

    def __init__(self, floor: Floor, child: Entrant, outer: Seat | None) -> None:
        self.taken = True  # all of it here: a call less for every child that starts
        self.outer = outer
        self._lent = 0
        self._waiter = None
        self._places = floor.places
        self._floor = floor
        self._child = child

    def seat_again(self) -> None:
        """Its turn has come, and the place was counted in."""
        self._places.running -= 1  # taking the place back counts it
        super().seat_again()

    def _give(self) -> None:
        self._floor.left()

    def _get(self) -> None:
        self._places.running += 1

    def _has_room(self) -> bool:
        return self._places.has_room

    def is_outranked(self) -> bool:
        """Whether it is not lent and somebody more important than the child is next."""
        places = self._places
        return places.waiting > 0 and not self._lent and places.outranks(self._child.priority)

    def _line_up(self, since: float | None) -> Turn:
        turn = Turn(self, self._child.since if since is None else since, self._child.priority)
        self._floor.line_up(turn)
        return turn

    def _step_out(self, turn: Turn) -> None:
        if turn.lined:
            self._places.remove(turn)
