"""The floor of a task group: where its children wait for a place, and run.

Children that ``start_soon`` makes and coroutines that ``create_task`` holds back stand in one line
for the same places. With a pool every child is a call of that pool, from the moment its group gives
it a place. Without one, a coroutine that needs no engine, because it asks for no retry, timeout,
deadline or limiter, is run by its handle; others by an engine of the group's own; and the
first plain callable has the group open a pool, which ``close`` closes.
"""

from __future__ import annotations

import asyncio
import sys
from contextvars import copy_context
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._backends.tasks import TaskBackend
from aiopool._core.options import Settings
from aiopool._core.places import Places
from aiopool._core.scheduler import CountedVenue
from aiopool._run import calls
from aiopool._run.child import LoopChild, PoolChild
from aiopool._run.engine import Engine
from aiopool._run.functions import Functions
from aiopool._run.gate import Gate
from aiopool._run.lifecycle import Access, Lifecycle
from aiopool._run.news import News
from aiopool._run.settings import check_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Context, ContextVar

    from aiopool._backends.fleet import Fleet
    from aiopool._core.places import Entrant
    from aiopool._run.handle import TaskHandle

_DEFAULTS: Final = Settings()

_EAGER: Final = sys.version_info >= (3, 12)  # tasks can take their first step at once

_MOST_COMPARED: Final = 16
"""Context variables beyond which looking at them costs more than another copy."""


@final
class OwnParts:
    """What runs the coroutine calls of a group without a pool that need an engine."""

    def __init__(self, loop: asyncio.AbstractEventLoop, aging: float) -> None:
        self.defaults = _DEFAULTS
        self.engine = engine = Engine(loop, News(()))
        self.fleet: Fleet | None = None
        self.variables: tuple[ContextVar[Any], ...] = ()
        self.functions = Functions()
        self.plans: dict[int, calls.Plan] = {}
        engine.gate = partial(Gate.find, engine, most=1, aging=aging)
        venue = CountedVenue(sys.maxsize, aging)  # it is the group that counts
        engine.install("loop", venue, TaskBackend(engine, venue, loop))


