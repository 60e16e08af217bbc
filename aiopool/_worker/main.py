"""What the executor runs in a worker process: ``prepare`` once, then ``serve`` until the end.

Kept light, because every new worker pays for what it imports; it is also what a fork server
loads ahead, so that a replacement starts in milliseconds.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from aiopool._wire.failure import encode_failure
from aiopool._wire.messages import HELLO, REFUSED
from aiopool._wire.pickling import dumps, loads, seal
from aiopool._wire.slate import Slate
from aiopool._worker import guard
from aiopool._worker.serve import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Plan(NamedTuple):
    """What a worker is to know before it starts."""

    initializer: bytes | None
    """Pickled ``(function, arguments)`` to run before the first call."""

    measure: bool
    """Whether to report memory in use with the results."""

    levels: Mapping[str, int] | None = None
    """Levels of the parent's loggers, None to leave output where it goes by itself."""

    slate_name: str | None = None
    """Name of the slate where descriptors cannot be passed over the socket."""

    inherited: Sequence[int] = ()
    """Descriptors of the parent's that a forked worker must not keep open."""


_ready: list[tuple[Worker, Plan]] = []


def prepare(sock: socket.socket, plan: Plan) -> None:
    """Set the process up: descriptors, parent guard, signals, standard streams."""
    for fd in plan.inherited:
        _close(fd)
    slate = _attach(sock, plan)
    worker = Worker(sock, slate, measure=plan.measure)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, worker.on_interrupt)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if plan.levels is not None:
        worker.forward_output(plan.levels)
    _ready.append((worker, plan))


def ready() -> None:
    """A call that does nothing: submitting it is what starts the process."""


def serve() -> None:
    """The one call that stays open for the worker's life."""
    worker, plan = _ready.pop()
    try:
        _serve(worker, plan)
    finally:
        if worker.output is not None:
            worker.output.detach()


def _serve(worker: Worker, plan: Plan) -> None:
    try:
        if plan.initializer is not None:
            function, arguments = loads(plan.initializer)
            function(*arguments)
    except BaseException as error:  # noqa: BLE001 - the parent decides what to make of it
        _send(worker, REFUSED, encode_failure(error, dumps, loads))
        return
    _send(worker, HELLO, os.getpid())
    worker.run()


def _send(worker: Worker, kind: int, message: Any) -> None:  # noqa: ANN401 - plain builtins
    if worker.output is not None:
        worker.output.finish()
    worker.send(kind, *seal(message))


def _attach(sock: socket.socket, plan: Plan) -> Slate:
    """Take over what the parent sent ahead: the slate and the guard pipe."""
    if plan.slate_name is not None:
        guard.arm(None)
        return Slate.named(plan.slate_name)
    _, fds, _, _ = socket.recv_fds(sock, 1, 2)
    slate_fd, *guard_fds = fds
    guard.arm(guard_fds[0] if guard_fds else None)
    return Slate.attach(slate_fd)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:  # it is gone already, which is what was wanted
        return
