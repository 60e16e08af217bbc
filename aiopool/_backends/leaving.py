"""What happens to workers when the interpreter exits and their pool was never closed.

``concurrent.futures`` joins its threads before ``atexit`` runs, and a worker's serve call that is
still open would be joined for ever. So the workers are let go before that: ``threading`` runs such
hooks last registered first, and ``concurrent.futures`` registered its own when it was imported.
The hook has no public name; ``concurrent.futures`` itself uses it.

Those that were remembered first are let go of first: who has a pool comes before its workers.
A forked child has none of them.
"""

from __future__ import annotations

import concurrent.futures.process  # both register their hooks: before ours
import concurrent.futures.thread  # noqa: F401
import os
import sys
import threading
from typing import Final, Protocol

NO_THREADS: Final = (3, 12) <= sys.version_info < (3, 12, 2)
"""Whether an exiting interpreter can start no thread, and so no worker (cpython#113964)."""


class Leaver(Protocol):
    """Something with a process to let go of."""

    def abandon(self) -> None:
        """End the process without the help of an event loop."""


_remembered: dict[Leaver, None] = {}
_begun = False


def remember(leaver: Leaver) -> None:
    """Have it let go of at exit."""
    _remembered[leaver] = None


def forget(leaver: Leaver) -> None:
    """It has been let go of."""
    _remembered.pop(leaver, None)


def begun() -> bool:
    """Whether the interpreter is exiting."""
    return _begun


def _leave() -> None:
    global _begun  # noqa: PLW0603 - a process exits once
    _begun = True
    while _remembered:
        leaver = list(_remembered)[0]  # noqa: RUF015 - in one step: other threads forget theirs
        forget(leaver)
        leaver.abandon()


_register = getattr(threading, "_register_atexit", None)
if _register is not None:
    _register(_leave)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remembered.clear)
