"""tenacity, behind one door: the state its strategies read, and its exponential backoff.

This is the only file that imports tenacity, and only ``retry.py`` imports this file, when a
delay is first computed. tenacity takes 47 ms to import and pulls in asyncio, while most
programs never see a failure worth retrying and no spawned worker ever does.

Time is virtual here as everywhere in this room: the state carries the ``started`` and ``now``
it is given, so ``stop_after_delay`` and its kind count on the caller's clock. It knows nothing
of the call but its failure: ``fn`` is None, ``args`` and ``kwargs`` are empty, ``idle_for`` is 0.

Not here: what may be retried and whether, which is ``retry.py``'s, and sleeping, which is the
shell's. tenacity's own retry loop is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from inspect import signature
from typing import Final, TypeAlias

from tenacity import Future, RetryCallState, Retrying, wait_exponential_jitter

Wait: TypeAlias = Callable[[RetryCallState], float]
"""What ``Retry(wait=...)`` takes: gives the seconds before the next attempt."""

Stop: TypeAlias = Callable[[RetryCallState], bool]
"""What ``Retry(stop=...)`` takes: tells whether to give up."""

# Never run: a RetryCallState must belong to some retry object.
_OWNER: Final = Retrying()

# Newer tenacity calls the first step "multiplier" and warns about "initial", its older name.
_FIRST_STEP: Final = (
    "multiplier" if "multiplier" in signature(wait_exponential_jitter).parameters else "initial"
)


@lru_cache(maxsize=64)
def exponential(initial: float, maximum: float, base: float, jitter: float) -> Wait:
    """``min(initial * base**(attempt - 1) + up to jitter, maximum)`` seconds, as stamina waits.

    The algorithm is https://cloud.google.com/storage/docs/retry-strategy, tenacity's
    ``wait_exponential_jitter``.
    """
    # Of a base beyond float range tenacity makes ``maximum``, also if nothing is to be grown.
    steady = initial == 0
    return wait_exponential_jitter(
        max=maximum,
        exp_base=1.0 if steady else float(base),
        jitter=jitter,
        **{_FIRST_STEP: initial},
    )


def call_state(error: Exception, *, attempts: int, started: float, now: float) -> RetryCallState:
    """The state of a call whose attempt number ``attempts`` failed with ``error`` at ``now``."""
    state = RetryCallState(_OWNER, None, (), {})
    state.start_time = started  # it had read the real clock
    state.attempt_number = attempts
    state.outcome = Future.construct(attempts, error, has_exception=True)
    state.outcome_timestamp = now
    return state
