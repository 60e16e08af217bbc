"""From a function and its options to a workload in the engine: checked, placed, given a sink."""

from __future__ import annotations

from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, final

from aiopool._backends.parcels import pack_argument
from aiopool._core.options import resolve
from aiopool._core.workload import Batch, Workload
from aiopool._run.gather import Gathering
from aiopool._run.handle import TaskHandle
from aiopool._run.sources import open_input
from aiopool._run.stream import Flow
from aiopool._run.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aiopool._backends.base import Function
    from aiopool._core.options import Settings
    from aiopool._run.setup import Machinery
    from aiopool._run.sources import Input, Items


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """A function that may be called, where its calls run, and under which options."""

    function: Function
    settings: Settings
    place: str

    def workload(self, parts: Machinery, sink: Any, *, star: bool, exact: bool) -> Workload:  # noqa: ANN401 - a sink of any kind
        """A workload of no calls yet."""
        settings = self.settings
        venue: Any = self.place
        if settings.limiter is not None:
            venue = parts.gate(settings.limiter, self.place)
        workload = Workload(
            self.function,
            settings,
            name=settings.name or self.function.name,
            venue=venue,
            sink=sink,
            now=monotonic(),
            cost=self.function.cost,
            star=star,
            exact=exact,
        )
        if self.place != "process" or parts.fleet is None:
            workload.context = copy_context()
        return workload


def plan(parts: Machinery, fn: Callable[..., Any], options: Mapping[str, Any]) -> Plan:
    """Check a function and its options; raises TypeError, ValueError or ``NotTransferable``."""
    settings = resolve(options, parts.defaults)
    function, is_async = parts.functions.find(fn)
    place = settings.on or ("loop" if is_async else "process")
    if is_async and place != "loop":
        message = (
            f"{function.name} is an async function, which runs on the event loop; "
            f"on={place!r} expects a sync function"
        )
        raise TypeError(message)
    if place == "process" and parts.fleet is not None:
        function = parts.functions.pickled(function)
    return Plan(function, settings, place)


def single(
    parts: Machinery, fn: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]
) -> TaskHandle[Any]:
    """One call, ready to be added to the engine: its handle.

    What goes to a worker process is pickled now, so the call gets its arguments as they are now.
    """
    found = plan(parts, fn, options)
    if found.settings.limit is not None:
        message = "limit bounds the calls of one map or stream; this is a single call"
        raise TypeError(message)
    workload = found.workload(parts, None, star=True, exact=True)
    batch = Batch(workload, (0,), (args,))
    if found.function.code:
        batch.payloads = (pack_argument(args, found.function),)
    handle: TaskHandle[Any] = TaskHandle(parts.engine, parts.engine.loop, workload, args)
    workload.sink = handle
    workload.put_back(batch)
    return handle


def gathering(
    parts: Machinery, found: Plan, iterables: Sequence[Items], *, star: bool, keep: bool
) -> Gathering:
    """A map, begun: its results, failures among them if those are to be kept."""
    ticket: Ticket[list[Any]] = Ticket(parts.engine, parts.engine.loop)
    sink = Gathering(parts.engine, ticket, return_exceptions=keep)
    workload = found.workload(parts, sink, star=star or len(iterables) > 1, exact=False)
    source = _input(parts, iterables, workload, sink)
    workload.source = source
    sink.begin(workload, source)
    parts.engine.add(workload)
    return sink


def flow(
    parts: Machinery,
    found: Plan,
    iterables: Sequence[Items],
    *,
    ordered: bool,
    buffersize: int | None,
) -> Flow:
    """A stream's side of the pool, begun."""
    sink = Flow(
        parts.engine,
        ordered=ordered,
        buffersize=buffersize,
        narrowest=parts.narrowest(found.place),
    )
    workload = found.workload(parts, sink, star=len(iterables) > 1, exact=False)
    workload.source = sink
    sink.begin(workload, _input(parts, iterables, workload, sink))
    parts.engine.add(workload)
    return sink


def _input(
    parts: Machinery, iterables: Sequence[Items], workload: Workload, sink: Gathering | Flow
) -> Input:
    return open_input(iterables, ended=sink.ended, more=partial(parts.engine.more, workload))
