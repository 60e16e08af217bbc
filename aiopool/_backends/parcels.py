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
from aiopool._wire.messages import CONTEXT, EXACT, SCALARS, STAR
from aiopool._wire.pickling import all_scalars, can_pickle, dumps, pack

if TYPE_CHECKING:
    from collections.abc import Iterable
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


def encode(batch: Batch) -> tuple[list[Parcel], list[Refused], Batch | None]:
    """The parcels of a batch, the calls that cannot go, and what is left for another turn."""
    function: Function = batch.workload.function
    star, mode = batch.workload.star, _mode(batch.workload)
    flat = chain.from_iterable(batch.items) if star else batch.items
    if all_scalars(flat):
        load = dumps(list(batch.items))
        if len(load) <= _HEAVY or len(batch) == 1:
            return [Parcel(batch, function.code, mode | SCALARS, load)], [], None
    return _encode_each(batch, function, mode)


def ready_parcel(batch: Batch) -> Parcel:
    """The parcel of a batch whose arguments are pickled already."""
    workload = batch.workload
    return Parcel(batch, workload.function.code, _mode(workload), batch.payloads)


def pack_argument(item: object, function: Function) -> Packed:
    """Pickle one call's argument; raises ``NotTransferable`` naming the part that cannot be."""
    try:
        return pack(item)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"an argument of {function.name}()"
        raise explain(item, error, what=what, can_pickle=can_pickle, prefix="args") from error


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


def _encode_each(
    batch: Batch, function: Function, mode: int
) -> tuple[list[Parcel], list[Refused], Batch | None]:
    parcels: list[Parcel] = []
    refused: list[Refused] = []
    load: list[Packed] = []
    start = weight = 0
    size = len(batch)
    until = monotonic() + TURN
    code = function.code
    for place, item in enumerate(batch.items):
        try:
            load.append(pack_argument(item, function))
            weight += _weigh(load[-1])
        except Exception as error:  # noqa: BLE001 - NotTransferable, and nothing of the caller's
            refused.append(Refused(batch.part(place, place + 1), error))  # type: ignore[arg-type]
            if load:
                parcels.append(Parcel(batch.part(start, place), code, mode, load))
            load, start = [], place + 1
        if (weight > _HEAVY or monotonic() > until) and place + 1 < size:
            size = place + 1
            break
    if load:
        parcels.append(Parcel(batch.part(start, size), code, mode, load))
    return parcels, refused, batch.part(size, len(batch)) if size < len(batch) else None


def _weigh(packed: Packed) -> int:
    data, buffers = packed
    size = memoryview(data).nbytes
    return size + sum(memoryview(buffer).nbytes for buffer in buffers) if buffers else size
