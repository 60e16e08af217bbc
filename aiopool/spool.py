"""A folder as a queue: each file that arrives is handed to a function, once, in order of priority.

::

    async with aiopool.Pool() as pool:
        await Spool("inbox", work).run(pool)

``inbox/7.task`` waits. Whoever renames it into a folder of his own, ``inbox/.running-<pid>-<hex>``,
has claimed it. It is renamed back if its call was stopped, else it becomes ``inbox/7.task.done``,
or ``inbox/7.task.failed`` with the reason beside it in ``inbox/7.task.error``.

- A rename is atomic, so any number of watchers, in any processes, may share a folder.
- A watcher holds a lock in its folder of claims for as long as it lives. A lock that can be had
  says that its owner is dead, and what he had claimed goes back; about that the kernel cannot
  be wrong, as a process id that was given out again would be.
- A file is claimed when there is room to run it and not before: the first in line then.
- Nothing is ever overwritten, and no file is taken that is still being written.

What a scan lists is the truth; notifications only tell when to look.
Not here: subfolders and symbolic links, which are left alone.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import re
import traceback
from contextlib import suppress
from dataclasses import dataclass
from inspect import iscoroutinefunction
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, final

from watchfiles import Change, awatch

from aiopool import events
from aiopool._spool.claims import Claims
from aiopool._spool.line import Line, by_name, by_number
from aiopool._spool.writing import Growing, is_told_of_writers
from aiopool.errors import PoolFull, WorkerCrashed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable
    from typing import Unpack

    from aiopool import Pool, TaskGroup, TaskHandle, TaskOptions

__all__ = ["RunningFile", "Spool", "SpoolStatistics", "by_name", "by_number"]

_log: Final = logging.getLogger("aiopool")
_STEP: Final = 10
"""Milliseconds between two looks at what the system tells; a file is noticed after two of them."""
_SOON: Final = 0.02
"""Seconds between two looks at files that are being written, and at a pool that is full."""
_LONG: Final = 0.1
"""Seconds between two looks at what is not expected to change."""
_SHARE: Final = 20
"""Of the time, one part in so many at most is spent on listing the folder, or on such files."""


# --- what can be seen -----------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class RunningFile:
    """A file that is worked on: its name, its worker process if that is known, seconds so far."""

    name: str
    pid: int | None
    seconds: float


@final
@dataclass(frozen=True, slots=True)
class SpoolStatistics:
    """A spool at one moment: files in line and still being written, worked on, and ended so far."""

    waiting: int
    growing: int
    running: tuple[RunningFile, ...]
    executed: int
    failed: int
    returned: int


# --- the spool ------------------------------------------------------------------------------


@final
@dataclass(slots=True)
class _Work:
    """A file that is worked on."""

    since: float
    handle: TaskHandle[Any] | None = None
    announced: bool = False


@final
class Spool:
    """A queue that is a folder: ``fn(path)`` is called with each file that matches ``pattern``.

    ``path`` is the absolute ``pathlib.Path`` of the claimed file, which has the name it came with.
    A plain ``fn`` is called in a worker process, an ``async def`` on the event loop. Its results
    belong elsewhere: what it leaves beside the file comes to the folder when the watcher ends.

    ``order``: a key of file names, the smallest comes first: ``by_name``, ``by_number(...)``, or
    your own. ``settle``: seconds a file has to stay as it is where the system does not tell whether
    it is being written. ``rescan``: seconds between two looks at the whole folder, which find what
    notifications have missed. ``observers``: called with each ``aiopool.events.FileEvent``.
    The options are those of the calls; ``limit`` files are worked on at once, by default as many as
    the pool has workers, and ``name`` is the file's. Raises TypeError or ValueError.
    """

    def __init__(  # noqa: PLR0913 - all but two by keyword
        self,
        folder: str | os.PathLike[str],
        fn: Callable[[Path], object],
        *,
        pattern: str = "*.task",
        order: Callable[[str], Any] = by_name,
        settle: float = 0.5,
        rescan: float = 5.0,
        observers: Iterable[Callable[[events.FileEvent], object]] = (),
        **options: Unpack[TaskOptions],
    ) -> None:
        if "name" in options:
            raise TypeError("name: a call of a spool is named after its file")
        if not (settle >= 0 and rescan > 0):
            raise ValueError(f"settle={settle!r}, rescan={rescan!r}: must be seconds above 0")
        self.folder = Path(folder).absolute()
        self._fn = fn
        self._pattern = re.compile(fnmatch.translate(pattern))
        self._rescan = rescan
        self._observers = tuple(observers)
        self._limit = options.pop("limit", None)
        if self._limit is not None and self._limit < 1:
            raise ValueError(f"limit={self._limit!r}: must be at least 1, or None")
        self._options = options
        self._in_process = not iscoroutinefunction(fn) and options.get("on") in {None, "process"}
        self._pool: Pool | None = None  # while it runs
        self._line = Line(order)
        self._arrived: set[str] = set()  # names that may have to stand in line
        self._growing = Growing(self.folder, settle)
        self._running: dict[str, _Work] = {}
        self._executed = self._failed = self._returned = 0
        self._wake = asyncio.Event()
        self._list_at = self._grow_at = self._ask_in = 0.0

    def statistics(self) -> SpoolStatistics:
        """The spool at this moment, as a frozen snapshot."""
        now, pids = monotonic(), self._pids()
        running = [
            RunningFile(name, pids.get(self._label(name)), now - work.since)
            for name, work in self._running.items()
        ]
        return SpoolStatistics(
            waiting=len(self._line) + len(self._arrived),
            growing=len(self._growing.files),
            running=tuple(running),
            executed=self._executed,
            failed=self._failed,
            returned=self._returned,
        )

    async def run(self, pool: Pool, *, once: bool = False) -> SpoolStatistics:
        """Work through what is in the folder and what arrives, until this is cancelled.

        With ``once`` it returns when nothing is left to do. Cancelling it stops the calls that
        run and returns their files to the queue. Raises OSError if the folder cannot be used, or
        is gone; what the pool raises if ``fn`` cannot be sent, or no worker can be started.
        """
        if self._pool is not None:
            raise RuntimeError("this spool is running already")
        claims = Claims(self.folder, self._pattern)
        self._pool, self._list_at, self._wake = pool, 0.0, asyncio.Event()
        self._growing.ask = is_told_of_writers(self.folder)
        try:
            async with pool.task_group() as group:
                listening = group.create_task(self._listen(claims))
                await asyncio.sleep(0)  # the watch begins before the first scan: no gap between
                await self._serve(pool, group, claims, once=once)
                listening.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            for name in list(self._running):  # cancelled before it began
                self._conclude(name, claims)
            claims.close()
            self._pool = None
        return self.statistics()

    async def _listen(self, claims: Claims) -> None:
        """Note the names that notifications tell of, for as long as there are any."""
        while True:
            try:
                await self._notice(claims)
            except ExceptionGroup:  # a name that is no text has ended it; a look finds that file
                await asyncio.sleep(_LONG)
                self._list_at = 0.0
                self._wake.set()
            except (OSError, RuntimeError) as error:  # as where there may be no more watches
                _log.warning("%s is only looked at now and then: %s", self.folder, error)
                return

    async def _notice(self, claims: Claims) -> None:
        async for found in awatch(
            self.folder,
            watch_filter=None,
            recursive=False,
            debounce=_STEP,
            step=_STEP,
            rust_timeout=0,
        ):
            names = {Path(path).name for change, path in found if change != Change.deleted}
            self._arrived.update(filter(claims.wants, names))
            # Its own end is not told, for the lock in it keeps it half alive.
            if not claims.path.exists():
                self._list_at = 0.0
            self._wake.set()

    async def _serve(self, pool: Pool, group: TaskGroup, claims: Claims, *, once: bool) -> None:
        limit = pool.max_workers if self._limit is None else self._limit
        while True:
            if monotonic() >= self._list_at:
                await self._list(claims)
            self._line_up()
            while self._has_room(limit) and (name := self._claim(claims)) is not None:
                self._running[name] = _Work(monotonic())
                self._ask_in = 0.001
                group.create_task(self._work(pool, name, claims))
            if once and self._is_idle():
                await self._list(claims)
                if self._is_idle():
                    return
                continue
            await self._pause()
            self._announce()

    async def _pause(self) -> None:
        """Wait until there is something to look at."""
        now = monotonic()
        wait = self._list_at - now
        if self._growing.files:
            wait = min(wait, self._grow_at - now)
        if not all(work.announced for work in self._running.values()):
            wait = min(wait, self._ask_in)
            self._ask_in = min(2 * self._ask_in, _LONG)
        if self._line and self._running:  # to see whether one of them waits for another attempt
            wait = min(wait, _LONG)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(wait, 0.0)):
                await self._wake.wait()
        self._wake.clear()

    def _has_room(self, limit: int) -> bool:
        """Whether another file can be worked on: one that waits for an attempt gives way to one."""
        handles = [work.handle for work in self._running.values() if work.handle is not None]
        resting = sum(handle.state == "waiting" for handle in handles)
        return len(self._running) - min(resting, limit) < limit

    def _is_idle(self) -> bool:
        """Whether nothing is left to do; a file whose writer lets it be is left to him."""
        return not (self._running or self._line or self._arrived) and self._growing.at_rest

    # Files in line ------------------------------------------------------------------------

    async def _list(self, claims: Claims) -> None:
        """Look at the whole folder, in a thread: it may hold a hundred thousand files."""
        began, self._list_at = monotonic(), inf
        recovered = await asyncio.to_thread(self._take_stock, claims)
        now = monotonic()
        self._list_at = min(self._list_at, now + max(self._rescan, _SHARE * (now - began)))
        for name in recovered:
            self._tell(events.FileRecovered(at=now, name=name))

    def _take_stock(self, claims: Claims) -> list[str]:
        names, recovered = claims.scan()
        self._growing.keep(names)
        self._line.replace(names.difference(self._growing.files))
        return recovered

    def _line_up(self) -> None:
        """Give a place in line to files that have arrived, or are written by now."""
        began = monotonic()
        if began >= self._grow_at:
            self._arrived.update(filter(self._growing.is_whole, list(self._growing.files)))
            now = monotonic()
            self._grow_at = now + max(_SOON, _SHARE * (now - began))
        for name in self._arrived.difference(self._growing.files):
            self._line.add(name)
        self._arrived.clear()

    def _claim(self, claims: Claims) -> str | None:
        """Claim the first in line that can be had; its name."""
        while self._line:
            name = self._line.pop()
            if name not in self._running and self._growing.is_whole(name) and claims.take(name):
                return name
        return None

    # Files that are worked on -------------------------------------------------------------

    async def _work(self, pool: Pool, name: str, claims: Claims) -> None:
        work, path = self._running[name], claims.path / name
        options: Any = {**self._options, "name": self._label(name)}
        try:
            async with pool.task_group() as group:
                while work.handle is None:
                    try:
                        work.handle = group.start_soon(self._fn, path, **options)
                    except PoolFull:
                        await asyncio.sleep(_SOON)
        except ExceptionGroup as failed:
            if work.handle is None:
                raise failed.exceptions[0] from None
        finally:
            self._conclude(name, claims)

    def _conclude(self, name: str, claims: Claims) -> None:
        """Rename a file by how its call ended."""
        work = self._running.pop(name)
        self._wake.set()
        handle, now = work.handle, monotonic()
        if handle is None or not handle.done() or handle.cancelled():
            claims.give_back(name)
            self._returned += 1
            self._tell(events.FileReturned(at=now, name=name))
            return
        error = handle.exception()
        if isinstance(error, WorkerCrashed) and not handle.attempts:
            claims.give_back(name)
            raise error  # no worker can be started, which is not the file's fault
        if not work.announced:
            self._tell(events.FileStarted(at=now, name=name, pid=handle.pid))
        path = claims.conclude(name, ".done" if error is None else ".failed")
        facts: Any = {
            "at": now,
            "name": name,
            "path": path,
            "pid": handle.pid,
            "attempts": handle.attempts,
            "seconds": handle.ran_for,
        }
        if error is None:
            self._executed += 1
            self._tell(events.FileDone(**facts))
        else:
            self._failed += 1
            _explain(path or self.folder / f"{name}.failed", handle, error)
            self._tell(events.FileFailed(**facts, error=error))
        if (self.folder / name).exists():  # another of that name has come meanwhile
            self._arrived.add(name)

    def _announce(self) -> None:
        """Tell of calls that have started: in a process, once the worker is known."""
        new = {name: work for name, work in self._running.items() if not work.announced}
        pids = self._pids() if new else {}
        for name, work in new.items():
            pid = pids.get(self._label(name))
            here = not self._in_process and work.handle is not None
            if here or pid is not None:
                work.announced = True
                self._tell(events.FileStarted(at=monotonic(), name=name, pid=pid))

    def _pids(self) -> dict[str | None, int | None]:
        """The worker process of each call of the pool, by what the call is named."""
        workers = () if self._pool is None else self._pool.statistics().workers
        return {worker.task: worker.pid for worker in workers}

    def _label(self, name: str) -> str:
        return str(self.folder / name)

    def _tell(self, event: events.FileEvent) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # noqa: BLE001 - an observer's fault is its own
                _log.exception("an observer of a spool raised; the event was %r", event)


def _explain(failed: Path, handle: TaskHandle[Any], error: BaseException) -> None:
    """Write beside a failed file what it failed with."""
    times = "once" if handle.attempts == 1 else f"{handle.attempts} times"
    where = "" if handle.pid is None else f", at last in process {handle.pid}"
    lines = [f"tried {times}{where}, for {handle.ran_for:.3f} s\n\n"]
    lines += traceback.format_exception(error)
    try:
        failed.with_suffix(".error").write_text("".join(lines), "utf-8", "backslashreplace")
    except OSError as fault:
        _log.warning("could not write why %s failed: %s", failed, fault)
