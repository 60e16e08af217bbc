"""Records out of files and standard input, as they come: a block is read when it is asked for.

What can be waited for (a pipe, a terminal, a socket) is read once there is something to read, so
that the event loop never waits, and the descriptor stays as blocking as whoever shares it believes.
What cannot (a file) is read in a thread.
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import errno
import os
import select
from bisect import bisect_right
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._cli.mistakes import Mistake, unreadable
from aiopool._cli.readiness import Readiness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

STDIN: Final = "-"
_BLOCK: Final = 1 << 16
"""Bytes read at once; what a pipe holds on Linux."""
_AT_ONCE: Final = os.O_NONBLOCK if hasattr(select, "epoll") else 0
"""Opens a named pipe that nobody writes to yet; where that can be waited for afterwards."""
_LONGEST: Final = 2**31 - 1
"""Characters of a field."""
_UNQUOTED: Final = "a field without quotes holds one, or the end of a line; quote the field"


@final
class Source:
    """The records of some files, one after the other.

    ``form`` is ``lines``, ``jsonl`` or ``paths``, whose records are lines, or ``csv``, whose
    records are dicts by the names in each file's first row.
    """

    def __init__(self, files: Sequence[str], form: str) -> None:
        self._files = files
        self._is_csv = form == "csv"
        self._decode: Callable[[bytes], str] = os.fsdecode if form == "paths" else bytes.decode
        self._starts: list[int] = []  # of each file begun: the index of its first record
        self._read = 0
        for name in files:
            _check(name)

    async def records(self) -> AsyncIterator[Any]:
        """Every record; raises ``Mistake`` at what is not of the format, after those before it."""
        for name in self._files:
            self._starts.append(self._read)
            with closing(_File(name)) as file:
                blocks = self._lines(file)
                async for records in _rows(name, blocks) if self._is_csv else blocks:
                    self._read += len(records)
                    for record in records:
                        yield record

    def place(self, index: int) -> str:
        """Where a record that is a line was read: ``file:line``."""
        number = bisect_right(self._starts, index) - 1
        return f"{_shown(self._files[number])}:{index - self._starts[number] + 1}"

    async def _lines(self, file: _File) -> AsyncIterator[list[str]]:
        """The lines of a file, as many at a time as were there to be read."""
        number, parts = 1, [b""]
        async for block in file.blocks():
            if number == 1 and parts == [b""]:
                block = block.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901 - the same without
            head, newline, tail = block.rpartition(b"\n")
            if not newline:
                parts.append(block)
                continue
            whole = b"".join([*parts, head])
            parts = [tail]
            for lines in self._decoded(whole, number, file.name):
                yield lines
            number += whole.count(b"\n") + 1
        if rest := b"".join(parts):
            for lines in self._decoded(rest, number, file.name):
                yield lines

    def _decoded(self, data: bytes, number: int, name: str) -> Iterator[list[str]]:
        """Whole lines as text, the first of them that ``number``."""
        try:
            text = self._decode(data)
        except UnicodeDecodeError as error:
            before, newline, _ = data[: error.start].rpartition(b"\n")
            if newline:
                yield from self._decoded(before, number, name)
            line = number + data.count(b"\n", 0, error.start)
            message = f"{_shown(name)}:{line}: not UTF-8 text; convert the file with iconv"
            raise Mistake(message) from None
        if "\r" in text:
            text = text.replace("\r\n", "\n").removesuffix("\r")
        yield text.split("\n")


@final
class _File:
    """A file that is being read, or standard input."""

    def __init__(self, name: str) -> None:
        self.name = name
        flags = os.O_RDONLY | _AT_ONCE | getattr(os, "O_BINARY", 0)
        try:
            self._fd = 0 if name == STDIN else os.open(name, flags)
            if _AT_ONCE and name != STDIN:
                os.set_blocking(self._fd, True)
            self._readiness = Readiness(self._fd, to_write=False)
        except OSError as error:
            raise unreadable(_shown(name), error) from None

    async def blocks(self) -> AsyncIterator[bytes]:
        """What is there to be read, until the end; waits for it without holding up the loop."""
        while True:
            try:
                if self._readiness.is_known:
                    await self._readiness.wait()
                    block = os.read(self._fd, _BLOCK)
                else:
                    block = await asyncio.to_thread(os.read, self._fd, 4 * _BLOCK)
            except OSError as error:
                raise unreadable(_shown(self.name), error) from None
            if not block:
                return
            yield block

    def close(self) -> None:
        """Close it, unless it is standard input."""
        self._readiness.close()
        if self.name != STDIN:
            os.close(self._fd)


async def _rows(name: str, blocks: AsyncIterator[list[str]]) -> AsyncIterator[list[dict[str, str]]]:
    """The rows of a file of comma-separated values.

    A row ends at the end of a line up to which the quotes are even, so a field may hold lines.
    """
    csv.field_size_limit(_LONGEST)
    heading: list[str] = []
    number, is_open = 0, False
    pending: list[str] = []
    async for lines in blocks:
        found: list[dict[str, str]] = []
        for line in lines:
            number += 1
            pending.append(line)
            is_open ^= line.count('"') % 2 == 1
            if is_open:
                continue
            place, text = f"{_shown(name)}:{number + 1 - len(pending)}", "\n".join(pending)
            pending.clear()
            try:
                row = next(csv.reader((text,)), [])
            except csv.Error as error:
                yield found
                raise Mistake(f"{place}: {_UNQUOTED}") from error
            if not heading:
                heading = row
            elif row and len(row) != len(heading):
                yield found
                raise Mistake(_uneven(f"{_shown(name)}:{number}", row, heading))
            elif row:
                found.append(dict(zip(heading, row, strict=True)))
        yield found
    if pending:
        first = number + 1 - len(pending)
        message = f"{_shown(name)}:{first}: a quote that begins here never ends; double or close it"
        raise Mistake(message)


def _uneven(place: str, row: list[str], heading: list[str]) -> str:
    return f"{place}: {len(row)} fields under a heading of {len(heading)}; quote what holds commas"


def _check(name: str) -> None:
    """Raise ``Mistake`` for a file that cannot be read, before anything was done for the others."""
    if name == STDIN:
        return
    if os.path.isdir(name):  # noqa: PTH112 - a name as it was typed
        message = f"{name} is a folder; name the files in it, as in {os.path.join(name, '*')}"  # noqa: PTH118
        raise Mistake(message)
    if not os.path.exists(name):  # noqa: PTH110 - as above
        message = f"there is no file {name}; check its name"
        raise Mistake(message)
    if not os.access(name, os.R_OK):
        raise unreadable(name, PermissionError(errno.EACCES, ""))


def _shown(name: str) -> str:
    return "stdin" if name == STDIN else name
