"""How many records were done and failed: the live line while they are, and the last one."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_EVERY: Final = 0.2
_EVERY_LINE: Final = 5.0


@final
@dataclass(slots=True)
class Tally:
    """Counts of records, and the first failure."""

    done: int = 0
    failed: int = 0
    first: str = ""
    began: float = field(default_factory=monotonic)

    def __str__(self) -> str:
        seconds = monotonic() - self.began
        failed = f", {self.failed:,} failed" if self.failed else ""
        rate = f" ({(self.done + self.failed) / seconds:,.0f}/s)" if seconds > 0 else ""
        return f"{self.done:,} done{failed} in {seconds:.1f} s{rate}"


@asynccontextmanager
async def shown(tally: Tally, *, wanted: bool) -> AsyncIterator[None]:
    """Show the counts on stderr while the block runs, if that is wanted."""
    if not wanted:
        yield
        return
    drawing = asyncio.get_running_loop().create_task(_draw(tally))
    try:
        yield
    finally:
        drawing.cancel()
        await asyncio.wait([drawing])


async def _draw(tally: Tally) -> None:
    in_place = sys.stderr.isatty()
    try:
        while True:
            await asyncio.sleep(_EVERY if in_place else _EVERY_LINE)
            sys.stderr.write(f"\r\x1b[K{tally}" if in_place else f"{tally}\n")
            sys.stderr.flush()
    finally:
        if in_place:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
