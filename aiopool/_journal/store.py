"""The file of a journal: what is in it, and everything that is ever done to it.

Every method blocks, and all but the last words of a process come from one thread. Rules:

- SQLite's own exclusive lock is held from ``open`` to ``close``: the system takes it back when the
  process dies, however it dies, and it works wherever SQLite does. In that mode the write-ahead
  log needs no shared memory file, and a close leaves the database alone in its folder.
- One ``save`` is one transaction. The log is not synced with every commit unless ``durable``: what
  was committed survives the death of the process, and with ``durable`` that of the machine.
- A row of ``tasks`` is a function by name and version; a row of ``items`` one of its calls that
  ended, with the result, or the error and the arguments if they can be kept.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import time
import traceback
from pathlib import Path
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, final

from aiopool import preserve, restore
from aiopool._journal.identity import Key, digest, task_of, version_of
from aiopool.errors import JournalError, JournalFull, JournalLocked, NotTransferable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Literal

Row: TypeAlias = "tuple[Key | None, tuple[Any, ...]]"
"""A call to look up: its key, None for the digest of its arguments, and these."""

FORMAT: Final = 1
_APPLICATION: Final = 0x61696F70  # "aiop" as SQLite's application id
_LOCK_PATIENCE: Final = 0.2  # seconds: two that open the file at once do not both give up
_LOCK_PAUSES: Final = 0.001, 0.02  # seconds between attempts, from and to
_MARGIN: Final = 1 << 20  # bytes of a row beside its value, at most
_CANNOT_WRITE: Final = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
}
_CANNOT_OPEN: Final = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
_log: Final = logging.getLogger("aiopool.journal")

_SCHEMA: Final = f"""
    CREATE TABLE tasks (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, fn BLOB,
        UNIQUE (name, version)
    );
    CREATE TABLE items (
        task INTEGER NOT NULL, key NOT NULL, value BLOB NOT NULL, error TEXT, item BLOB,
        attempts INTEGER NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (task, key)
    );
    CREATE INDEX failures ON items (task) WHERE error IS NOT NULL;
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {FORMAT};
"""

_FIND: Final = """
    SELECT value, error, attempts FROM items
    WHERE task = ? AND key = ? AND (error IS NULL OR at >= ?)
"""
_SAVE: Final = """
    INSERT INTO items (task, key, value, error, item, attempts, at) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (task, key) DO UPDATE SET
        value = excluded.value, error = excluded.error, item = excluded.item, at = excluded.at,
        attempts = items.attempts + excluded.attempts
"""
_FAILURES: Final = """
    SELECT task, name, version, fn, key, value, item, attempts, at
    FROM items JOIN tasks ON tasks.id = items.task WHERE error IS NOT NULL ORDER BY at, items.rowid
