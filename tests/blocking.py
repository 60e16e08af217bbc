"""Fails a blocking call that aiopool makes on a thread whose event loop is running.

The usual calls are replaced for the whole session: sleeping, waiting for a process, a thread or
a `concurrent.futures` future, reading or writing a blocking socket. A replacement acts only
where a loop runs on the current thread, the call would really wait, and the innermost function
that is neither the standard library's nor a third party's belongs to aiopool. It raises
`BlockingCall` and remembers it, so that a handler that swallows the exception hides nothing.

Not seen: locks and events, file and pipe reads, anything written in C that waits by itself.
"""

import asyncio
import concurrent.futures
import functools
import multiprocessing.process
import os
import socket
import subprocess
import sys
import threading
import time
import traceback

from tests.helpers import ROOT

PACKAGE = f"{ROOT / 'aiopool'}{os.sep}"
OTHERS = tuple(f"{ROOT / name}{os.sep}" for name in ("tests", "benchmarks", "docs"))
# Frames at which the code called by the loop ends and the code that runs the loop begins.
LOOP_FRAMES = tuple(f"asyncio{os.sep}{name}.py" for name in ("events", "base_events", "runners"))


class BlockingCall(AssertionError):
    """aiopool called something that stops the event loop."""


def always(*args, **kwargs):
    return True


def _socket_waits(sock, *args, **kwargs):
    return sock.gettimeout() != 0


def _thread_waits(thread, timeout=None):
    return timeout != 0 and thread.is_alive()


def _process_waits(process, timeout=None):
    return timeout != 0 and process.exitcode is None


def _popen_waits(process, *args, **kwargs):
    return kwargs.get("timeout") != 0 and process.poll() is None


def _future_waits(future, timeout=None):
    return timeout != 0 and not future.done()


def _waitpid_waits(pid, options):
    return not options & os.WNOHANG


GUARDED = [
    (time, "sleep", always),
    (subprocess, "run", always),
    (subprocess, "call", always),
    (subprocess, "check_call", always),
    (subprocess, "check_output", always),
    (subprocess.Popen, "wait", _popen_waits),
    (subprocess.Popen, "communicate", _popen_waits),
    (threading.Thread, "join", _thread_waits),
    (multiprocessing.process.BaseProcess, "join", _process_waits),
    (concurrent.futures.Future, "result", _future_waits),
    (concurrent.futures.Future, "exception", _future_waits),
    (os, "waitpid", _waitpid_waits),
    *((socket.socket, name, _socket_waits) for name in ("accept", "recv", "recv_into", "sendall")),
]


class BlockingGuard:
    """Installs the replacements and remembers what they caught."""

    def __init__(self):
        self.caught = []
        self._undo = []

    def install(self):
        for owner, name, waits in GUARDED:
            if hasattr(owner, name):
                self._replace(owner, name, waits)

    def uninstall(self):
        while self._undo:
            self._undo.pop()()

    def take(self):
        """Give what was caught since the last time."""
        caught, self.caught = self.caught, []
        return caught

    def _replace(self, owner, name, waits):
        original = getattr(owner, name)
        inherited = name not in vars(owner)

        @functools.wraps(original)
        def guarded(*args, **kwargs):
            if asyncio._get_running_loop() is not None and waits(*args, **kwargs):
                self._judge(f"{owner.__name__}.{name}")
            return original(*args, **kwargs)

        setattr(owner, name, guarded)
        undo = functools.partial(delattr, owner, name)
        if not inherited:
            undo = functools.partial(setattr, owner, name, original)
        self._undo.append(undo)

    def _judge(self, what):
        frame = responsible_frame(sys._getframe(2))
        if frame is None:
            return
        message = f"{what} blocks the event loop:\n{''.join(traceback.format_stack(frame)[-3:])}"
        self.caught.append(message)
        raise BlockingCall(message)


def responsible_frame(frame):
    """Give the frame of aiopool that made the call, None if somebody else made it."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return frame
        if file.startswith(OTHERS) or file.endswith(LOOP_FRAMES):
            return None
        frame = frame.f_back
    return None
