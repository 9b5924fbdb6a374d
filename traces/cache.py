"""What was read or made of a trace's files, kept as long as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

CACHE_BYTES = 256 << 20


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
        self._size = 0

    @property
    def nbytes(self) -> int:
        """The bytes of what is kept."""
        return self._size

    def get(self, key: Hashable) -> Any:
        """What was put under a key; None if there is nothing any more."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

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
