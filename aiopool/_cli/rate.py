"""``--rate``: so many records a second, by aiolimiter's leaky bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiopool._cli.mistakes import Mistake

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_TENTH: Final = 0.1


def limiter(rate: str) -> AbstractAsyncContextManager[None]:
    """What lets ``10/s``, ``600/m`` or ``5/h`` begin; raises ``Mistake``.

    They begin evenly: at most a tenth of a second's worth at once, and at least one.
    """
    count, _, unit = rate.partition("/")
    try:
        number = float(count)
    except ValueError:
        number = 0
    if not 0 < number < float("inf") or unit not in _SECONDS:
        message = f"--rate {rate}: write a number above 0 and a unit, as in 10/s, 600/m or 5/h"
        raise Mistake(message)
    try:
        from aiolimiter import AsyncLimiter
    except ModuleNotFoundError:
        message = "--rate needs the extra `cli`: pip install 'aiopool-toolkit[cli]'"
        raise Mistake(message) from None
    a_second = number / _SECONDS[unit]
    burst = max(1.0, a_second * _TENTH)
    return AsyncLimiter(burst, burst / a_second)
