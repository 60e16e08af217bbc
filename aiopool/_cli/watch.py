"""``aiopool watch``: a function over the files that arrive in a folder.

Every event is a line on standard output; on a terminal there is a live line instead, and only what
went wrong is a line of its own. The end is a summary on stderr, however it came.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TextIO, final

import aiopool
from aiopool import events
from aiopool._cli.mistakes import Mistake
from aiopool._cli.retries import policy
from aiopool._cli.target import load

try:
    from aiopool.spool import Spool, SpoolStatistics, by_name, by_number
except ModuleNotFoundError as error:
    message = "watching a folder needs the extra `watch`: pip install 'aiopool-toolkit[watch]'"
    raise Mistake(message) from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_EVERY: Final = 0.1
_CLEAR: Final = "\r\x1b[K"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The command line of ``aiopool watch``, as its help describes it."""

    folder: str
    call: str
    pattern: str = "*.task"
    priority: str | None = None
    once: bool = False
    workers: int | None = None
    limit: int | None = None
    retry: int | None = None
    backoff: float = 0.1
    timeout: float | None = None
    on: str | None = None
    settle: float = 0.5
    progress: bool = False

    def spool(self, observer: Any) -> Spool:  # noqa: ANN401 - a callable that takes events
        """The folder as a queue; raises ``Mistake``."""
        options: Any = {"timeout": self.timeout, "on": self.on, "limit": self.limit}
        if self.retry is not None:
            options["retry"] = policy(self.retry, self.backoff)
        try:
            return Spool(
                self.folder,
                load(self.call),
                pattern=self.pattern,
                order=by_name if self.priority is None else by_number(self.priority),
                settle=self.settle,
                observers=[observer],
                **options,
            )
        except ValueError as error:
            raise Mistake(str(error)) from None


def run(job: Job) -> int:
    """Do the job; the exit status."""
    watching = Watching(job)
    try:
        aiopool.run(watching.run())
    except KeyboardInterrupt:  # where a loop cannot be told of signals
        return 128 + signal.SIGINT
    return watching.status


@final
class Watching:
    """One run: what it says, and how it ends."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._spool = job.spool(self._on_event)
        self._began = monotonic()
        self._signal = 0  # that has ended it
        self._task: asyncio.Task[Any] | None = None

    @property
    def status(self) -> int:
        """The exit status: by the signal that ended it, else whether files failed."""
        return 128 + self._signal if self._signal else int(self._spool.statistics().failed > 0)

    async def run(self) -> None:
        """Work until the folder is done with, or a signal comes."""
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, partial(self._on_signal, loop))
        try:
            async with aiopool.Pool(self._job.workers) as pool, self._shown():
                await self._spool.run(pool, once=self._job.once)
        except asyncio.CancelledError:
            if not self._signal:
                raise
        except OSError as error:
            reason = error.strerror or str(error)
            message = f"{self._job.folder}: {reason}; watch a folder that can be written"
            raise Mistake(message) from None
        except (aiopool.AiopoolError, TypeError, ValueError) as error:  # of options, or of starting
            raise Mistake(str(error)) from None
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            self._sum_up()

    def _on_signal(self, loop: asyncio.AbstractEventLoop, number: int, _: object) -> None:
        """Stop; the same signal again ends the program at once, even if nobody reads its lines."""
        signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(self._stop, number)

    def _stop(self, number: int) -> None:
        """Give back what runs."""
        assert self._task is not None
        self._signal = number
        self._task.cancel()

    # What it says -------------------------------------------------------------------------

    def _on_event(self, event: events.FileEvent) -> None:
        bad = isinstance(event, (events.FileFailed, events.FileReturned, events.FileRecovered))
        if bad or not self._job.progress:
            try:
                print(sentence(event), flush=True)  # noqa: T201 - it is what the program is for
            except BrokenPipeError:  # nobody reads any more
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                self._stop(signal.SIGPIPE)

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[None]:
        """Show a live line while the block runs, if that is wanted."""
        if not self._job.progress:
            yield
            return
        drawing = asyncio.get_running_loop().create_task(self._draw(sys.stderr))
        try:
            with redirect_stdout(_Above(sys.stdout)), redirect_stderr(_Above(sys.stderr)):
                yield
        finally:
            drawing.cancel()
            await asyncio.wait([drawing])

    async def _draw(self, terminal: TextIO) -> None:
        try:
            while True:
                width = shutil.get_terminal_size().columns - 1
                terminal.write(f"{_CLEAR}{line(self._spool.statistics())[:width]}")
                terminal.flush()
                await asyncio.sleep(_EVERY)
        finally:
            terminal.write(_CLEAR)
            terminal.flush()

    def _sum_up(self) -> None:
        now = self._spool.statistics()
        returned = f", {now.returned} returned" if now.returned else ""
        seconds = monotonic() - self._began
        sys.stderr.write(
            f"{now.executed} executed, {now.failed} failed{returned} in {seconds:.1f} s\n"
        )


@final
class _Above:
    """A stream to a terminal that shows a live line, which gives way to what is written."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = sys.stderr

    def write(self, text: str) -> int:
        """Write, from the beginning of the line."""
        self._terminal.write(_CLEAR)
        self._terminal.flush()
        return self._out.write(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._out, name)


def line(now: SpoolStatistics) -> str:
    """A spool at one moment, in a line."""
    running = ", ".join(f"{shown(file.name)} in {file.pid or 'no process'}" for file in now.running)
    growing = f", {now.growing} being written" if now.growing else ""
    names = f" ({running})" if running else ""
    counts = f"{now.executed} executed, {now.failed} failed, {now.waiting} waiting{growing}"
    return f"{counts}, {len(now.running)} running{names}"


def sentence(event: events.FileEvent) -> str:
    """An event, in a line."""
    match event:
        case events.FileStarted(pid=pid):
            what = "started" if pid is None else f"started in process {pid}"
        case events.FileDone(pid=pid, seconds=seconds):
            what = f"done in {seconds:.3f} s" + ("" if pid is None else f" by process {pid}")
        case events.FileFailed(attempts=attempts, error=error):
            times = "once" if attempts == 1 else f"{attempts} times"
            reason = f"{error}".partition("\n")[0]
            what = f"failed, tried {times}: {type(error).__name__}: {reason}"
        case events.FileRecovered():
            what = "waits again: its watcher is dead"
        case _:
            what = "waits again: it was not finished"
    return f"{shown(event.name)}: {what}"


def shown(name: str) -> str:
    """A name of a file as it can be printed, in a line."""
    return name if name.isprintable() else repr(name)
