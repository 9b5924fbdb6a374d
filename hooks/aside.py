"""Methods that a compiled training step may call: they run as they are, outside its graphs.

Without this, a step that is compiled whole would have the compiler trace the instrument too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import ParamSpec, TypeVar

from optgeom.hooks.compiling import never_compiled, pause

P = ParamSpec("P")
R = TypeVar("R")

_waiting: list[Callable[..., object]] = []


def aside(method: Callable[P, R]) -> Callable[P, R]:
    """Have a method, and all that it calls, run uncompiled; from `stand_aside` on."""

    @functools.wraps(method)
    def uncompiled(*args: P.args, **kwargs: P.kwargs) -> R:
        before = pause(None)
        try:
            return method(*args, **kwargs)
        finally:
            pause(before)

    _waiting.append(uncompiled)
    return uncompiled


def stand_aside() -> None:
    """Tell the compiler of all such methods; not at import, since the compiler's own is slow."""
    while _waiting:
        never_compiled(_waiting.pop())


class Aside(AbstractContextManager[None]):
    """A context manager that is entered and left uncompiled; its block is the caller's."""

    def __init__(self, inner: AbstractContextManager[None]) -> None:
        """Wrap another.

        Args:
            inner: that does the work.
        """
        self._inner = inner

    @aside
    def __enter__(self) -> None:
        self._inner.__enter__()

    @aside
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._inner.__exit__(kind, error, traceback)
