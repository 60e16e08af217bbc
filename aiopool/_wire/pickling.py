"""How values become bytes: plain pickle where it can, cloudpickle where it cannot.

Protocol 5 with out-of-band buffers, so that arrays cross uncopied. What belongs to ``__main__``
goes by value: another process may have another ``__main__``, or none. ``__main__`` is looked for
in the pickle itself; finding the word in somebody's data only costs the slower pickler.

cloudpickle is imported here and nowhere else, when it is first needed.
"""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiopool._wire.framing import Bytes

Packed: TypeAlias = "tuple[Bytes | pickle.PickleBuffer, Sequence[Any]]"
"""A pickle and its out-of-band buffers, ready for an envelope."""

SCALARS: Final = frozenset({bool, bytes, complex, float, int, str, type(None)})
"""Types whose pickles run no code and cannot fail, so that many may share one pickle."""

_PROTOCOL: Final = 5
MOST_BUFFERS: Final = 32
"""Out-of-band buffers of one pickle at most; the rest go among its bytes."""

_SMALL: Final = 4 * 1024
_LARGE: Final = 32 * 1024
_MAIN: Final = b"__main__"


def all_scalars(values: Iterable[object]) -> bool:
    """Whether every value is exactly of one of the ``SCALARS`` types."""
    return SCALARS.issuperset(map(type, values))


def dumps(obj: object) -> bytes:
    """Pickle in one piece; raises whatever the pickler or a hook of the object raises."""
    try:
        data = pickle.dumps(obj, _PROTOCOL)
    except Exception:  # noqa: BLE001 - what plain pickle cannot, cloudpickle may
        return _by_value(obj)
    return _by_value(obj) if _MAIN in data else data


def can_pickle(obj: object) -> bool:
    """Whether it can be sent."""
    try:
        dumps(obj)
    except Exception:  # noqa: BLE001 - that is the question
        return False
    return True


def loads(data: Bytes, buffers: Sequence[Any] = ()) -> Any:  # noqa: ANN401 - pickle's own type
    """Unpickle; raises whatever unpickling raises, SystemExit included."""
    return pickle.loads(data, buffers=buffers)  # noqa: S301 - bytes from our own processes only


def pack(obj: object) -> Packed:
    """Pickle with the large buffers beside the bytes; raises as ``dumps``."""
    if type(obj) is tuple and all_scalars(obj):  # the usual arguments: nothing can go wrong
        data = pickle.dumps(obj, _PROTOCOL)
        return (data if len(data) < _LARGE else pickle.PickleBuffer(data)), ()
    data, buffers = _pack(obj, _SMALL, MOST_BUFFERS)
    return (data if len(data) < _LARGE else pickle.PickleBuffer(data)), buffers or ()


def pack_apart(obj: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle with every buffer beside the bytes; raises as ``dumps``."""
    return _pack(obj, 0, sys.maxsize)


def unpack(packed: Packed) -> Any:  # noqa: ANN401 - pickle's own type
    """Undo ``pack``; raises as ``loads``."""
    data, buffers = packed
    return pickle.loads(data, buffers=buffers)  # noqa: S301


def seal(envelope: object) -> tuple[bytes, list[Bytes]]:
    """Pickle an envelope of builtins; the buffers inside it stay beside it, uncopied."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(envelope, _PROTOCOL, buffer_callback=buffers.append)
    return body, [buffer.raw() for buffer in buffers]


def _pack(obj: object, least: int, most: int) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle with so many buffers of at least so many bytes beside the bytes."""
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer goes among the bytes: a small one, or one too many."""
        if memoryview(buffer).nbytes < least or len(buffers) >= most:
            return True
        buffers.append(buffer)
        return False

    try:
        data = pickle.dumps(obj, _PROTOCOL, buffer_callback=keep)
        by_value = _MAIN in data
    except Exception:  # noqa: BLE001 - what plain pickle cannot, cloudpickle may
        by_value = True
    if by_value:
        buffers.clear()
        data = _by_value(obj, keep)
    return data, buffers


def _by_value(obj: object, collect: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    import cloudpickle

    data: bytes = cloudpickle.dumps(obj, _PROTOCOL, buffer_callback=collect)
    return data
