"""How values become bytes: plain pickle where it can, cloudpickle where it cannot.

Protocol 5 with out-of-band buffers, so that arrays cross uncopied. What belongs to ``__main__``
goes by value: another process may have another ``__main__``, or none. ``__main__`` is looked for
in the pickle itself; finding the word in somebody's data only costs the slower pickler.

cloudpickle is imported here and nowhere else, when it is first needed.
"""

from __future__ import annotations

import pickle
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from aiopool._wire.framing import Bytes

Piece: TypeAlias = "Bytes | pickle.PickleBuffer"

Packed: TypeAlias = "tuple[Piece | tuple[Piece, ...], Sequence[Any]]"
"""A pickle, in pieces if large bytes are among it, and its out-of-band buffers.

Ready for an envelope: what is large goes beside it."""

SCALARS: Final = frozenset({bool, bytes, complex, float, int, str, type(None)})
"""Types whose pickles run no code and cannot fail, so that many may share one pickle."""

_NUMBERS: Final = SCALARS - {bytes, str}
PROTOCOL: Final = 5
MOST_BUFFERS: Final = 32
"""Out-of-band buffers of one pickle at most; the rest go among its bytes."""

_SMALL: Final = 4 * 1024
_LARGE: Final = 32 * 1024
_MAIN: Final = b"__main__"
_LENGTH_4: Final = (pickle.BINBYTES, pickle.BINUNICODE)
_LENGTH_8: Final = (pickle.BINBYTES8, pickle.BINUNICODE8, pickle.BYTEARRAY8)


def are_light(values: Collection[object], most: int) -> bool:
    """Whether every value is of one of the ``SCALARS`` types, so many bytes together at most."""
    if _NUMBERS.issuperset(map(type, values)):
        return True
    return SCALARS.issuperset(map(type, values)) and sum(map(sys.getsizeof, values)) <= most


def dumps(obj: object) -> bytes:
    """Pickle in one piece; raises whatever the pickler or a hook of the object raises."""
    try:
        data = pickle.dumps(obj, PROTOCOL)
    except Exception:  # noqa: BLE001 - what plain pickle cannot, cloudpickle may
        return dumps_by_value(obj)
    return dumps_by_value(obj) if _MAIN in data else data


def can_pickle(obj: object, way: Callable[[object], bytes] = dumps) -> bool:
    """Whether it can be sent, or be pickled in another way."""
    try:
        way(obj)
    except Exception:  # noqa: BLE001 - that is the question
        return False
    return True


def loads(data: Bytes, buffers: Sequence[Any] = ()) -> Any:  # noqa: ANN401 - pickle's own type
    """Unpickle; raises whatever unpickling raises, SystemExit included."""
    return pickle.loads(data, buffers=buffers)  # noqa: S301 - bytes from our own processes only


def pack(obj: object, pickler: type[pickle.Pickler] = pickle.Pickler) -> Packed:
    """Pickle with what is large beside the rest, uncopied; raises as ``dumps``."""
    if type(obj) is tuple and are_light(obj, _LARGE):  # the usual arguments: nothing can go wrong
        return pickle.dumps(obj, PROTOCOL), ()
    pieces, buffers = _pack(obj, _SMALL, MOST_BUFFERS, pickler)
    if len(pieces) == 1:
        return _beside(pieces[0]), buffers or ()
    if len(pieces) > MOST_BUFFERS:
        return pickle.PickleBuffer(b"".join(pieces)), buffers or ()
    return tuple(map(_beside, pieces)), buffers or ()


def _beside(piece: bytes) -> Piece:
    """A large piece as what stays beside the envelope."""
    return piece if len(piece) < _LARGE else pickle.PickleBuffer(piece)


