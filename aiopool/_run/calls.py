"""From a function and its options to a workload in the engine: checked, placed, given a sink."""

from __future__ import annotations

from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, final

from aiopool._backends.parcels import pack_argument, pack_context
from aiopool._core.options import resolve
from aiopool._core.workload import Workload
from aiopool._run.gather import Gathering
from aiopool._run.handle import TaskHandle
from aiopool._run.sharing import opening
from aiopool._run.sources import check_iterables, open_input
from aiopool._run.stream import Flow
from aiopool._run.ticket import Ticket
from aiopool._wire.pickling import Unhurried

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Context, ContextVar

    from aiopool._backends.base import Function
    from aiopool._backends.fleet import Fleet
    from aiopool._core.options import Settings
    from aiopool._run.engine import Engine
    from aiopool._run.functions import Functions
    from aiopool._run.setup import Machinery
    from aiopool._run.sources import Input, Items

H = TypeVar("H", bound=TaskHandle[Any])

_MOST_PLANS: Final = 512


class Parts(Protocol):
    """What it takes to run single calls: an open pool's machinery, or a group's own."""

    engine: Engine
    functions: Functions
    plans: dict[int, Plan]
    fleet: Fleet | None
    variables: tuple[ContextVar[Any], ...]
    defaults: Settings


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """A function that may be called, where its calls run, and under which options."""

    function: Function
    settings: Settings
    place: str
    name: str
    local: bool  # its calls are no worker process's

    def workload(
        self,
        sink: Gathering | Flow | None,
        *,
        star: bool,
        exact: bool,
        since: float,
        context: Context | bytes | None,
    ) -> Workload:
        """A workload of no calls yet."""
        settings = self.settings
        workload = Workload(
            self.function,
            settings,
            name=self.name,
            venue=self.place,
            sink=sink,
            now=since,
            cost=self.function.cost,
            star=star,
            exact=exact,
        )
        workload.context = context
        if self.local:
            workload.function = opening(self.function)
        return workload

    def context(self, parts: Parts) -> Context | bytes | None:
        """The caller's context for calls in this process, what of it crosses for others."""
        if self.local:
            return copy_context()
        return pack_context(parts.variables) if parts.variables else None


def plan(parts: Parts, fn: Callable[..., Any], options: Mapping[str, Any]) -> Plan:
    """Check a function and its options; raises TypeError, ValueError or ``NotTransferable``."""
    if not options and (known := parts.plans.get(id(fn))) is not None:
        return known
    settings = resolve(options, parts.defaults)
    function, is_async = parts.functions.find(fn)
    place = settings.on or ("loop" if is_async else "process")
    if is_async and place != "loop":
        message = (
            f"{function.name} is an async function, which runs on the event loop; "
            f"on={place!r} expects a sync function"
        )
        raise TypeError(message)
    local = place != "process" or parts.fleet is None
    if not local:
        function = parts.functions.pickled(function)
    found = Plan(function, settings, place, settings.name or function.name, local)
    if not options and parts.functions.remembers(fn):
        if len(parts.plans) >= _MOST_PLANS:
            parts.plans.clear()
        parts.plans[id(fn)] = found  # which keeps the function alive, and so its id its own
    return found


def check_single(found: Plan) -> None:
    """Raise TypeError for the option that means nothing to a single call."""
    if found.settings.limit is not None:
        message = "limit bounds the calls of one map or stream; this is a single call"
        raise TypeError(message)


def single(
    parts: Parts,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    options: Mapping[str, Any],
    kind: type[H],
) -> H:
    """One call, ready to be added to the engine: its handle, of that kind.

    What goes to a worker process is pickled now, so the call gets its arguments as they are now;
    only what takes its time over that is pickled while the event loop turns.
    """
    found = plan(parts, fn, options)
    if options:  # there is no other way to a limit
        check_single(found)
    context, function = found.context(parts), found.function
    workload = found.workload(None, star=True, exact=True, since=monotonic(), context=context)
    if found.local or parts.fleet is None:
        workload.hold(args)
    else:
        try:
            workload.hold(args, pack_argument(args, function))
        except Unhurried:
            parts.fleet.packing.single(workload, args)
    handle = kind(parts.engine, workload, args)
    workload.sink = handle
    return handle


def begin(
    parts: Machinery, fn: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]
) -> TaskHandle[Any]:
    """One call, in line at once; raises ``PoolFull`` if there is no room for it."""
    handle = single(parts, fn, args, options, TaskHandle)
    parts.backlog.claim()
    handle.begin()
    return handle


@final
class Many:
    """A map or a stream: checked, and begun once there is room for it."""

    def __init__(
        self,
        parts: Machinery,
        fn: Callable[..., Any],
        iterables: Sequence[Items],
        options: Mapping[str, Any],
        *,
        star: bool,
    ) -> None:
        check_iterables(iterables)
        self.plan = plan(parts, fn, options)
        self._parts = parts
        self._context = self.plan.context(parts)
        self._iterables = iterables
        self._star = star or len(iterables) > 1
        self._since = 0.0

    async def enter(self) -> None:
        """Wait for room; the deadline counts from here."""
        self._since = monotonic()
        await self._parts.backlog.enter(self.plan.name, self.plan.settings)

    def gather(self, *, keep: bool) -> Gathering:
        """Begin a map; with ``keep`` failures are results."""
        engine = self._parts.engine
        ticket: Ticket[list[Any]] = Ticket(engine.loop)
        sink = Gathering(engine, ticket, return_exceptions=keep)
        workload = self._workload(sink)
        workload.source = source = self._input(workload, sink)
        sink.begin(workload, source)
        self._add(workload)
        return sink

    def flow(self, *, ordered: bool, buffersize: int | None) -> Flow:
        """Begin a stream's side of the pool."""
        engine = self._parts.engine
        narrowest = self._parts.narrowest(self.plan.place)
        sink = Flow(engine, ordered=ordered, buffersize=buffersize, narrowest=narrowest)
        workload = self._workload(sink)
        workload.source = sink
        sink.begin(workload, self._input(workload, sink))
        self._add(workload)
        return sink

    def _add(self, workload: Workload) -> None:
        if workload.remaining() is None:
            workload.probe()  # an empty input needs no worker to be found so
        self._parts.engine.add(workload)

    def _workload(self, sink: Gathering | Flow) -> Workload:
        return self.plan.workload(
            sink,
            star=self._star,
            exact=False,
            since=self._since,
            context=self._context,
        )

    def _input(self, workload: Workload, sink: Gathering | Flow) -> Input:
        more = partial(self._parts.engine.more, workload)
        return open_input(self._iterables, ended=sink.ended, more=more, bound=sink.room)
