"""A pool with other defaults: the same verbs, for a part of a program, a request or a tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from aiopool._core.options import resolve, with_quota
from aiopool._run.verbs import Verbs

if TYPE_CHECKING:
    from typing import Unpack

    from aiopool._core.options import Settings, TaskOptions
    from aiopool._run.setup import Machinery


class Viewed(Verbs):
    """The verbs, and views of them."""

    def view(self, **options: Unpack[TaskOptions]) -> PoolView:
        """The same pool with other defaults: its calls have these options where they say nothing.

        ``limit`` is of all calls made through the view, so many at once, wherever they run; a
        ``limit`` of a ``map`` is within that. A view of a view has its options too, and shares
        its places unless it has a ``limit`` of its own. Costs a few microseconds. Raises TypeError
        or ValueError for options out of range.
        """
        return PoolView(self, options)


@final
class PoolView(Viewed):
    """A pool as seen with other defaults; made by ``pool.view``.

    It has the verbs of the pool and nothing of its own: it is not entered or closed, what is
    submitted through it is the pool's, and it takes calls for as long as the pool does.
    """

    def __init__(self, base: Verbs, options: TaskOptions) -> None:
        self._base = base
        self._settings = base._settings  # noqa: SLF001 - what it was made from, here and below
        self._parts: Machinery | None = None  # the pool's, with these defaults
        self._own = resolve(options, base._defaults)  # noqa: SLF001
        if "limit" in options:
            self._own = with_quota(self._own)

    @property
    def _defaults(self) -> Settings:
        return self._own

    def _entered_parts(self) -> Machinery:
        return self._base._entered_parts()  # noqa: SLF001

    def _open_parts(self) -> Machinery:
        parts = self._base._open_parts()  # noqa: SLF001
        if self._parts is None:
            self._parts = parts.under(self._own)
        return self._parts

    def _check_open(self) -> None:
        self._base._check_open()  # noqa: SLF001

    def __repr__(self) -> str:
        return f"<PoolView of {self._base!r}>"
