"""Starts a worker process and lets go of it again: the blocking half of a lane.

The process belongs to a ``ProcessPoolExecutor`` with one worker, which brings the start method,
the preparation of the main module and the reaping. Everything here may block and runs in a
thread; nothing here knows the event loop.

Descriptors of the parent's that a worker must not hold, or it would never see the parent die:
others are closed on exec, a forked worker closes those in ``_private`` itself.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.process
import os
import socket
import sys
import threading
import uuid
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final

from aiopool._wire.slate import Slate
from aiopool._worker.main import prepare, ready
from aiopool.errors import WorkerCrashed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from aiopool._worker.main import Plan

_SOCKET_BUFFER: Final = 1 << 20
_PRELOAD: Final = ("aiopool._worker.forkserver", "aiopool._worker.main", "asyncio", "cloudpickle")
"""What nearly every worker needs: its main module, most likely, imports asyncio."""

UNGUARDED: Final = 78
"""Exit code of a worker whose main module opened a pool while it was being imported there."""

_NEEDED: Final = 24
"""Descriptors to be had before a process is started; it takes about twenty, most for a moment."""

_private: set[int] = set()
_one_fork: Final = threading.Lock()
"""Held from the first descriptor to the fork, or a child would get those of another launch."""

_one_main: Final = threading.Lock()
"""Held while the main module's file is looked at, and while it is hidden."""


