"""How many records were done and how many failed: what the live line and the last one tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import final


@final
@dataclass(slots=True)
class Tally:
    """Counts of records, and the first failure."""

    done: int = 0
    failed: int = 0
    first: str = ""
    began: float = field(default_factory=monotonic)

    def counts(self) -> tuple[int, None, str]:
        """Records that have ended, of nobody knows how many, and what else there is to say."""
        return self.done + self.failed, None, f"{self.failed:,} failed" if self.failed else ""

    def __str__(self) -> str:
        seconds = monotonic() - self.began
        failed = f", {self.failed:,} failed" if self.failed else ""
        rate = f" ({(self.done + self.failed) / seconds:,.0f}/s)" if seconds > 0 else ""
        return f"{self.done:,} done{failed} in {seconds:.1f} s{rate}"
