"""What a fork server loads and nobody else: it removes its socket when its last client has gone.

The program that started it does so itself where it comes to its end; one that was killed does not,
and each would leave a directory behind.
"""

from __future__ import annotations

import atexit
import multiprocessing.forkserver
import os
from contextlib import suppress
from functools import partial
from pathlib import Path


def _remove_socket(server: int) -> None:
    address = getattr(_the_server, "_forkserver_address", None)
    if os.getpid() != server or not isinstance(address, str):  # not in what it has forked
        return
    with suppress(OSError):  # it is gone, or others have files beside it
        Path(address).unlink()
        Path(address).parent.rmdir()


_the_server = getattr(multiprocessing.forkserver, "_forkserver", None)
atexit.register(partial(_remove_socket, os.getpid()))
