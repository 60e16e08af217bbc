"""Keeps the event loop awake for a moment while the answer to a short call is about to come.

Waking a process that sleeps takes longer than many a call does. A loop that looks again at once
instead of sleeping has the answer sooner, for less of its own processor time, and serves
everything else as ever; whoever else wants the processor has it. Nobody does so in vain for long:
after a vigil that ended without an answer the next ones are left out.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final, final

from aiopool._wire.slate import give_way

SHORT: Final = 50e-6
"""Seconds that a call may be expected to take for an answer to be waited for awake."""

_LENGTH: Final = 150e-6
"""Seconds after which the loop may sleep."""

_LEFT_OUT: Final = 16
"""Vigils left out after one that was in vain."""


@final
class Vigil:
    """One pool's."""

    __slots__ = ("_left_out", "_loop", "_turning", "_until")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = 0.0
        self._turning = False  # whether the loop is kept awake now
        self._left_out = 0

    def begin(self, now: float) -> None:
        """A short call was sent to a worker that was idle."""
        if self._left_out:
            self._left_out -= 1
            return
        self._until = now + _LENGTH
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def end(self) -> None:
        """An answer has come."""
        self._until = 0.0

    def _turn(self) -> None:
        if monotonic() < self._until:
            give_way()
            self._loop.call_soon(self._turn)
            return
        self._turning = False
        if self._until:
            self._left_out = _LEFT_OUT
