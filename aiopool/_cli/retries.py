"""``--retry`` and ``--backoff``: how often a call is tried, and how long it rests in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiopool

if TYPE_CHECKING:
    from collections.abc import Callable


def policy(
    attempts: int, backoff: float, *, on: type[Exception] | Callable[[Exception], bool] = Exception
) -> aiopool.Retry:
    """So many attempts where ``on`` allows another, the first rest of ``backoff`` seconds."""
    return aiopool.Retry(
        attempts,
        on=on,
        wait_initial=backoff,
        wait_max=max(5.0, backoff),
        wait_jitter=backoff,
    )
