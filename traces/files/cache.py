"""What was read or made of a trace's files, kept as long as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future, TimeoutError
from typing import Any, TypeVar

CACHE_BYTES = 256 << 20

_PATIENCE = 60.0
"""Seconds that a thread waits for what another makes before it makes it too: one that was
interrupted between two lines here may never say so."""

_T = TypeVar("_T")


class Cache:
    """Keeps values up to a number of bytes; what was not asked for longest goes first.

    Traces of one folder share one. Safe to use from several threads.

    Args:
        limit: bytes; a value larger than this is not kept at all.
    """

    def __init__(self, limit: int = CACHE_BYTES):
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._making: dict[Hashable, Future[Any]] = {}
        self._size = 0

    @property
    def nbytes(self) -> int:
        """The bytes of what is kept."""
        return self._size

    def get(self, key: Hashable) -> Any:
        """What was put under a key; None if there is nothing any more."""
        with self._lock:
            return self._find(key)

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep a value in place of what was under its key.

        Args:
            key: whoever puts makes it differ from everyone else's.
            value: anything but None.
            nbytes: what it takes.
        """
        with self._lock:
            self._size -= self._kept.pop(key, (None, 0))[1]
            if nbytes > self.limit:
                return
            self._kept[key] = (value, nbytes)
            self._size += nbytes
            if self._size > self.limit:
                # counted anew: whoever was interrupted here before left a wrong number
                self._size = sum(size for _, size in self._kept.values())
            while self._kept and self._size > self.limit:
                self._size -= self._kept.popitem(last=False)[1][1]

    def made(self, key: Hashable, make: Callable[[], _T], nbytes: Callable[[_T], int]) -> _T:
        """What is under a key, made and put there if there is nothing.

        Threads that ask for the same at once wait for the first of them and share what it makes,
        or the error that it meets, also where there is no room to keep it; they are not held up by
        those that ask for other things. If it is interrupted, another makes it.

        Args:
            key: as for put.
            make: makes the value, which is not None. It asks for nothing under the same key, and
                takes no lock under which another thread may ask for it.
            nbytes: what a value takes.
        """
        mine: Future[Any] = Future()
        others: Future[Any] | None = None
        try:
            while True:
                with self._lock:
                    found: _T | None = self._find(key)
                    if found is not None:
                        return found
                    making = self._making.get(key)
                    if making is None or making.done() or making is others:
                        self._making[key] = mine
                        break
                others = making
                shared: _T | None = _shared(others)
                if shared is not None:
                    return shared
            value = make()
            self.put(key, value, nbytes(value))
            mine.set_result(value)
            return value
        except Exception as error:
            if not mine.done():
                mine.set_exception(error)
            raise
        finally:
            mine.cancel()
            with self._lock:
                if self._making.get(key) is mine:
                    del self._making[key]

    def _find(self, key: Hashable) -> Any:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]


def _shared(others: Future[Any]) -> Any:
    """What another thread makes; None if it was interrupted, or takes longer than `_PATIENCE`."""
    try:
        return others.result(_PATIENCE)
    except (CancelledError, TimeoutError):
        if others.done() and not others.cancelled():
            raise
        return None
