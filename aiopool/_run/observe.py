"""How a pool is looked at: statistics, a summary for ``repr``, and waiting for handles."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiopool._core.outcome import PoolStatistics, WorkerStatistics
from aiopool._core.scheduler import CountedVenue
from aiopool._run.ticket import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiopool._backends.lane import Lane
    from aiopool._run.engine import Engine
    from aiopool._run.handle import TaskHandle
    from aiopool._run.setup import Machinery


def statistics(parts: Machinery) -> PoolStatistics:
    """The pool at this moment."""
    engine, fleet = parts.engine, parts.fleet
    counts = engine.counts
    lanes = () if fleet is None else tuple(fleet.lanes)
    now = monotonic()
    workers = tuple(
        WorkerStatistics(
            lane.pid, "busy" if lane.task else lane.state.value, lane.task, now - lane.born
        )
        for lane in lanes
    )
    return PoolStatistics(
        queued=_queued(parts, zip(lanes, workers, strict=True)),
        running=sum(worker.task is not None for worker in workers) + _running(engine),
        done=counts.done,
        failed=counts.failed,
        cancelled=counts.cancelled,
        retried=counts.retried,
        crashed=0 if fleet is None else fleet.crashed,
        workers=workers,
    )


def summary(parts: Machinery) -> str:
    """A pool's state in a few words."""
    now = statistics(parts)
    queued = sum(now.queued.values())
    return (
        f"{len(now.workers)} workers, {queued} queued, {now.running} running, "
        f"{now.done} done, {now.failed} failed"
    )


async def all_done(engine: Engine, handles: Iterable[TaskHandle[Any]]) -> None:
    """Wait until every handle is done; a caller that is cancelled stops waiting, nothing else."""
    pending = [handle for handle in handles if not handle.done()]
    if not pending:
        return
    ticket = Turn(engine.loop)
    left = len(pending)

    def tell(_handle: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            ticket.conclude(None)

    for handle in pending:
        handle.add_done_callback(tell)
    await ticket


def _queued(parts: Machinery, lanes: Iterable[tuple[Lane, WorkerStatistics]]) -> dict[int, int]:
    """Calls that wait, by priority; of inputs whose length is not known, those pulled."""
    engine, fleet = parts.engine, parts.fleet
    queued: Counter[int] = Counter()
    for workload in engine.live:
        if not workload.silent:
            left = workload.remaining()
            left = workload.here if left is None else left
            queued[workload.priority] += left + len(workload.resting or ())
    for batch in () if fleet is None else fleet.packing.batches:
        queued[batch.workload.priority] += len(batch)
    for gate in engine.gates:
        queued.update(workload.priority for workload in gate.standing())
    for lane, worker in lanes:  # those that wait with a worker, behind the one it runs
        running = worker.task is not None
        for flight in lane.flights:
            if left := len(flight.batch) - flight.settled:
                queued[flight.batch.workload.priority] += left - running
                running = False
    return {priority: count for priority, count in sorted(queued.items()) if count}


def _running(engine: Engine) -> int:
    """Calls that run in counted places, those that lent theirs included."""
    venues = [venue for venue in engine.venues.values() if isinstance(venue, CountedVenue)]
    passing = sum(gate.venue.running for gate in engine.gates)
    return sum(venue.running + venue.lent for venue in venues) - passing
