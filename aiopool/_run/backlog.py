"""The bound on what waits: who submits more than ``max_pending`` calls waits here, or is refused.

Those who wait are let in as calls are started: by priority with aging, tenants turn by turn.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, final

from aiopool._core.fairness import FairQueue
from aiopool._core.queue import TurnQueue
from aiopool._run.ticket import Turn
from aiopool.errors import PoolClosed, PoolFull, TaskTimeout

if TYPE_CHECKING:
    from aiopool._core.options import Settings
    from aiopool._run.engine import Engine


@final
class Place:
    """Where somebody stands in the line for room; an element of a queue, as a workload is."""

    __slots__ = ("entry", "priority", "settings", "ticket", "turn")

    ticket: Turn  # once in line, what is waited on

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.priority = settings.priority
        self.turn = 0.0  # when it came
        self.entry: tuple[Any, ...] | None = None


@final
class Backlog:
    """Lets calls in while fewer than ``bound`` wait for their turn."""

    def __init__(self, engine: Engine, bound: int | None, aging: float) -> None:
        self._engine = engine
        self._bound = bound
        self._line: FairQueue[Place] = FairQueue(TurnQueue(aging))
        self._granted = 0  # let in, and not yet among those who wait for their turn
        self._leaving = False
        if bound is not None:
            engine.on_room = self._let_in

    @property
    def is_open(self) -> bool:
        """Whether who enters now does not wait."""
        return self._bound is None or (not self._line.size and self._has_room())

    def admit(self) -> None:
        """Whether somebody new is welcome; raises ``PoolClosed`` or ``PoolFull`` if not."""
        if self._leaving:
            message = "this pool finishes what it was given and is closed then"
            raise PoolClosed(message)
        self.claim()

    def turn_away(self) -> None:
        """Have ``admit`` say no from now on."""
        self._leaving = True

    def claim(self) -> None:
        """Come in without waiting; raises ``PoolFull`` if there is no room."""
        if self._bound is not None and not self._has_room():
            self._engine.changed()  # what was submitted in this turn may be able to start
            if not self._has_room():
                raise PoolFull(self._bound)

    async def enter(self, name: str, settings: Settings, place: Place | None = None) -> None:
        """Come in, waiting for room if need be, up to the deadline; submit right after."""
        if self.is_open:
            return
        if place is None:
            place = Place(settings)
        place.turn = monotonic()
        place.ticket = ticket = Turn(self._engine.loop)
        self._line.push(place)
        self._engine.soon()
        timer = None
        if settings.deadline is not None:
            late = TaskTimeout(name, settings.deadline, "deadline")
            timer = self._engine.loop.call_later(settings.deadline, ticket.fail, late)
        try:
            await ticket
        finally:
            self._line.remove(place)
            if timer is not None:
                timer.cancel()
            if ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                self._granted -= 1
                self._engine.soon()

    def moved(self, place: Place, priority: int) -> None:
        """Who stands there, or has yet to come or has left, has another priority."""
        place.priority = priority
        if place.entry is not None:
            self._line.push(place)

    def refuse_all(self) -> None:
        """The pool is closing: nobody comes in any more."""
        for place in self._line:
            place.ticket.fail(PoolClosed("the pool was closed while this call waited for room"))

    def _has_room(self) -> bool:
        return self._bound is None or self._engine.pending + self._granted < self._bound

    def _let_in(self) -> None:
        while self._line.size and self._has_room():
            place = self._line.peek()
            assert place is not None
            if not place.ticket.done():
                self._granted += 1
                self._line.served(place, monotonic())
                place.ticket.conclude(None)
            self._line.remove(place)
