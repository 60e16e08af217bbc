"""The exceptions aiopool raises, grouped by what the caller does next.

::

    AiopoolError
    ├── PoolClosed        (RuntimeError)       open a pool, or stop sending it work
    ├── PoolFull                               wait, shed load, or use ``run``, which waits
    ├── TaskTimeout       (TimeoutError)       give it longer, or retry
    ├── WorkerCrashed     (BrokenProcessPool)  retry, or look at the call that kills its worker
    ├── NotTransferable   (TypeError,          change what is sent, as the message says
    │                      PicklingError)
    ├── JournalError                           do what the message says to the file or the key
    │   ├── JournalLocked                      wait for the run that has the journal, or stop it
    │   └── JournalFull                        make room, and run again: it goes on where it was
    └── RemoteError                            read the remote traceback it carries

Every one of them crosses between processes by pickle without losing a field.
``BrokenProcessPool`` lives in ``concurrent.futures.process``, which a worker has loaded
anyway and which costs the parent nothing until the first worker starts; to keep
``import aiopool`` light the facade loads this module lazily.
"""

from __future__ import annotations

import signal
from concurrent.futures.process import BrokenProcessPool
from pickle import PicklingError
from typing import final

__all__ = [
    "AiopoolError",
    "JournalError",
    "JournalFull",
    "JournalLocked",
    "NotTransferable",
    "PoolClosed",
    "PoolFull",
    "RemoteError",
    "TaskTimeout",
    "WorkerCrashed",
]


class AiopoolError(Exception):
    """Root of every exception that aiopool itself raises."""


@final
class PoolClosed(AiopoolError, RuntimeError):
    """The pool does not take work: it was not opened, is closing, or is closed."""


@final
class PoolFull(AiopoolError):
    """``submit`` found ``max_pending`` calls waiting already."""

    def __init__(self, max_pending: int) -> None:
        super().__init__(max_pending)
        self.max_pending = max_pending

    def __str__(self) -> str:
        return (
            f"{self.max_pending} calls are waiting already, which is max_pending; "
            "'await pool.run(...)' waits for room, 'submit' does not"
        )


@final
class TaskTimeout(AiopoolError, TimeoutError):
    """The pool stopped a call because its ``timeout`` or ``deadline`` ran out.

    ``seconds`` is the bound that ran out and ``bound`` its name, ``"timeout"`` (one
    attempt) or ``"deadline"`` (the whole task); ``deadline`` is ``seconds`` under the name
    ``retry(on=...)`` predicates use to tell this from a ``TimeoutError`` of the call's own.
    """

    def __init__(self, task: str, seconds: float, bound: str = "timeout") -> None:
        super().__init__(task, seconds, bound)
        self.task = task
        self.seconds = seconds
        self.bound = bound

    @property
    def deadline(self) -> float:
        """The bound that ran out, in seconds."""
        return self.seconds

    def __str__(self) -> str:
        return f"{self.task} did not finish within its {self.bound} of {self.seconds:g} s"


@final
class WorkerCrashed(AiopoolError, BrokenProcessPool):
    """The worker process ended while it executed this call, or could not start.

    It is also a ``concurrent.futures.process.BrokenProcessPool``, so handlers written for
    that keep working; unlike it, only the call that was executing fails.
    ``pid`` and ``exitcode`` are None where they could not be learnt; a negative
    ``exitcode`` is the number of the signal, whose name is ``signal_name``.
    """

    def __init__(
        self,
        task: str,
        *,
        pid: int | None = None,
        exitcode: int | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(task, pid, exitcode, reason)
        self.task = task
        self.pid = pid
        self.exitcode = exitcode
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild through the keyword-only fields; keep notes and other state."""
        return _rebuild_crash, (self.task, self.pid, self.exitcode, self.reason), self.__dict__

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that ended the worker, None if it ended otherwise."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            return signal.Signals(-self.exitcode).name
        except ValueError:
            return f"signal {-self.exitcode}"

    def __str__(self) -> str:
        if self.pid is None and self.reason is not None:
            return f"{self.task} was not executed: {self.reason}"
        who = "the worker" if self.pid is None else f"worker {self.pid}"
        how = "ended"
        if self.signal_name is not None:
            how = f"was ended by {self.signal_name}"
        elif self.exitcode is not None:
            how = f"exited with code {self.exitcode}"
        why = f": {self.reason}" if self.reason else ""
        hint = "; the system may have run out of memory" if self._looks_like_oom else ""
        return f"{who} {how} while executing {self.task}{why}{hint}"

    @property
    def _looks_like_oom(self) -> bool:
        return self.signal_name == "SIGKILL" and self.reason is None


def _rebuild_crash(
    task: str, pid: int | None, exitcode: int | None, reason: str | None
) -> WorkerCrashed:
    return WorkerCrashed(task, pid=pid, exitcode=exitcode, reason=reason)


@final
class NotTransferable(AiopoolError, TypeError, PicklingError):
    """Something could not be pickled or unpickled on its way to or from a worker.

    It is also a ``TypeError`` and a ``pickle.PicklingError``, which is what other executors raise.

    ``what`` is the thing that was to be sent, ``where`` the path to the part of it that
    cannot be (``"args[0]['lock']"``), ``why`` the pickler's own words.
    """

    def __init__(self, what: str, where: str, why: str, fix: str) -> None:
        super().__init__(what, where, why, fix)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        return f"{self.what} cannot be sent between processes{place}: {self.why}. {self.fix}"


class JournalError(AiopoolError):
    """A journal cannot be used, or not for this: ``path`` is its file, ``reason`` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"journal {self.path}: {self.reason}"


@final
class JournalLocked(JournalError):
    """Another run has the journal open; what it had is free the moment that process is gone."""


@final
class JournalFull(JournalError):
    """The journal could not be written to: what it holds is safe, what came after is not in it."""


@final
class RemoteError(AiopoolError):
    """Stands in for an exception that cannot cross from a call to its caller.

    That is one that does not survive pickling, and one that would act on the caller's own
    program if it were raised raw: SystemExit, KeyboardInterrupt, GeneratorExit,
    StopIteration, StopAsyncIteration and cancellation.
    """

    def __init__(self, type_name: str, message: str, traceback_text: str = "") -> None:
        super().__init__(type_name, message, traceback_text)
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name
