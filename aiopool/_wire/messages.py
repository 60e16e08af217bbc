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
call need ever run twice. With ``CONTEXT`` the load is ``(context, load)``, the pickled values of
context variables before what is said above.

``HELLO`` (worker to parent): the worker's pid; it is ready.
``REFUSED``: the wire form of the failure that kept it from getting ready.
``RESULTS``: ``(segments, resident)``; ``resident`` is the worker's memory in bytes, 0 if nobody
asked. A segment tells of consecutive calls::

    (first call's number, how many, nanoseconds they took together, kind, payload)

What calls write beside their results goes ahead of these, in the order it was written:

``TEXT``: ``(descriptor, bytes, how)``, written to the standard stream of that descriptor.
``RECORD``: ``(call's number or 0, fields, pickle of the other fields or nothing)``, a log record.
``WARNING``: ``(pickled message and category, file name, line number)``.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

CALLS: Final = 1
HELLO: Final = 2
REFUSED: Final = 3
RESULTS: Final = 4
TEXT: Final = 5
RECORD: Final = 6
WARNING: Final = 7

EXACT: Final = 1
STAR: Final = 2
SCALARS: Final = 4
CONTEXT: Final = 8

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

MORE: Final = 0
"""Text that ends with a line, or goes on."""
FLUSH: Final = 1
"""Text after which the writer flushed its stream."""
END: Final = 2
"""Text after which a call has ended: an unfinished line is shown as it is."""

LONGEST_LINE: Final = 4 << 20
"""Bytes after which a line is taken for whole, so that neither side has to hold more."""

Segment: TypeAlias = "tuple[int, int, int, int, Any]"
Group: TypeAlias = "tuple[int, int, bytes | None, int, Any]"
