"""Batches as they cross to a worker: which pickles, how many at once, and what cannot go.

Scalars share one pickle. Anything else is pickled call by call, so that what cannot be pickled
fails alone, before a worker is involved, and what does not unpickle fails alone over there.
"""

from __future__ import annotations

from contextvars import copy_context
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiopool._wire.diagnosis import explain
from aiopool._wire.hooks import pack_at_once, pack_in_time
from aiopool._wire.messages import CONTEXT, EXACT, SCALARS, STAR
from aiopool._wire.pickling import Unhurried, are_light, can_pickle, dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import ContextVar

    from aiopool._backends.base import Function
    from aiopool._core.workload import Batch, Workload
    from aiopool._wire.pickling import Packed
    from aiopool.errors import NotTransferable

_HEAVY: Final = 1 << 20
"""Bytes after which a batch goes as it is and the rest of it waits for another turn."""


TURN: Final = 0.005
"""Seconds of pickling after which the rest waits, too, and the event loop gets its turn."""


class Parcel(NamedTuple):
    """A batch ready to be sent: its function's pickle, its mode, and its load.

    With ``CONTEXT`` in the mode its workload's context goes with it.
    """

    batch: Batch
    code: bytes
    mode: int
    load: Any


class Refused(NamedTuple):
    """A call whose argument cannot be sent, as a batch of one, and why."""

    batch: Batch
    error: NotTransferable


class Encoded(NamedTuple):
    """What became of a batch: parcels, calls that cannot go, and what is left of it.

    The rest waits for another turn of the loop; if ``unhurried``, it is to be ``encode_in_time``.
    """

    parcels: list[Parcel]
    refused: list[Refused]
    rest: Batch | None
    unhurried: bool


def encode(batch: Batch) -> Encoded:
    """Pickle a batch, as far as that takes no longer than the event loop can wait."""
    workload = batch.workload
    flat = [*chain.from_iterable(batch.items)] if workload.star else batch.items
    if are_light(flat, _HEAVY):
        load = dumps(list(batch.items))
        parcel = Parcel(batch, workload.function.code, _mode(workload) | SCALARS, load)
        return Encoded([parcel], [], None, unhurried=False)
    return _encode_each(batch, pack_at_once)


def encode_in_time(batch: Batch) -> Encoded:
    """Pickle a batch in a thread, at least one call of it."""
    return _encode_each(batch, pack_in_time)


def ready_parcel(batch: Batch) -> Parcel:
    """The parcel of a batch whose arguments are pickled already."""
    workload = batch.workload
    return Parcel(batch, workload.function.code, _mode(workload), batch.payloads)


def pack_argument(
    item: object, function: Function, way: Callable[[object], Packed] = pack_at_once
) -> Packed:
    """Pickle one call's argument; raises ``NotTransferable`` naming the part that cannot be.

    Raises ``Unhurried`` for one that may take long, which is to go the way of ``pack_in_time``.
    """
    # No signal is handled in a thread: there an interrupt is the argument's own.
    through = (KeyboardInterrupt,) if way is pack_at_once else ()
    try:
        return way(item)
    except (Unhurried, *through):
        raise
    except BaseException as error:
        what = f"an argument of {function.name}()"
        raise explain(
            item, error, what=what, can_pickle=can_pickle, prefix="args", through=through
        ) from error


def pack_function(call: object, name: str) -> bytes:
    """Pickle a callable; raises ``NotTransferable`` naming the part of it that cannot be."""
    try:
        return dumps(call)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"the function {name}()"
        raise explain(call, error, what=what, can_pickle=can_pickle) from error


def pack_context(variables: Iterable[ContextVar[Any]]) -> bytes:
    """Pickle the values that these context variables have here, those that have one.

    Raises ``NotTransferable`` naming the first whose value cannot be.
    """
    here = copy_context()
    values = [(variable, here[variable]) for variable in variables if variable in here]
    try:
        return dumps(values)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        variable, value = next((pair for pair in values if not can_pickle(pair[1])), values[0])
        what = f"the value of the context variable {variable.name!r}"
        raise explain(value, error, what=what, can_pickle=can_pickle) from error


def _mode(workload: Workload) -> int:
    mode = (STAR if workload.star else 0) | (EXACT if workload.exact else 0)
    return mode if workload.context is None else mode | CONTEXT


def _encode_each(batch: Batch, way: Callable[[object], Packed]) -> Encoded:
    function: Function = batch.workload.function
    parcels: list[Parcel] = []
    refused: list[Refused] = []
    load: list[Packed] = []
    start = weight = 0
    size = len(batch)
    unhurried = False
    until = monotonic() + TURN
    mode = _mode(batch.workload)
    for place, item in enumerate(batch.items):
        try:
            load.append(pack_argument(item, function, way))
            weight += _weigh(load[-1])
        except Unhurried:
            size, unhurried = place, True
            break
        except Exception as error:  # noqa: BLE001 - NotTransferable, and nothing of the caller's
            refused.append(Refused(batch.part(place, place + 1), error))  # type: ignore[arg-type]
            if load:
                parcels.append(Parcel(batch.part(start, place), function.code, mode, load))
            load, start = [], place + 1
        if (weight > _HEAVY or monotonic() > until) and place + 1 < size:
            size = place + 1
            break
    if load:
        parcels.append(Parcel(batch.part(start, size), function.code, mode, load))
    rest = batch.part(size, len(batch)) if size < len(batch) else None
    return Encoded(parcels, refused, rest, unhurried)


def _weigh(packed: Packed) -> int:
    data, buffers = packed
    pieces = data if type(data) is tuple else (data,)
    return sum(memoryview(piece).nbytes for piece in (*pieces, *buffers))