"""


@final
class Ended(NamedTuple):
    """How a call ended: with ``value``, or with ``error``."""

    key: Key
    args: tuple[Any, ...]
    value: Any
    error: BaseException | None
    attempts: int


@final
class Failure(NamedTuple):
    """A failed call as it is stored; ``fn``, ``value`` and ``item`` as ``preserve`` gave them."""

    task: int
    name: str
    version: str
    fn: bytes | None
    key: Key
    value: bytes
    item: bytes | None
    attempts: int
    at: float


@final
class Store:
    """An open journal file, for one thread."""

    def __init__(self, path: str, *, durable: bool, on_full: Literal["stop", "continue"]) -> None:
        self.path = path
        self.unsaved = 0
        self._durable = durable
        self._on_full = on_full
        self._kept: dict[int, object] = {}  # by task, the function that is stored
        self._new: dict[tuple[str, str], int] = {}  # tasks that no save has brought into the file
        self._db: sqlite3.Connection

    def guarded(self, method: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - its result
        """Call one of the methods; what SQLite raises comes as ``JournalError``."""
        try:
            return method(*args)
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def open(self) -> None:
        """Open or create the file and lock it; raises ``JournalError`` and ``JournalLocked``.

        Two that open it at once both have it shared and keep each other from having it alone, so
        that waiting would not help. Both let go, and come again after pauses of different length.
        """
        patience = time.monotonic() + _LOCK_PATIENCE
        while not self._is_opened(last=time.monotonic() >= patience):
            time.sleep(random.uniform(*_LOCK_PAUSES))  # noqa: S311 - no secret

    def close(self) -> None:
        """Write the log into the database, remove it, and let the lock go."""
        self._db.close()

    def task(
        self,
        fn: Callable[..., Any],
        name: str | None,
        given: str | int | None,
        keyed: bool,  # noqa: FBT001
    ) -> int:
        """The number of a function under this name and version, its own if they are None.

        Writes nothing: the file, which is ours alone, gets a new one with the first of its items.
        """
        name = name or task_of(fn)
        try:
            version = version_of(fn, given, keyed=keyed)
        except Exception as error:
            fix = "version=" if given is None else "key="
            reason = f"the version of {name} cannot be told from what it is ({error}); pass {fix}"
            raise JournalError(self.path, reason) from error
        query = "SELECT id FROM tasks WHERE name = ? AND version = ?"
        found: tuple[int] | None = self._db.execute(query, (name, version)).fetchone()
        if found is not None:
            return found[0]
        last: int = self._db.execute("SELECT ifnull(max(id), 0) FROM tasks").fetchone()[0]
        return self._new.setdefault((name, version), max(last, *self._new.values(), 0) + 1)

    def find(self, task: int, rows: Iterable[Row], since: float) -> list[tuple[Key, Ended | None]]:
        """The key of each call, and how it ended; None also if it failed before that time.

        Raises ``JournalError`` for arguments that have no digest.
        """
        found = []
        for key, args in rows:
            known = self._digest(args) if key is None else key
            row = self._db.execute(_FIND, (task, known, since)).fetchone()
            found.append((known, None if row is None else self._restored(known, args, *row)))
        return found

    def save(self, task: int, fn: Callable[..., Any], ends: Sequence[Ended]) -> Sequence[Ended]:
        """Store how calls ended; the same, but for results that could not be stored.

        Those are failures now. Raises ``JournalFull`` if nothing more can be written, unless the
        run is to go on without.
        """
        now = time.time()
        encoded = [self._encoded(task, end, now) for end in ends]
        try:
            self._write(task, fn, [row for _, row in encoded])
        except sqlite3.Error as error:
            full = self._explained(error)
            if self._on_full == "stop" or not isinstance(full, JournalFull):
                raise full from error
            if not self.unsaved:
                _log.error("%s; the run goes on, and what ends now is not remembered", full)
            self.unsaved += len(ends)
        return [end for end, _ in encoded]

    def failures(self) -> list[Failure]:
        """Every call that failed, the oldest failure first."""
        return [Failure(*row) for row in self._db.execute(_FAILURES)]

    # The file ---------------------------------------------------------------------------------

    def _is_opened(self, *, last: bool) -> bool:
        path = Path(self.path).absolute()  # or ":memory:" and "" would be no files
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException as error:
            self._db.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY and not last:
                return False
            raise
        return True

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";")[:-1]:
                db.execute(statement)
        elif application != _APPLICATION:
            reason = "this is the database of another program; give the journal a path of its own"
            raise JournalError(self.path, reason)
        elif version > FORMAT:
            reason = (
                f"a newer aiopool wrote it, in format {version}, and this one reads {FORMAT}; "
                "run pip install --upgrade aiopool-toolkit"
            )
            raise JournalError(self.path, reason)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")

    def _write(self, task: int, fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> None:
        db = self._db
        db.execute("BEGIN")
        try:
            new = [names for names, number in self._new.items() if number == task]
            insert = "INSERT INTO tasks (id, name, version) VALUES (?, ?, ?)"
            db.executemany(insert, [(task, *names) for names in new])
            db.executemany(_SAVE, rows)
            if self._kept.get(task) is not fn and any(row[3] is not None for row in rows):
                db.execute("UPDATE tasks SET fn = ? WHERE id = ?", (_kept(fn), task))
                self._kept[task] = fn
            db.execute("COMMIT")
            for names in new:
                del self._new[names]
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._kept.pop(task, None)
            raise

    def _explained(self, error: sqlite3.Error) -> JournalError:
        """What SQLite says, as what its user can do about it."""
        extended = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            reason = (
                "another run has it open; wait until that has ended or stop it, "
                "or give this one a path of its own"
            )
            return JournalLocked(self.path, reason)
        if code == sqlite3.SQLITE_FULL or extended in _CANNOT_WRITE:
            reason = f"nothing more can be written ({error}); make room and run again"
            return JournalFull(self.path, reason)
        if code == sqlite3.SQLITE_NOTADB:
            reason = "this file is no journal; give the journal a path of its own"
            return JournalError(self.path, reason)
        if code == sqlite3.SQLITE_CORRUPT:
            reason = f"the file is damaged ({error}); put a copy in its place, or delete it"
            return JournalError(self.path, reason)
        if code in _CANNOT_OPEN or extended == sqlite3.SQLITE_IOERR_LOCK:
            reason = f"{error}; is it a file in a folder that exists, and may both be written to?"
            return JournalError(self.path, reason)
        return JournalError(self.path, str(error))

    # Its rows ---------------------------------------------------------------------------------

    def _digest(self, args: tuple[Any, ...]) -> bytes:
        try:
            return digest(args)
        except Exception as error:
            reason = (
                f"a call cannot be known again by its arguments ({error}); pass key=, a function "
                "of the same arguments that gives a str, an int or bytes"
            )
            raise JournalError(self.path, reason) from error

    def _restored(
        self, key: Key, args: tuple[Any, ...], value: bytes, error: str | None, attempts: int
    ) -> Ended:
        try:
            result = restore(value)
        except Exception as why:  # noqa: BLE001 - whatever the hooks of the classes in it raise
            reason = (
                f"the result of the call with {brief(args)} cannot be read back "
                f"({type(why).__name__}: {why}); bring back what it is made of, or pass another "
                "version= to have all of it made again"
            )
            return Ended(key, args, None, JournalError(self.path, reason), attempts)
        if error is not None:
            return Ended(key, args, None, result, attempts)
        return Ended(key, args, result, None, attempts)

    def _encoded(self, task: int, end: Ended, now: float) -> tuple[Ended, tuple[Any, ...]]:
        key, args, value, error, attempts = end
        if error is None:
            try:
                data = self._preserved(value, f"the result of the call with {brief(args)}")
            except NotTransferable as why:
                return self._encoded(task, Ended(key, args, None, why, attempts), now)
            return end, (task, key, data, None, None, attempts, now)
        try:
            item = self._preserved(args, "the arguments")
        except NotTransferable:
            item = None
        text = "".join(traceback.format_exception_only(error)).strip()
        text = text.encode(errors="backslashreplace").decode()  # a file's name may be in it
        return end, (task, key, preserve(error), text, item, attempts, now)

    def _preserved(self, obj: object, what: str) -> bytes:
        data = preserve(obj, what)
        most = self._db.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - _MARGIN
        if len(data) > most:
            why = f"it takes {len(data):,} bytes and SQLite keeps {most:,} at most"
            raise NotTransferable(what, "", why, "Write it to a file and return the path")
        return data


def _kept(fn: Callable[..., Any]) -> bytes | None:
    try:
        return preserve(fn)
    except NotTransferable:
        return None
