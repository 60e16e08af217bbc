"""What a value or an exception becomes that is to outlive this process, and back again.

Unlike what crosses to a worker, a class or function of ``__main__`` is kept by its name: the same
program run again has it, in the shape it then has. What plain pickle cannot, such as a lambda,
is kept by value. An exception is kept as it crosses between processes, with its causes, notes and
the text of its traceback.
"""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any, Final

from aiopool._wire.diagnosis import explain
from aiopool._wire.failure import decode_failure, encode_failure
from aiopool._wire.pickling import PROTOCOL, can_pickle, dumps_by_value
from aiopool.errors import NotTransferable

_VALUE: Final = b"\0"
_FAILURE: Final = b"\1"


def preserve(obj: object, what: str = "a value") -> bytes:
    """Make bytes of an object, from which ``restore`` makes it again in any later process.

    Raises ``NotTransferable`` where it cannot be pickled, calling it ``what``. An exception never
    fails: what of it cannot be pickled is kept as a ``RemoteError``.
    """
    if isinstance(obj, BaseException):
        failure = encode_failure(obj, _dumps, pickle.loads)
        return _FAILURE + pickle.dumps(failure, PROTOCOL)
    try:
        return _VALUE + _dumps(obj)
    except Exception as why:
        error = explain(obj, why, what=what, can_pickle=partial(can_pickle, way=_dumps))
        fix = "To be kept, it has to be of what can be pickled"
        raise NotTransferable(what, error.where, error.why, fix) from why


def restore(data: bytes) -> Any:  # noqa: ANN401 - whatever was preserved
    """Make the object again; raises what unpickling raises. Only for bytes one trusts."""
    content = pickle.loads(memoryview(data)[1:])  # noqa: S301 - as the docstring says
    return decode_failure(content, pickle.loads) if data[:1] == _FAILURE else content


def _dumps(obj: object) -> bytes:
    try:
        return pickle.dumps(obj, PROTOCOL)
    except Exception:  # noqa: BLE001 - what plain pickle cannot, cloudpickle may
        return dumps_by_value(obj)
