"""A folder as a queue: each file that arrives is handed to a function, once, in order of priority.

::

    async with aiopool.Pool() as pool:
        await Spool("inbox", work).run(pool)

``inbox/7.task`` waits; whoever renames it into a folder of his own, ``inbox/.running-<pid>-<random>/``,
has claimed it. It is renamed back when it was not executed, and becomes ``inbox/7.task.done``, or
``inbox/7.task.failed`` with the reason beside it in ``inbox/7.task.error``.

Rules:

- A rename is atomic, so any number of watchers, in any processes, may share a folder.
- A watcher keeps a lock on a file in its folder of claims for as long as it lives. A lock that can
  be had says that the owner is dead, and what he had claimed goes back: the kernel cannot be wrong
  about that, as a process id that was given out again could.
- A file is claimed when there is room to run it, not before: the most important one then. The rest
  is for others.
- Nothing is ever overwritten.
- A file that somebody still writes is left alone. On Linux the kernel is asked, by a read lease, which
  nobody gets while a writer has the file open (https://man7.org/linux/man-pages/man2/F_GETLEASE.2const.html);
  elsewhere, and for the files of others, size and time have to stay the same for ``settle`` seconds.

What is listed is the truth; notifications only tell when to look, and a scan now and then makes
good for those that were lost. Not here: subfolders, symbolic links, and a daemon.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import logging
import os
import re
import secrets
import signal
import sys
import traceback
from bisect import bisect_left, insort
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from math import inf, isnan
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, final

from watchfiles import Change, awatch

from aiopool.errors import PoolFull, WorkerCrashed

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Unpack

    from aiopool import Pool, TaskHandle, TaskOptions

__all__ = [
    "FileDone",
    "FileEvent",
    "FileFailed",
    "FileRecovered",
    "FileReturned",
    "FileStarted",
    "RunningFile",
    "Spool",
    "SpoolStatistics",
    "by_name",
    "by_number",
]

_log: Final = logging.getLogger("aiopool")
_OURS: Final = (".done", ".failed", ".error")
_CLAIMS: Final = ".running-"
_STEP: Final = 10
"""Milliseconds between two looks at the system's notifications; a file is seen after two of them."""
_GROWING: Final = 0.02
"""Seconds between two looks at files that are being written."""
_SHARE: Final = 20
"""Looking at the folder may take one part in so many of the time."""


# --- what is told ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvent:
    """Something that happened to a file of the folder: ``name`` is the one it came with."""

    name: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileStarted(FileEvent):
    """Its call runs, in the worker process ``pid``; None if it runs in this one."""

    pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileEnded(FileEvent):
    """Its call has ended: ``seconds`` are those of the last attempt, ``pid`` its process."""

    path: Path | None  # where the file is now; None if the call has removed it
    pid: int | None
    attempts: int
    seconds: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileDone(_FileEnded):
    """Its call returned."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileFailed(_FileEnded):
    """Its call failed for good."""

    error: BaseException


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileReturned(FileEvent):
    """Its call was stopped, and the file waits again."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecovered(FileEvent):
    """It waits again, because the watcher that had claimed it is dead."""


@final
@dataclass(frozen=True, slots=True)
class RunningFile:
    """A file that is worked on at one moment."""

    name: str
    pid: int | None
    """The worker process, None while it is not known or if there is none."""
    seconds: float
    """Since it was claimed."""


@final
@dataclass(frozen=True, slots=True)
class SpoolStatistics:
    """A spool at one moment; ``executed``, ``failed`` and ``returned`` count from its start."""

    waiting: int
    """Files in line, as far as they have been seen."""
    growing: int
    """Files that are still being written."""
    running: tuple[RunningFile, ...]
    """Files that are worked on, oldest first."""
    executed: int
    """Files whose call returned."""
    failed: int
    """Files whose call failed for good."""
    returned: int
    """Files whose call was stopped, and that wait again."""


# --- order ----------------------------------------------------------------------------------


def by_name(name: str) -> str:
    """The order of names as people see it: ``2.task`` comes before ``10.task``."""
    # A number is led by the number of its digits, so that text sorts as numbers do.
    return re.sub(r"\d+", lambda found: f"{len(found[0].lstrip('0')):04}{found[0]}", name)


