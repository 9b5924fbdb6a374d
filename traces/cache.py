"""What was read or made of a trace's files, kept as long as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

CACHE_BYTES = 256 << 20
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
            while self._size > self.limit:
                self._size -= self._kept.popitem(last=False)[1][1]

    def made(self, key: Hashable, make: Callable[[], _T], nbytes: Callable[[_T], int]) -> _T:
        """What is under a key, made and put there if there is nothing.

        Threads that ask for the same at once wait for the first of them and share what it makes,
        also where there is no room to keep it; they are not held up by those that ask for other
        things.

        Args:
            key: as for put.
            make: makes the value, which is not None. It asks for nothing under the same key, and
                takes no lock under which another thread may ask for it.
            nbytes: what a value takes.
        """
        while True:
            with self._lock:
                found: _T | None = self._find(key)
                if found is not None:
                    return found
                others = self._making.get(key)
                if others is None:
                    mine = self._making[key] = Future[Any]()
                    break
            if others.exception() is None:
                shared: _T = others.result()
                return shared
            # it may have been interrupted: what fails again, fails for whoever asked
        try:
            value = make()
            self.put(key, value, nbytes(value))
        except BaseException as error:
            self._end(key)
            mine.set_exception(error)
            raise
        self._end(key)
        mine.set_result(value)
        return value

    def _end(self, key: Hashable) -> None:
        with self._lock:
            del self._making[key]

    def _find(self, key: Hashable) -> Any:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]
