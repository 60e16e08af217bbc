"""Whether somebody is still writing a file.

Linux is asked: a read lease is refused while any process has the file open for writing, see
https://man7.org/linux/man-pages/man2/F_GETLEASE.2const.html. It is given for one's own files, on
local file systems. On others it may be refused for any file, so they are not asked. Otherwise size
and time of a file that is done stay as they are.
"""

from __future__ import annotations

import os
import signal
import sys
from math import inf
from pathlib import Path
from stat import S_ISREG
from time import monotonic, time
from typing import TYPE_CHECKING, Final, NamedTuple, final

if sys.platform == "linux":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Collection

_LOCAL: Final = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs"}


class _Look(NamedTuple):
    """A file as it was found, and since when it has been so."""

    size: int
    mtime: int
    since: float


@final
class Growing:
    """The files of a folder that were found being written.

    ``settle``: seconds of rest that show a file to be whole where the system does not; it is asked
    if ``ask`` is set.
    """

    def __init__(self, folder: Path, settle: float) -> None:
        self._folder = folder
        self._settle = settle
        self.ask = False
        self.files: dict[str, _Look] = {}

    def is_whole(self, name: str) -> bool:
        """Whether it is a file, and nobody writes it; kept in mind if somebody does."""
        path, now = self._folder / name, monotonic()
        before = self.files.pop(name, None)
        try:
            status = path.lstat()
            if not S_ISREG(status.st_mode):
                return False
            written = is_being_written(path) if self.ask else None
        except FileNotFoundError:
            return False
        look = _Look(status.st_size, status.st_mtime_ns, now)
        if before is not None and before[:2] == look[:2]:
            look = before
        if written is None:
            written = max(now - look.since, time() - status.st_mtime) < self._settle
        if written:
            self.files[name] = look
        return not written

    def keep(self, names: Collection[str]) -> None:
        """Forget the files that are not among these."""
        self.files = {name: look for name, look in self.files.items() if name in names}

    @property
    def at_rest(self) -> bool:
        """Whether none of them has changed lately: writers hold them, and let them be."""
        latest = max((look.since for look in self.files.values()), default=-inf)
        return monotonic() - latest > self._settle


def is_told_of_writers(folder: Path) -> bool:
    """Whether the system can be asked about the files of a folder."""
    try:
        device = folder.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = [rest.split()[0] for rest in (m.split(" - ")[1] for m in mounts if f" {number} " in m)]
    return bool(kinds) and _LOCAL.issuperset(kinds)


def is_being_written(path: Path) -> bool | None:
    """Whether a process has the file open for writing; None if the system does not tell.

    Raises FileNotFoundError if it is gone.
    """
    if sys.platform != "linux":
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:
        return None
    try:
        # A writer who comes while the lease is held waits until it is not, a few microseconds, and
        # a signal is sent to its holder: not the usual one, which ends the process, but one that
        # is ignored.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(file)
    return False
