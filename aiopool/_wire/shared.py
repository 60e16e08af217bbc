"""Objects placed in shared memory once and handed to any number of calls by their address.

A ``Shared`` is the handle. Its pickle is the address, and unpickling that gives the object, so it
may stand anywhere in an argument, and a pickle of it may go to any process of this user's. The
first time a process meets an address it maps the memory, unpickles the object over it and keeps
both; after that it is one look into a table. What is in buffers (arrays, tables) is never copied
and cannot be written to.

When a handle is gone its memory is marked so. ``watchers`` are told, to have their workers
``sweep``: let go of what is marked. The memory goes when nobody has it mapped.
"""

from __future__ import annotations

import os
import pickle
import weakref
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, final
from warnings import warn

from aiopool._wire.diagnosis import explain
from aiopool._wire.pickling import can_pickle, loads, pack_apart
from aiopool._wire.segment import Attached, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiopool._wire.segment import Address

T = TypeVar("T")

watchers: Final[set[Callable[[], None]]] = set()
"""Who is told, in whatever thread, that the object of a handle is gone."""

in_use = False
"""Whether a handle was ever made in this process."""

_placed: Final[weakref.WeakSet[Segment]] = weakref.WeakSet()  # by this process
_attached: Final[dict[Address, tuple[Attached, Any]]] = {}  # here, wherever it was placed


@final
class Shared(Generic[T]):
    """A large object that was placed in shared memory once, to be given to calls as an argument.

    Made by ``pool.share(obj)``. A call receives the object itself; in a worker process it lies in
    the shared memory, and arrays are read-only. The handle may stand inside other arguments, be an
    item of ``map``, and be used with other pools. The memory is freed when the handle is gone.

    Type checkers take it for the object, so that it goes where the object goes; it has nothing of
    it here but its place.
    """

    __slots__ = ("__weakref__", "_address", "_carried", "_opened", "_type")

    def __init__(self, obj: T, pieces: Sequence[memoryview]) -> None:
        """Place the pieces; where there is no room, with a warning, keep a copy to be sent."""
        global in_use  # noqa: PLW0603 - asked before every call in this process
        in_use = True
        self._type = type(obj).__qualname__
        self._address: Address | None = None
        self._carried: list[bytes] = []
        self._opened: Any = None  # the object over the copy, once it was asked for
        try:
            segment = Segment(pieces)
        except OSError as error:
            self._carried = [bytes(piece) for piece in pieces]
            message = (
                f"{self} of {sum(map(len, self._carried)):,} bytes does not fit in shared memory "
                f"({error}); it goes to a worker with every call instead"
            )
            warn(message, RuntimeWarning, stacklevel=5)  # the line that calls pool.share
        else:
            self._address = segment.address
            _placed.add(segment)
            weakref.finalize(self, _retire, segment)

    def open(self) -> T:
        """The object, as a call in this process receives it."""
        value: T
        if self._address is not None:
            value = attach(*self._address)
            return value
        if self._opened is None:
            self._opened = rebuild(*self._carried)
        value = self._opened
        return value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:  # noqa: ANN401 - object's signature
        if self._address is not None:
            return attach, self._address
        if protocol < 5:  # noqa: PLR2004 - the first that has buffers
            return rebuild, tuple(self._carried)
        return rebuild, tuple(map(pickle.PickleBuffer, self._carried))

    def __getattr__(self, name: str) -> NoReturn:
        message = f"{self!r} has no {name!r}: it is a handle, the object is what calls receive"
        raise AttributeError(message)

    def __repr__(self) -> str:
        return f"<Shared {self._type}>"


def share(obj: T) -> Shared[T]:
    """Place an object; raises ``NotTransferable`` naming the part that cannot be pickled."""
    if isinstance(obj, Shared):
        return obj
    try:
        data, buffers = pack_apart(obj)
        pieces = [memoryview(data), *(buffer.raw() for buffer in buffers)]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = "the object to share"
        raise explain(obj, error, what=what, can_pickle=can_pickle, prefix="obj") from error
    return Shared(obj, pieces)


def attach(*address: Any) -> Any:  # noqa: ANN401 - an Address, and whatever was shared
    """The object at an address; what the pickle of a handle calls.

    Raises FileNotFoundError if it is gone, OSError if this process may not read it, and what
    unpickling it raises.
    """
    known = _attached.get(address)
    if known is None:
        sweep()
        memory = Attached(address)
        known = _attached[address] = memory, rebuild(*memory.pieces)
    return known[1]


def rebuild(data: Any, *buffers: Any) -> Any:  # noqa: ANN401 - bytes or views, and whatever was shared
    """The object of these pieces, which are read-only."""
    value = loads(data, buffers)
    if type(value).__module__ == "numpy" and hasattr(value, "setflags"):
        value.setflags(write=False)  # not all arrays pickle into buffers, but all are to be alike
    return value


def sweep() -> None:
    """Let go of objects whose handles are gone."""
    for address, (memory, _) in list(_attached.items()):
        if memory.gone:
            _attached.pop(address, None)


def _retire(segment: Segment) -> None:
    """The handle is gone."""
    segment.retire()
    _attached.pop(segment.address, None)
    for watcher in list(watchers):
        watcher()


def _after_fork() -> None:
    """In a forked process: what the parent has placed is the parent's."""
    watchers.clear()
    for segment in list(_placed):
        segment.disown()
    _placed.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
