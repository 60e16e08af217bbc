"""How long a call of one function takes, and so how many of them make a few milliseconds.

The estimate is an exponentially weighted mean of what workers measured. It decides only
how much is sent ahead, so being wrong costs time and never correctness: a batch whose
first call turns out long is taken back by the lane.
"""

from __future__ import annotations

from typing import Final, final

QUANTUM: Final = 0.003
"""Seconds of estimated work a worker may hold, the running call included."""

SMALLEST_SHARE: Final = 0.000_2
"""Seconds of work below which splitting a remainder costs more than it evens out."""

LARGEST_BATCH: Final = 1024
"""Calls in one batch at most: it bounds what one frame costs the event loop."""

OVERHEAD: Final = 0.000_000_3
"""Seconds each call costs whatever the function does: the floor of every estimate."""

_WEIGHT: Final = 0.25


@final
class Estimate:
    """Running mean of the duration of one function, in seconds; None until first measured."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def observe(self, seconds: float, count: int) -> None:
        """Take in ``count`` calls that took ``seconds`` together."""
        mean = seconds / count + OVERHEAD
        if self.seconds is None:
            self.seconds = mean
        else:
            weight = _WEIGHT if count == 1 else 1 - (1 - _WEIGHT) ** min(count, 16)
            self.seconds += (mean - self.seconds) * weight

    def fit(self, budget: float) -> int:
        """How many calls ``budget`` seconds hold, between none and ``LARGEST_BATCH``."""
        if self.seconds is None:
            return 0
        return min(LARGEST_BATCH, int(budget / self.seconds))

    def __repr__(self) -> str:
        return f"<Estimate {self.seconds}>"