def pack_apart(obj: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle with every buffer beside the bytes; raises as ``dumps``."""
    pieces, buffers = _pack(obj, 0, sys.maxsize)
    return b"".join(pieces), buffers


def unpack(packed: Packed) -> Any:  # noqa: ANN401 - pickle's own type
    """Undo ``pack``; raises as ``loads``."""
    data, buffers = packed
    if type(data) is tuple:
        return pickle.Unpickler(_Reader(data), buffers=buffers).load()  # noqa: S301
    return pickle.loads(data, buffers=buffers)  # type: ignore[arg-type] # noqa: S301


def seal(envelope: object) -> tuple[bytes, list[Bytes]]:
    """Pickle an envelope of builtins; the buffers inside it stay beside it, uncopied."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(envelope, PROTOCOL, buffer_callback=buffers.append)
    return body, [buffer.raw() for buffer in buffers]


def _pack(
    obj: object, least: int, most: int, pickler: type[pickle.Pickler] = pickle.Pickler
) -> tuple[list[bytes], list[pickle.PickleBuffer]]:
    """Pickle with so many buffers of at least so many bytes beside the bytes, in pieces."""
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer goes among the bytes: a small one, or one too many."""
        if memoryview(buffer).nbytes < least or len(buffers) >= most:
            return True
        buffers.append(buffer)
        return False

    pieces = _Pieces()
    try:
        pickler(pieces, PROTOCOL, buffer_callback=keep).dump(obj)
        by_value = pieces.name_main()
    except Unhurried:
        raise
    except Exception:  # noqa: BLE001 - what plain pickle cannot, cloudpickle may
        by_value = True
    if not by_value:
        return pieces.written, buffers
    buffers.clear()
    return [dumps_by_value(obj, keep)], buffers


def dumps_by_value(
    obj: object, collect: Callable[[pickle.PickleBuffer], object] | None = None
) -> bytes:
    """Pickle with cloudpickle; raises whatever that raises."""
    import cloudpickle

    data: bytes = cloudpickle.dumps(obj, PROTOCOL, buffer_callback=collect)
    return data


class Unhurried(Exception):
    """To pickle this runs code of somebody's that may take its time."""


@final
class _Pieces:
    """A file to pickle to: bytes that are large stay the objects they are."""

    __slots__ = ("written",)

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, piece: object) -> None:
        """Keep a piece; what may change or go away is copied."""
        if type(piece) is pickle.PickleBuffer:
            piece = piece.raw()  # in whatever order its memory is
        self.written.append(piece if type(piece) is bytes else bytes(piece))  # type: ignore[call-overload]

    def name_main(self) -> bool:
        """Whether ``__main__`` stands in what is the pickler's own, not in somebody's bytes."""
        pieces = self.written
        return _MAIN in pieces[0] or any(
            not _announces(before, len(piece)) and _MAIN in piece
            for before, piece in pairwise(pieces)
        )


def _announces(piece: bytes, length: int) -> bool:
    """Whether a piece ends with the opcode after which so many of somebody's bytes come."""
    if length < 1 << 32 and piece.endswith(_LENGTH_4, -5, -4):
        return piece.endswith(length.to_bytes(4, "little"))
    return piece.endswith(_LENGTH_8, -9, -8) and piece.endswith(length.to_bytes(8, "little"))


@final
class _Reader:
    """A file to unpickle from: large bytes are copied once, to where they stay."""

    __slots__ = ("_at", "_place", "_views")

    def __init__(self, pieces: tuple[Piece, ...]) -> None:
        self._views = [memoryview(piece) for piece in pieces]
        self._at = self._place = 0  # which piece, and where in it

    def readinto(self, room: memoryview) -> int:
        """Fill this, as far as there is something; how many bytes."""
        done = 0
        while done < len(room) and self._at < len(self._views):
            view = self._views[self._at][self._place :]
            count = min(len(view), len(room) - done)
            room[done : done + count] = view[:count]
            done += count
            self._place += count
            if count == len(view):
                self._at, self._place = self._at + 1, 0
        return done

    def read(self, count: int) -> bytes:
        """So many bytes, fewer only at the end."""
        room = bytearray(count)
        return bytes(room[: self.readinto(memoryview(room))])

    def readline(self) -> bytes:
        """A line: what no pickle of this protocol has."""
        raise pickle.UnpicklingError