def default_context() -> BaseContext:
    """The start method used where none is asked for: forkserver where there is one, else spawn.

    Never fork: a child forked beside running threads and an event loop inherits their locks,
    handlers and descriptors.
    """
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def leave_if_unguarded() -> None:
    """End a new worker whose main module is about to open a pool as it is imported.

    A script without the ``__main__`` guard runs again in each worker that starts; it would start
    workers of its own. The parent is told by the exit code, and says what to do.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def why_not_started(pid: int | None, exitcode: int | None) -> Exception:
    """Why a worker ended before it was ready."""
    if exitcode == UNGUARDED:
        return RuntimeError(
            "the main module opens a pool when it is imported, and every new worker imports it; "
            "put what the script runs under: if __name__ == '__main__':"
        )
    return WorkerCrashed("its start", pid=pid, exitcode=exitcode)


@contextmanager
def _main_without_file() -> Iterator[None]:
    """Let workers start though the main module's file is none, as with ``python - < script``.

    They would try to import it, and need not: what lives in ``__main__`` goes to them by value.
    """
    with _one_main:
        main = sys.modules["__main__"]
        path = getattr(main, "__file__", None)
        known = getattr(main, "__spec__", None) is not None
        if path is not None and not known and not Path(path).exists():
            del main.__file__
            try:
                yield
            finally:
                main.__file__ = path
            return
    yield


def preload() -> None:
    """Let a fork server that is not running yet load what every worker needs."""
    server = getattr(multiprocessing.forkserver, "_forkserver", None)
    wanted = list(getattr(server, "_preload_modules", ["__main__"]))
    wanted.extend(name for name in _PRELOAD if name not in wanted)
    multiprocessing.forkserver.set_forkserver_preload(wanted)


@final
class _Process:
    """A process as its executor sees it: one whose end shows whoever else holds its pipes.

    Where processes are children of this one the sentinel is a pipe's end, and a grandchild that
    outlives the worker keeps it from being readable; the executor could never be joined.
    """

    def __init__(self, process: BaseProcess) -> None:
        self.process = process
        self._pidfd: int | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - it stands in for another object
        return getattr(self.process, name)

    @property
    def sentinel(self) -> int:
        """A process descriptor where there is such a thing, else the process's own sentinel."""
        if self._pidfd is None and hasattr(os, "pidfd_open"):
            with suppress(OSError):  # it is reaped already, or the kernel is too old
                self._pidfd = os.pidfd_open(self.pid)
        return self.process.sentinel if self._pidfd is None else self._pidfd

    def release(self) -> None:
        """Close its descriptors, which would wait for the garbage collector."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self.process.exitcode is not None:
            self.process.close()


@final
class _Context:
    """A multiprocessing context that remembers the process it made."""

    def __init__(self, context: BaseContext) -> None:
        self._context = context
        self.process: _Process | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - it stands in for another object
        return getattr(self._context, name)

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # noqa: ANN401, N802 - the context's own interface
        self.process = _Process(self._context.Process(*args, **kwargs))  # type: ignore[attr-defined]
        return self.process


@final
class Launched:
    """A started worker process and the parent's ends of what joins the two."""

    def __init__(self, context: BaseContext, plan: Plan) -> None:
        """Start it; blocks until the process exists, not until it is ready.

        Raises OSError where the system refuses a process or a descriptor, with nothing left.
        """
        forked = context.get_start_method() == "fork"
        self._alone = _one_fork if forked else nullcontext()
        self._guard: int | None = None
        self._mine: set[int] = set()  # descriptors that no worker must hold
        self.slate: Slate | None = None
        self._observed = _Context(context)
        with self._alone, _main_without_file():
            self.sock, self._child = socket.socketpair()
            try:
                self._start(plan, forked=forked)
            except BaseException:
                self._close()
                raise

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        process = self._observed.process
        return None if process is None else process.pid

    def wait(self) -> int | None:
        """Block until the process has ended and is reaped; its exit code, None if unknown."""
        self.executor.shutdown(wait=True)
        process = self._observed.process
        return None if process is None else process.exitcode

    def started(self) -> None:
        """The worker has its own copies of what was handed to it: close ours."""
        self._child.close()

    def hang_up(self) -> None:
        """Let the worker see the end of its calls, whoever else holds the socket."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended already

    def release(self) -> None:
        """Close what the parent holds. Closing the guard ends a worker that still runs."""
        with self._alone:
            self._close()

    def _start(self, plan: Plan, *, forked: bool) -> None:
        self._try_descriptors()
        self.slate, name = self._share()
        inherited: list[int] = []
        plan = plan._replace(slate_name=name, inherited=inherited)
        self.executor = ProcessPoolExecutor(
            max_workers=1,
            mp_context=cast("BaseContext", self._observed),
            initializer=prepare,
            initargs=(self._child, plan),
        )
        self._mine.update({self.sock.fileno(), -1 if self._guard is None else self._guard} - {-1})
        _private.update(self._mine)
        if forked:
            inherited.extend(_private)
        try:
            self.executor.submit(ready)
        except BaseException:
            self.executor.shutdown(wait=False)  # lets go of its pipes
            raise
        # Whoever starts another process polls all children that multiprocessing remembers; beside
        # the executor that joins this one, that would lose a fork server child's exit code.
        made = self._observed.process
        if made is not None:
            getattr(multiprocessing.process, "_children", set()).discard(made.process)

    def _try_descriptors(self) -> None:
        """Raise OSError now rather than amid a request, if there are too few descriptors.

        A request that breaks off ends the fork server, and executors take that for the death of
        every worker it started.
        """
        spare: list[int] = []
        try:
            while len(spare) < _NEEDED:
                spare.append(os.dup(self.sock.fileno()))
        finally:
            for fd in spare:
                os.close(fd)

    def _close(self) -> None:
        _private.difference_update(self._mine)
        self.sock.close()
        self._child.close()
        if self._guard is not None:
            os.close(self._guard)
            self._guard = None
        if self.slate is not None:
            self.slate.close()
            self.slate = None
        process, self._observed.process = self._observed.process, None
        if process is not None:
            process.release()

    def _share(self) -> tuple[Slate, str | None]:
        """Make the slate and the guard pipe and send the worker its ends ahead."""
        for end in (self.sock, self._child):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
        if not hasattr(socket, "send_fds"):
            name = f"aiopool-{uuid.uuid4()}"
            return Slate.named(name), name
        slate, slate_fd = Slate.create()
        handed = [slate_fd]
        try:
            if sys.platform == "linux":
                read_end, self._guard = os.pipe()
                handed.append(read_end)
            socket.send_fds(self.sock, [b"\0"], handed)
        finally:
            for fd in handed:
                os.close(fd)
        return slate, None
