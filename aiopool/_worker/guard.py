"""A worker does not outlive its parent, whatever it is doing when the parent dies.

On Linux the kernel sees to it: the guard is a pipe whose write end only the parent holds, and
whose read end is told to send this process SIGKILL when something happens to it. The parent's
death closes the write end. That needs no thread and no GIL here, so it also ends a worker stuck
in C code; ``PR_SET_PDEATHSIG`` would watch the fork server instead of the parent. Elsewhere a
daemon thread waits for the parent, which ends a worker that lets other threads run.

Source: fcntl(2): F_SETOWN, F_SETSIG, O_ASYNC.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait


def arm(fd: int | None) -> None:
    """End this process when its parent ends; ``fd`` is the guard pipe's read end, if any."""
    if fd is not None and sys.platform == "linux":
        _arm_pipe(fd)
    else:
        threading.Thread(target=_watch, name="aiopool guard", daemon=True).start()


def _arm_pipe(fd: int) -> None:
    import fcntl  # there is none on Windows

    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([fd], [], [], 0)[0]:  # it died before the signal was set up
        os._exit(1)


def _watch() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
