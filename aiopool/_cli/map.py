"""``aiopool map``: a function over records, from files or standard input to lines of JSON.

The records are one ``pool.stream``; what is done with each, decoding and encoding included, is one
call, so that the pool's own batches, retries, time limits and attribution hold for every record.
Nothing is kept but what is under way.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from contextlib import AsyncExitStack, ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from inspect import iscoroutinefunction
from threading import Event
from typing import TYPE_CHECKING, Any, Final, final

import aiopool
from aiopool._cli.inputs import STDIN, Source
from aiopool._cli.mistakes import Mistake, unreadable
from aiopool._cli.outputs import Lines
from aiopool._cli.records import AsyncCall, Call, Malformed, NotJSON
from aiopool._cli.retries import policy
from aiopool._cli.tally import Tally
from aiopool._cli.target import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

DONE: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130
TERMINATED: Final = 143
_STDOUT: Final = ("-", "/dev/stdout")
READER_GONE: Final = 141
"""What a shell reports of a program that ended by SIGPIPE."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The command line of ``aiopool map``, as its help describes it."""

    target: str
    files: Sequence[str] = ()
    form: str = "lines"
    output: str | None = None
    errors: str | None = None
    ordered: bool = True
    workers: int | None = None
    limit: int | None = None
    retry: int | None = None
    backoff: float = 0.1
    timeout: float | None = None
    deadline: float | None = None
    priority: int = 0
    on: str | None = None
    rate: str | None = None
    journal: str | None = None
    rerun_failed: bool = False
    progress: bool = False

    @property
    def inputs(self) -> Sequence[str]:
        """The files to read records from."""
        if self.form == "paths" and any(name != STDIN for name in self.files):
            return ()  # they are the records
        return self.files or (STDIN,)

    def pool(self) -> aiopool.Pool:
        """The pool it runs in."""
        if self.limit is None:
            return aiopool.Pool(self.workers)
        return aiopool.Pool(self.workers, limit=self.limit)

    def options(self) -> dict[str, Any]:
        """What ``stream`` is told, beside the function and the records."""
        options = {
            "ordered": self.ordered,
            "name": self.target,
            "limit": self.limit,
            "timeout": self.timeout,
            "deadline": self.deadline,
            "priority": self.priority,
            "on": self.on,
        }
        if self.retry is not None:
            options["retry"] = policy(self.retry, self.backoff, on=_may_pass)
        if self.rate is not None:
            from aiopool._cli.rate import limiter

            options["limiter"] = limiter(self.rate)
        return options


def run(job: Job) -> int:
    """Do the job; the exit status."""
    if job.rerun_failed and job.journal is None:
        message = "--rerun-failed goes with --journal FILE, where it is noted what has failed"
        raise Mistake(message)
    with ExitStack() as stack:
        stdout = stack.enter_context(_stdout_for_results())
        mapping = Mapping(job, stdout, stack)
        terminated = _terminated_as_interrupted()
        try:
            aiopool.run(mapping.run())
        except KeyboardInterrupt:
            if terminated.is_set():
                return mapping.ended("terminated", TERMINATED)
            return mapping.ended("interrupted", INTERRUPTED)
        except BrokenPipeError:
            return READER_GONE
        except aiopool.TaskTimeout as error:  # of the whole, as a record's own is a failure of it
            return mapping.ended(str(error), FAILED)
        except aiopool.AiopoolError as error:  # what cannot be sent, a journal that is in use
            raise Mistake(str(error)) from None
        return mapping.ended("", FAILED if mapping.tally.failed else DONE)