@final
class Floor:
    """Starts a group's children, as many at once as it has places, and tells how each ended."""

    def __init__(  # noqa: PLR0913 - all but two by keyword
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Access | None,
        *,
        limit: int | None,
        aging: float,
        halts: bool,
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self.loop = loop
        self.task: Callable[..., asyncio.Task[Any]] = loop.create_task
        plain = loop.get_task_factory() is None
        if plain:  # then the loop does no more than this, and is slower
            self.task = partial(asyncio.Task, loop=loop)
        self._eager = plain and _EAGER
        self.limited = limit is not None
        self.places = Places(inf if limit is None else limit, aging)
        self.unfinished = 0  # children, whether they have a place or not
        self.running: set[LoopChild[Any] | PoolChild[Any]] = set()  # those that have one
        self._pool = pool
        self._own: OwnParts | None = None if pool is not None else OwnParts(loop, aging)
        self._owned: Lifecycle | None = None  # the pool that was opened for plain callables
        self._aging = aging
        self._halts = halts  # at the first failure
        self._halted = False  # nobody gets a place any more
        self._ended = ended
        self._age = 0.0
        self._context: Context | None = None  # that the child before was made in
        self._assigning = self._dirty = self._scheduled = False

    @property
    def is_own(self) -> bool:
        """Whether coroutines run here, beside what runs in pools."""
        return self._own is not None

    @property
    def in_pool(self) -> bool:
        """Whether children are waited for that may need the place of the call that waits."""
        return self._pool is not None and self.unfinished > 0

    def start(
        self, fn: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> TaskHandle[Any]:
        """Take in a child, or raise what ``pool.submit`` would."""
        own = self._own
        if own is not None and not options and (known := own.plans.get(id(fn))) is not None:
            return self._admit(LoopChild(self, known, args))
        if own is not None and _is_for_the_loop(own, fn, options):
            found = calls.plan(own, fn, options)
            if found.settings is _DEFAULTS or _is_simple(found.settings):
                calls.check_single(found)
                return self._admit(LoopChild(self, found, args))
            child = calls.single(own, fn, args, options, PoolChild)
        else:
            parts = (self._pool or self._open())._open_parts()  # noqa: SLF001 - a part of the pool
            child = calls.single(parts, fn, args, options, PoolChild)
            parts.backlog.claim()
        child.join(self, counted=own is not None or self.limited)
        return self._admit(child)

    def age(self) -> float:
        """The time, the same for all that come before the next of them is let in."""
        if not self._scheduled:
            self._age = monotonic()
        return self._age

    def context(self) -> Context:
        """The context variables as they are here, to be copied: the same object if they can be."""
        here, last = copy_context(), self._context
        if last is not None and len(here) == len(last) <= _MOST_COMPARED:
            for variable, value in here.items() if here else ():
                if last.get(variable, last) is not value:
                    break
            else:
                return last
        self._context = here
        return here

    def _admit(self, child: LoopChild[Any] | PoolChild[Any]) -> TaskHandle[Any]:
        self.unfinished += 1
        if self.limited:
            self.line_up(child)
        else:
            self.places.running += 1
            child.enter()
        return child

    def line_up(self, entrant: Entrant) -> None:
        """Let somebody stand in line; who is first gets a place before the loop waits again."""
        self.places.push(entrant)
        if not self._scheduled:
            self._schedule()

    def assign(self) -> None:
        """Give free places to the next in line. Idempotent; harmless at any time."""
        if self._assigning:
            self._dirty = True
            return
        self._assigning = self._dirty = True
        try:
            while self._dirty:
                self._dirty = False
                while not self._halted and (entrant := self.places.take()) is not None:
                    entrant.enter()
        finally:
            self._assigning = False

    def left(self) -> None:
        """A place is free."""
        self.places.running -= 1
        if self.places.waiting:
            self.assign()

    def over_and_left(self, child: LoopChild[Any]) -> None:
        """A child has ended well, and the next in line is to start from the loop, not from here."""
        self.places.running -= 1
        if self.places.waiting and not self._scheduled:
            self._schedule()
        self.running.discard(child)
        self.unfinished -= 1
        if not self.unfinished:
            self._ended(None)

    def over(self, child: LoopChild[Any] | PoolChild[Any], error: BaseException | None) -> None:
        """A child has ended, by this error unless it is None."""
        self.running.discard(child)
        if error is None:
            self.unfinished -= 1
            if not self.unfinished:
                self._ended(None)
        else:
            # Siblings that failed in the same turn of the loop are to be heard before all stop.
            self._halted = self._halted or self._halts
            self.loop.call_soon(self._tell, error)

    def cancel(self) -> None:
        """Cancel every child."""
        for entrant in list(self.places):
            if isinstance(entrant, (LoopChild, PoolChild)):
                entrant.cancel()
        for child in list(self.running):
            child.cancel()

    @property
    def is_open(self) -> bool:
        """Whether there is something to close: the pool that was opened for this group."""
        return self._owned is not None

    async def close(self) -> None:
        """Close that pool, whose calls have all ended."""
        owned, self._owned = self._owned, None
        if owned is not None:
            await owned.aclose()

    def _tell(self, error: BaseException) -> None:
        self.unfinished -= 1
        self._ended(error)
        if self._halted:  # by now all are cancelled who were not to start
            self._halted = False
            self.assign()

    def _schedule(self) -> None:
        self._age = monotonic()
        self._scheduled = True
        self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Assign, from the loop itself: here, and only here, a child takes its first step at once.

        No more first steps in one turn of the loop than there are places, as if each were a
        callback of its own: children that never wait are not to keep the loop from all else.
        """
        self._scheduled = False
        if not self._eager:
            self.assign()
            return
        most = self.places.capacity
        while most and not self._halted and (entrant := self.places.take()) is not None:
            most -= 1
            if isinstance(entrant, LoopChild):
                entrant.enter(eager=True)
            else:
                entrant.enter()
        entrant = None  # the error of a first step refers to this frame
        if self.places.waiting and self.places.has_room and not (self._halted or self._scheduled):
            self._schedule()

    def _open(self) -> Lifecycle:
        if self._owned is None:
            owned = Lifecycle(check_settings(aging=self._aging))
            owned._open()  # noqa: SLF001 - a pool without its verbs
            self._owned = owned
        return self._owned


def _is_for_the_loop(parts: OwnParts, fn: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    """Whether a call runs on the event loop; with an option that is wrong it does not matter."""
    on = options.get("on") if options else None
    return parts.functions.find(fn)[1] if on is None else on == "loop"


def _is_simple(settings: Settings) -> bool:
    return (
        settings.retry is None
        and settings.timeout is None
        and settings.deadline is None
        and settings.limiter is None
    )
