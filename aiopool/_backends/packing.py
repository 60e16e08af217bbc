"""Arguments that may take long to pickle are pickled in threads, while the event loop turns.

Nothing else of their workload starts meanwhile, so that a map reads no further ahead. A thread
lives as long as there is something to pickle. One whose argument never gets done cannot be
stopped; it is a daemon thread, so the program can end, and it holds up no other argument until
all of them are stuck.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from aiopool._backends.parcels import Refused, encode_in_time, pack_argument
from aiopool._wire.hooks import QUICK, pack_in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiopool._backends.base import Client
    from aiopool._backends.parcels import Encoded
    from aiopool._core.scheduler import LanedVenue
    from aiopool._core.workload import Batch, Workload

T = TypeVar("T")

_MOST_THREADS: Final = 8


@final
class Packer:
    """The threads that pickle for one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], object]]] = deque()
        self._threads = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def begin(self, work: Callable[[], T], told: Callable[[], object]) -> Future[T]:
        """Have this done; waits for it if that may be a matter of a moment.

        ``told`` is called when it is done, on the event loop and not before this returns.
        """
        job: Future[T] = Future()
        job.add_done_callback(lambda _: self._tell(told))
        with self._lock:
            alone = not self._threads
            spare = self._threads < _MOST_THREADS
            self._waiting.append((job, partial(copy_context().run, work)))
            self._threads += spare
        self._empty.clear()
        if spare:
            self._start_thread()
        if alone:
            wait((job,), QUICK)
        return job

    async def close(self, patience: float) -> None:
        """Wait for the threads, so many seconds at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), patience)

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name="aiopool packer", daemon=True).start()
        except RuntimeError:  # there are no more to be had
            self._work()

    def _work(self) -> None:
        while (found := self._next()) is not None:
            job, work = found
            try:
                job.set_result(work())
            except Exception as error:  # noqa: BLE001 - it is told to whoever asks for the result
                job.set_exception(error)
        self._tell(self._thread_ends)

    def _next(self) -> tuple[Future[Any], Callable[[], object]] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def _tell(self, what: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(what)

    def _thread_ends(self) -> None:
        if not self._threads:
            self._empty.set()


@final
class Packing:
    """Who has what pickled for the workers of one pool."""

    def __init__(self, client: Client, venue: LanedVenue) -> None:
        self._client = client
        self._venue = venue
        self._packer = Packer()
        self._batches: dict[Workload, Batch] = {}  # of maps and streams, one of each at a time

    def single(self, workload: Workload, args: tuple[Any, ...]) -> None:
        """Have a single call's arguments pickled; raises ``NotTransferable`` if found at once."""
        work = partial(pack_argument, args, workload.function, pack_in_time)
        job = self._packer.begin(work, partial(self._client.packed, workload))
        if job.done():
            workload.hold(args, job.result())
        else:
            workload.hold(args)
            workload.packing = job

    def batch(self, batch: Batch) -> None:
        """Have calls pickled that no worker has got yet; they come back to the queue."""
        workload = batch.workload
        self._batches[workload] = batch
        self._venue.split(batch, 2)  # it and what is sent of it
        work = partial(encode_in_time, batch)
        workload.packing = self._packer.begin(work, partial(self._packed, batch))
        self._venue.drop(workload)

    def stop(self, workload: Workload) -> None:
        """Tell of calls that are not pickled yet as stopped."""
        batch = self._batches.pop(workload, None)
        if batch is not None:
            self._client.stopped(batch, started=False)
            self._client.settled(batch)

    @property
    def batches(self) -> Iterable[Batch]:
        """Calls of maps and streams that are being pickled."""
        return self._batches.values()

    async def close(self, patience: float) -> None:
        """Wait for the threads, so many seconds at most."""
        await self._packer.close(patience)

    def _packed(self, batch: Batch) -> None:
        workload = batch.workload
        if self._batches.get(workload) is not batch:
            return  # stopped before
        del self._batches[workload]
        job: Future[Encoded] = workload.packing
        workload.packing = None
        try:
            parcels, refused, rest, _ = job.result()
        except Exception as error:  # noqa: BLE001 - no memory, perhaps: what it was for has failed
            parcels, rest = [], None
            each = (batch.part(place, place + 1) for place in range(len(batch)))
            refused = [Refused(one, error) for one in each]  # type: ignore[arg-type]
        for call in refused:
            self._client.failed(call.batch, call.error, 0.0, None)
        if rest is not None:  # what is returned last is first in line
            self._client.returned(rest)
        for parcel in reversed(parcels):
            parcel.batch.payloads = parcel.load
            self._client.returned(parcel.batch)
        self._client.settled(batch)
        self._client.changed()
