"""One execution for all who ask for the same at once: what ``run(..., key=...)`` waits for.

The first caller makes the call, later ones join it until it is done; nothing is kept after that.
Each waits on a ticket of its own, so a caller that is cancelled takes away only itself; the last
one cancels the call and stays until it has stopped. A call that waits for room in the backlog
waits in a task of its own, because the caller that made it may leave before the others.

Calls are the same if key and function are: partials are unwrapped, since the key stands for the
arguments, and a function without a closure is known by what it is made of, wherever it was made
again: its code, which is equal for the same lines of two files, its globals and its defaults.

Prior art: https://pkg.go.dev/golang.org/x/sync/singleflight
"""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._core.options import resolve
from aiopool._core.retry import shown
from aiopool._run import calls
from aiopool._run.backlog import Place
from aiopool._run.handle import TaskHandle
from aiopool._run.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from aiopool._run.setup import Machinery

_within: Final[ContextVar[Joint | None]] = ContextVar("aiopool_joint", default=None)
"""The shared call whose context this is."""


async def join(
    open_parts: Callable[[], Machinery],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    options: Mapping[str, Any],
    key: Hashable,
) -> Any:  # noqa: ANN401 - what the call returns
    """Wait for the call of that key, made here if there is none."""
    parts = open_parts()
    name = _name_of(fn, key)
    joint = parts.joints.get(name)
    if joint is None or joint.handle.done():
        joint = Joint(parts, name)
        joint.begin(open_parts, fn, args, options)
    else:
        joint.check_outside()
        joint.hurry(resolve(options, parts.defaults).priority)
    ticket = joint.ticket()
    try:
        return await ticket
    finally:
        del joint, ticket  # this frame is in the error's traceback, and they hold the error


@final
class Joint:
    """A call and those who wait for it."""

    __slots__ = ("_entering", "_name", "_outer", "_parts", "_place", "_tickets", "handle")

    handle: TaskHandle[Any]
    _place: Place

    def __init__(self, parts: Machinery, name: Hashable) -> None:
        self._parts = parts
        self._name = name
        self._outer = _within.get()
        self._tickets: dict[Ticket[Any], None] = {}  # of those who wait
        self._entering: asyncio.Task[None] | None = None  # while it waits for room

    def begin(
        self,
        open_parts: Callable[[], Machinery],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> None:
        """Make the call; raises for what is wrong with it."""
        token = _within.set(self)
        try:
            self.handle = handle = calls.single(self._parts, fn, args, options, TaskHandle)
        finally:
            _within.reset(token)
        self._place = Place(handle.settings)
        handle.add_done_callback(self._ended)
        self._parts.joints[self._name] = self
        if self._parts.backlog.is_open:
            handle.begin()
        else:
            entering = self._enter(open_parts)
            self._entering = self._parts.engine.loop.create_task(entering, context=Context())

    def check_outside(self) -> None:
        """Raise RuntimeError for a call that would wait for itself."""
        within = _within.get()
        while within is not None:
            if within is self:
                message = f"{self.handle.name} would wait for itself: it is the call of that key"
                raise RuntimeError(message)
            within = within._outer  # noqa: SLF001 - another of these

    def hurry(self, priority: int) -> None:
        """Make it as important as the one who joins, if it is not more so."""
        if priority < self.handle.priority:
            self.handle.priority = priority
            self._parts.backlog.moved(self._place, priority)

    def ticket(self) -> Ticket[Any]:
        """What one who waits, waits on."""
        ticket: Ticket[Any] = Ticket(self._parts.engine.loop)
        ticket.on_cancel(partial(self._left, ticket))
        self._tickets[ticket] = None
        return ticket

    async def _enter(self, open_parts: Callable[[], Machinery]) -> None:
        """Wait for room, then put the call in line."""
        try:
            handle = self.handle
            await self._parts.backlog.enter(handle.name, handle.settings, self._place)
            open_parts()
        except asyncio.CancelledError:
            self._end(Ticket.conclude_stopped)
            raise
        except Exception as error:  # noqa: BLE001 - of all who wait
            failure = error
            self._end(lambda ticket: ticket.fail(failure))
        else:
            self.handle.begin()
        finally:
            self._entering = None

    def _left(self, ticket: Ticket[Any]) -> None:
        """One who waits was cancelled; again, perhaps, while the call stops."""
        if len(self._tickets) > 1:
            del self._tickets[ticket]
            ticket.conclude_stopped()
            return
        if self._entering is None:
            self.handle.cancel()
        else:
            self._entering.cancel()
            self._end(Ticket.conclude_stopped)
        self._free()  # who comes now is not to have a call that is being stopped

    def _ended(self, handle: TaskHandle[Any]) -> None:
        if handle.cancelled():
            self._end(Ticket.conclude_stopped)
        elif (error := handle.exception()) is not None:
            self._end(lambda ticket: ticket.fail(error))
        else:
            self._end(lambda ticket: ticket.conclude(handle.result()))

    def _end(self, tell: Callable[[Ticket[Any]], object]) -> None:
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets:
            tell(ticket)
        self._outer = None  # it waits for nobody now, and would hold all that came before it
        self._free()

    def _free(self) -> None:
        """Be joined no more."""
        joints = self._parts.joints
        if joints.get(self._name) is self:
            del joints[self._name]


def _name_of(fn: Callable[..., Any], key: Hashable) -> Hashable:
    """What calls that are the same have in common; raises TypeError for a key of no use."""
    try:
        hash(key)
    except TypeError:
        message = f"key={shown(key)}: must be hashable, such as a str or a tuple of them"
        raise TypeError(message) from None
    while isinstance(fn, partial):
        fn = fn.func
    owner: object = None
    if isinstance(fn, MethodType):
        owner, fn = fn.__self__, fn.__func__
    what: Hashable = id(fn)
    if isinstance(fn, FunctionType) and fn.__closure__ is None and fn.__kwdefaults__ is None:
        # A default that is a constant is the same object each time, one that binds a value is not.
        what = fn.__code__, id(fn.__globals__), id(fn.__defaults__)
    return what, id(owner), key
