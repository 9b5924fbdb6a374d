"""Forked children, such as data-loader workers: there, what was watched is left alone."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """What must not go on in a child."""

    def forked(self) -> None:
        """Called in the child, with its only thread; locks may be held by threads it has not."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell_children(one: Forked) -> None:
    """Have something told of every fork from now on, in the child, for as long as it lives."""
    _known.add(one)


def _tell() -> None:
    for one in list(_known):
        one.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell)
