"""What happens to workers when the interpreter exits and their pool was never closed.

``concurrent.futures`` joins its threads before ``atexit`` runs, and a worker's serve call that is
still open would be joined for ever. So the workers are let go before that: ``threading`` runs such
hooks last registered first, and ``concurrent.futures`` registered its own when it was imported.
The hook has no public name; ``concurrent.futures`` itself uses it.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol


class Leaver(Protocol):
    """Something with a process to let go of."""

    def abandon(self) -> None:
        """End the process without the help of an event loop."""


_remembered: set[Leaver] = set()


def remember(leaver: Leaver) -> None:
    """Have it let go of at exit."""
    _remembered.add(leaver)


def forget(leaver: Leaver) -> None:
    """It has been let go of."""
    _remembered.discard(leaver)


def _leave() -> None:
    while _remembered:
        _remembered.pop().abandon()


# A forked child ends through the same hook, and these workers are not its own to end.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remembered.clear)

_register = getattr(threading, "_register_atexit", None)
if _register is not None:
    _register(_leave)
