"""Several pieces of work on their way at once: while one waits for its data, the next computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["overlapped"]


def overlapped(roads: Iterable[Iterator[None]]) -> None:
    """Run generators that yield after starting a communication, and wait for it when resumed.

    Each one starts its first communication before those ahead of it are resumed, so that theirs,
    and what they compute, fall into its wait. The order depends on nothing but the roads' number
    and length, so that all ranks communicate in the same one.

    >>> def road(name):
    ...     print(name, "sends"); yield
    ...     print(name, "receives")
    >>> overlapped([road("a"), road("b")])
    a sends
    b sends
    a receives
    b receives
    """
    underway: list[Iterator[None]] = []
    for road in roads:
        underway = _resumed([road, *underway])
    while underway:
        underway = _resumed(underway)


def _resumed(roads: list[Iterator[None]]) -> list[Iterator[None]]:
    """Resume each once, the newest first; those that have not ended."""
    return [road for road in roads if next(road, road) is None]
