"""Puts parcels into the form in which one worker reads them: calls and functions by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from aiopool._backends.parcels import Parcel
    from aiopool._wire.messages import Group

_FUNCTIONS: Final = 512
"""Functions a worker remembers before it is told to forget them all."""


@final
class Addresses:
    """The functions one worker has, and the numbers it knows them by."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def forget(self) -> None:
        """The worker is told to forget them all."""
        self._known.clear()

    def is_full(self, more: int) -> bool:
        """Whether the worker is to forget all functions before it gets ``more``."""
        return len(self._known) + more > _FUNCTIONS

    def group(self, parcel: Parcel, first: int) -> Group:
        """A parcel as it is sent; its calls are numbered from ``first``."""
        context, code, load = parcel.batch.workload.context, parcel.code, parcel.load
        if context is not None:
            load = (context, load)
        number = self._known.get(code)
        if number is None:
            number = self._known[code] = len(self._known)
            return first, number, code, parcel.mode, load
        return first, number, None, parcel.mode, load
