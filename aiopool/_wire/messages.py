"""What the frames between a worker and its parent say.

Envelopes are tuples and lists of plain builtins, so opening one runs no code of anybody's;
pickles of users' values lie inside as bytes and are opened one at a time, where an error or a
crash can be put down to the right call.

``CALLS`` (parent to worker): ``(forget, groups)``; ``forget`` empties the worker's table of
functions first. Without groups it says that shared objects are gone: the worker lets go of them,
and of functions they may be bound to. A group is consecutive calls of one function::

    (first call's number, function's id, the function pickled or None if sent before, mode, load)

With ``SCALARS`` in the mode the load is one pickle of the list of arguments, else a sequence with
the ``Packed`` argument of each call. With ``STAR`` that argument is a tuple to be spread. With
``EXACT`` each result is noted in the journal, or sent, before the next call starts, so that no
call need ever run twice.

``HELLO`` (worker to parent): the worker's pid; it is ready.
``REFUSED``: the wire form of the failure that kept it from getting ready.
``RESULTS``: ``(segments, resident)``; ``resident`` is the worker's memory in bytes, 0 if nobody
asked. A segment tells of consecutive calls::

    (first call's number, how many, nanoseconds they took together, kind, payload)
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

CALLS: Final = 1
HELLO: Final = 2
REFUSED: Final = 3
RESULTS: Final = 4

EXACT: Final = 1
STAR: Final = 2
SCALARS: Final = 4

VALUES: Final = 0
"""Payload: one pickle of the list of values, all scalars."""
VALUE: Final = 1
"""Payload: the ``Packed`` value of one call."""
ERROR: Final = 2
"""Payload: the wire form of the failure of one call."""
INTERRUPTED: Final = 3
"""One call was stopped as asked. No payload."""
SKIPPED: Final = 4
"""These calls were not started, as asked. No payload."""

Segment: TypeAlias = "tuple[int, int, int, int, Any]"
Group: TypeAlias = "tuple[int, int, bytes | None, int, Any]"
