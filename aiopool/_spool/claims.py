"""Whose a file is: a watcher's own folder inside the one it watches, and the lock of that.

A file is claimed by renaming it into the folder of claims, where it keeps its name. The lock is
held for as long as the watcher lives, and by nobody afterwards: whoever can take it may give back
what is left there. Nothing here overwrites a file, and nothing here waits.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    import re
    from pathlib import Path

_ENDINGS: Final = (".done", ".failed", ".error")
_CLAIMS: Final = ".running-"
_LOCK: Final = ".lock"
_log: Final = logging.getLogger("aiopool")


@final
class Claims:
    """What one watcher has claimed in a folder, of the files whose names match a pattern.

    Raises OSError if there can be no such folder.
    """

    def __init__(self, folder: Path, pattern: re.Pattern[str]) -> None:
        self._folder = folder
        self._pattern = pattern
        self._foreign: set[str] = set()  # names of files that cannot be claimed
        lock = None
        while lock is None:  # somebody took it for a dead one's before it was locked
            self.path = folder / f"{_CLAIMS}{os.getpid()}-{secrets.token_hex(4)}"
            self.path.mkdir()
            with suppress(FileNotFoundError):
                lock = _locked(self.path)
        self._lock = lock

    def wants(self, name: str) -> bool:
        """Whether files of that name are waiting."""
        hidden = name.startswith(".") or name.endswith(_ENDINGS) or name in self._foreign
        return not hidden and self._pattern.match(name) is not None

    def scan(self) -> tuple[set[str], list[str]]:
        """The names of files that wait, and those of them that a dead watcher had claimed.

        Raises OSError if the folder cannot be read, or was removed, even if there is another now.
        """
        self.path.stat()
        names: set[str] = set()
        recovered: list[str] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if self.wants(entry.name):
                    if entry.is_file(follow_symlinks=False):
                        names.add(entry.name)
                elif entry.name.startswith(_CLAIMS) and entry.name != self.path.name:
                    recovered += filter(self.wants, _recover(self._folder / entry.name))
        return names.union(recovered), recovered

    def take(self, name: str) -> bool:
        """Claim a file; False if it is gone, or may not be moved by us.

        Raises OSError if that is so of all files.
        """
        if (self.path / name).exists():  # it could not go back, and is not to be overwritten
            return False
        try:
            (self._folder / name).rename(self.path / name)
        except FileNotFoundError:
            return False
        except PermissionError as error:
            # Of another user in a sticky folder, say; Windows means a file that is open.
            if sys.platform == "win32" or not os.access(self._folder, os.W_OK | os.X_OK):
                raise
            self._foreign.add(name)
            _log.warning("%s is left alone: %s", self._folder / name, error.strerror)
            return False
        return True

    def give_back(self, name: str) -> None:
        """Let a file wait again; if another of that name waits, when that is done."""
        with suppress(FileExistsError, FileNotFoundError):
            _move(self.path / name, self._folder / name)

    def conclude(self, name: str, ending: str) -> Path | None:
        """Rename a file by how its call ended: where it is now, None if the call has removed it."""
        stem, number = name, 1
        while True:
            again = "" if number == 1 else f".{number}"
            place = self._folder / f"{stem}{again}{ending}"
            try:
                _move(self.path / name, place)
            except FileExistsError:
                number += 1
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG or not stem:
                    raise
                stem = stem[:-1]  # until there is room for the ending
            else:
                return place

    def close(self) -> None:
        """Give everything back, and let go."""
        _dissolve(self.path)
        os.close(self._lock)


def _locked(claims: Path) -> int | None:
    """The lock of a folder of claims, an open file; None if somebody has it.

    Raises FileNotFoundError if the folder is gone.
    """
    path = claims / _LOCK
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
    except OSError:  # gone by now, or not for us to judge
        return []
    if lock is None:
        return []
    try:
        return _dissolve(claims)
    finally:
        os.close(lock)


def _dissolve(claims: Path) -> list[str]:
    """Give back all that is there, and remove the folder unless something cannot go back yet."""
    moved: list[str] = []
    with suppress(OSError):
        for claimed in list(claims.iterdir()):
            if claimed.name != _LOCK:
                with suppress(FileExistsError, FileNotFoundError):
                    if _has_moved(claimed):
                        claimed.unlink()
                        continue
                    _move(claimed, claims.parent / claimed.name)
                    moved.append(claimed.name)
        (claims / _LOCK).unlink()
        claims.rmdir()
    return moved


def _has_moved(claimed: Path) -> bool:
    """Whether its move was cut short by a kill: it has its new name, and still the old one."""
    status = claimed.lstat()
    if status.st_nlink == 1:
        return False
    with os.scandir(claimed.parent.parent) as entries:
        return any(
            entry.inode() == status.st_ino
            for entry in entries
            if entry.name == claimed.name
            or (entry.name.startswith(claimed.name) and entry.name.endswith(_ENDINGS))
        )


def _move(source: Path, target: Path) -> None:
    """Rename a file; raises FileExistsError instead of overwriting another."""
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a file system without hard links, somebody else's file, or a folder
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        source.rename(target)
    else:
        source.unlink()