@final
class Mapping:
    """One run: its files, its counts."""

    def __init__(self, job: Job, stdout: int, stack: ExitStack) -> None:
        self.tally = Tally()
        self._job = job
        self._source = Source(job.inputs, job.form)
        self._call = call_of(job.target, is_json=job.form == "jsonl")
        read = [0 if name == STDIN else name for name in job.inputs]
        if job.output is None or job.output in _STDOUT:
            self._out = Lines(stdout, "stdout", is_ours=False)
        else:
            self._out = _file(job.output, read, stack)
            read.append(job.output)
        self._errors = None if job.errors is None else _file(job.errors, read, stack)
        self._outputs = [lines for lines in (self._out, self._errors) if lines is not None]
        for lines in self._outputs:
            stack.callback(lines.close)

    async def run(self) -> None:
        """Every record through the function, every line to its file."""
        try:
            async with asyncio.TaskGroup() as group:
                for lines in self._outputs:
                    group.create_task(lines.written())
                await self._stream()
                for lines in self._outputs:
                    lines.end()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            for lines in self._outputs:
                with suppress(BrokenPipeError):
                    lines.finish()

    async def _stream(self) -> None:
        async with AsyncExitStack() as stack:
            if self._job.progress:
                stack.enter_context(aiopool.Meter("aiopool map", self.tally.counts))
            try:
                outcomes = await self._outcomes(stack)
            except (TypeError, ValueError) as error:  # options out of range
                raise Mistake(str(error)) from None
            for lines in self._outputs:
                lines.empty()  # not before, as a mistake is to cost nobody his results
            async for outcome in outcomes:
                if outcome.error is not None:
                    await self._failed(outcome)
                elif outcome.value:
                    self.tally.done += 1
                    if self._out.add(outcome.value):
                        await self._out.room()

    async def _outcomes(self, stack: AsyncExitStack) -> AsyncIterator[aiopool.Outcome[Any]]:
        """How each call ends, of a pool that closes with the stack."""
        job = self._job
        options = job.options()
        records: Any = self._source.records() if job.inputs else job.files
        pool = await stack.enter_async_context(job.pool())
        if job.journal is None:
            stream: Any = pool.stream(self._call, records, **options)
        else:
            from aiopool.journal import Journal

            journal = await stack.enter_async_context(Journal(job.journal))
            options["rerun_failed"] = job.rerun_failed
            stream = journal.stream(pool, self._call, records, **options)
        outcomes: AsyncIterator[aiopool.Outcome[Any]]
        outcomes = (await stack.enter_async_context(stream)).outcomes()
        return outcomes

    async def _failed(self, outcome: aiopool.Outcome[Any]) -> None:
        error = outcome.error
        if isinstance(error, Malformed):
            raise Mistake(f"{self._source.place(outcome.index)}: {error}; see --format")
        self.tally.failed += 1
        kind = error.type_name if isinstance(error, aiopool.RemoteError) else type(error).__name__
        message = error.message if isinstance(error, aiopool.RemoteError) else str(error)
        if not self.tally.first:
            self.tally.first = f"{kind}: {message}".splitlines()[0]
        if self._errors is not None:
            record: Any = outcome.item
            told = {
                "record": json.loads(record) if self._job.form == "jsonl" else record,
                "exception": kind,
                "message": message,
                "attempts": outcome.attempts,
            }
            if self._errors.add(json.dumps(told) + "\n"):
                await self._errors.room()

    def ended(self, why: str, status: int) -> int:
        """Say what came of it, unless all is well; gives the status back."""
        tally = self.tally
        if why or tally.failed:
            told = f"{why}; {tally}" if why else str(tally)
            sys.stderr.write(f"aiopool map: {told}\n")
        if tally.failed:
            kept = "" if self._errors else "; --errors FILE keeps every one"
            sys.stderr.write(f"aiopool map: the first failed with {tally.first}{kept}\n")
        return status


def call_of(target: str, *, is_json: bool) -> Call | AsyncCall:
    """What is called with each record."""
    fn = load(target)
    is_async = iscoroutinefunction(fn) or iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004
    return (AsyncCall if is_async else Call)(fn, target, is_json=is_json)


def _may_pass(error: Exception) -> bool:
    """Whether another attempt could end differently."""
    return not isinstance(error, (Malformed, NotJSON))


def _terminated_as_interrupted() -> Event:
    """Have a SIGTERM end the program as a Ctrl-C does; set if one has come."""
    terminated = Event()

    def on_signal(*_: object) -> None:
        terminated.set()
        signal.raise_signal(signal.SIGINT)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else that may be ignored
        signal.signal(signal.SIGTERM, on_signal)
    return terminated


@contextmanager
def _stdout_for_results() -> Iterator[int]:
    """Give the descriptor of standard output to results alone; whatever else prints, to stderr."""
    if sys.stdout is None:
        message = "standard output is closed; let it go to a file or to /dev/null"
        raise Mistake(message)
    sys.stdout.flush()
    fd = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield fd
    finally:
        os.dup2(fd, 1)
        os.close(fd)


def _file(name: str, others: Sequence[str | int], stack: ExitStack) -> Lines:
    """A file to write, closed with the stack; raises ``Mistake``, also if it is one of others."""
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        stack.callback(os.close, fd)
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and any(
            os.path.samestat(found, os.stat(other))  # noqa: PTH116
            for other in others
        ):
            message = f"{name} is in use as another file of this command; name another one"
            raise Mistake(message)
    except OSError as error:
        raise unreadable(name, error) from None
    return Lines(fd, name)
