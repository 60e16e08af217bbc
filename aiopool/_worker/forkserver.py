"""What a fork server loads and nobody else: it removes its socket when its program has gone.

The program does so itself where it comes to its end; one that was killed does not, and each would
leave a directory behind.
"""

from __future__ import annotations

import atexit
import multiprocessing.forkserver
import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

_PATIENCE: Final = 0.2
"""Seconds in which a program that has closed its files is gone, unless it goes on without us."""


def _remove_socket(server: int, program: int) -> None:
    address = getattr(_the_server, "_forkserver_address", None)
    if os.getpid() != server or not isinstance(address, str):  # not in what it has forked
        return
    end = time.monotonic() + _PATIENCE
    while os.getppid() == program:
        if time.monotonic() > end:
            return
        time.sleep(0.001)
    with suppress(OSError):  # it is gone, or others have files beside it
        Path(address).unlink()
        Path(address).parent.rmdir()


_the_server = getattr(multiprocessing.forkserver, "_forkserver", None)
atexit.register(partial(_remove_socket, os.getpid(), os.getppid()))