def by_number(pattern: str) -> Callable[[str], tuple[float, str]]:
    """An order by the number that a regular expression finds in the name, in its first group.

    Lower comes first, names without one last, equal ones by name: ``by_number(r"-p(\\d+)")``.
    Raises ValueError if the expression is none, or has no group.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    if not expression.groups:
        raise ValueError(f"{pattern!r} has no group; put the number in brackets, as in '(\\d+)'")

    def key(name: str) -> tuple[float, str]:
        found = expression.search(name)
        try:
            number = float(found[1]) if found else inf
        except (TypeError, ValueError):
            number = inf
        return inf if isnan(number) else number, by_name(name)

    return key


# --- the folder -----------------------------------------------------------------------------


@final
class _Claims:
    """A watcher's own folder inside the watched one, and its lock; what is in it is claimed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        while True:
            name = f"{_CLAIMS}{os.getpid()}-{secrets.token_hex(4)}"
            self.path = folder / name
            self.path.mkdir()
            with suppress(FileNotFoundError):  # somebody took it for a dead one's and removed it
                lock = _locked(self.path)
                if lock is not None:
                    self._lock = lock
                    return

    def take(self, name: str) -> Path | None:
        """Claim a file; where it is now, None if it is gone."""
        path = self.path / name
        if path.exists():  # it could not go back, and is not to be overwritten
            return None
        try:
            (self.folder / name).rename(path)
        except FileNotFoundError:
            return None
        return path

    def give_back(self, name: str) -> bool:
        """Let a file wait again; False if it cannot, for another of that name waits."""
        try:
            _move(self.path / name, self.folder / name)
        except FileExistsError:
            return False  # it goes back when that one is done
        except FileNotFoundError:
            pass  # its call has removed it
        return True

    def conclude(self, name: str, suffix: str) -> Path | None:
        """Put a file back under a name that tells how it ended; None if it is gone."""
        for number in count(1):
            place = self.folder / f"{name}{'' if number == 1 else f'.{number}'}{suffix}"
            with suppress(FileExistsError):
                try:
                    _move(self.path / name, place)
                except FileNotFoundError:
                    return None
                return place
        raise AssertionError

    def close(self) -> None:
        """Give everything back and let go of the folder."""
        _dissolve(self.path)
        os.close(self._lock)

    def scan(self, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
        """The names of files that wait, and of those among them whose watcher was dead."""
        names, recovered = [], []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(_CLAIMS) and entry.name != self.path.name:
                    recovered += _recover(self.folder / entry.name)
                elif is_ours(entry.name, pattern) and entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
        recovered = [name for name in recovered if is_ours(name, pattern)]
        return [*names, *recovered], recovered


def _wanted(name: str, pattern: re.Pattern[str]) -> bool:
    """Whether a name is one that files may have which wait."""
    return pattern.match(name) is not None and not name.endswith(_OURS) and name[0] != "."


def _locked(claims: Path) -> int | None:
    """The lock of a folder of claims as an open file, None if somebody has it.

    Raises FileNotFoundError if the folder is gone.
    """
    path = claims / ".lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform == "win32":
            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == path.stat().st_ino:
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _recover(claims: Path) -> list[str]:
    """Give back what a dead watcher had claimed; the names."""
    try:
        lock = _locked(claims)
    except OSError:  # gone by now, or not ours to judge
        return []
    if lock is None:
        return []
    try:
        return _dissolve(claims)
    finally:
        os.close(lock)


def _dissolve(claims: Path) -> list[str]:
    """Move all claims back and remove their folder; it stays where one cannot go back yet."""
    moved = []
    with suppress(OSError):
        for name in os.listdir(claims):
            if name != ".lock":
                with suppress(FileExistsError, FileNotFoundError):
                    _move(claims / name, claims.parent / name)
                    moved.append(name)
        (claims / ".lock").unlink()
        claims.rmdir()
    return moved


def _move(source: Path, target: Path) -> None:
    """Rename a file; raises FileExistsError instead of overwriting another."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a file system without hard links, a file of somebody else, or a folder
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)
    else:
        source.unlink()


def _is_open_for_writing(path: Path) -> bool | None:
    """Whether any process has the file open for writing; None if the system does not tell."""
    if sys.platform != "linux":
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:
        return None
    try:
        # A writer who comes in this very moment waits, and we are sent a signal, by default one
        # that ends the process: this one is ignored.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:  # somebody else's file, or a file system that has no leases
        return None
    finally:
        os.close(file)
    return False


# --- the spool ------------------------------------------------------------------------------


@final
@dataclass(slots=True)
class _File:
    """A file that is worked on."""

    since: float
    handle: TaskHandle[Any] | None = None
    pid: int | None = None
    announced: bool = False


@final
class Spool:
    """A queue that is a folder: calls ``fn(path)`` with each file that matches ``pattern``.

    ``path`` is the absolute ``pathlib.Path`` of the claimed file, under the name it came with.
    ``fn`` is called where the pool calls it: a plain function in a worker process, an ``async
    def`` on the event loop. Results belong elsewhere; what ``fn`` leaves beside the file is moved
    to the folder when the watcher ends.

    ``order``: a key function of file names, the smallest comes first; ``by_name`` or what
    ``by_number`` makes. ``settle``: seconds a file has to stay as it is, where the system does not
    tell whether it is being written. ``rescan``: seconds between two looks at the whole folder,
    which find what notifications have missed. ``observers``: called with each ``FileEvent``, on the
    event loop. The options are those of each call, ``name`` aside; ``limit`` is how many files are
    worked on at once, default the pool's workers.
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
        observers: Iterable[Callable[[FileEvent], object]] = (),
        **options: Unpack[TaskOptions],
    ) -> None:
        ...

    def statistics(self) -> SpoolStatistics:
        """The spool at this moment, as a frozen snapshot."""

    async def run(self, pool: Pool, *, once: bool = False) -> SpoolStatistics:
        """Work through what is in the folder and what arrives, until this is cancelled.

        With ``once`` it returns when nothing is left to do. Cancelling it stops the calls that
        run and returns their files to the queue. Raises OSError if the folder cannot be used, or
        is gone; what the pool raises if ``fn`` cannot be sent, or no worker can be started.
        """
