"""Reading ahead: the next of an iterator is made while this one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()


def ahead(source: Iterator[T]) -> Generator[T]:
    """The same, one ahead: two of them are held at a time.

    Args:
        source: Advanced by another thread, never by two at once.

    >>> list(ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    with ThreadPoolExecutor(1, thread_name_prefix="optgeom-reading") as thread:
        coming = thread.submit(next, source, _END)
        while (one := coming.result()) is not _END:
            coming = thread.submit(next, source, _END)
            yield one  # type: ignore[misc]  # not the end, so one of the source's
