"""Room for raw matrices that wait: decided once for each step, in bounded memory."""

from __future__ import annotations

import sys
from typing import Any

from optgeom.traces.writing.room import Room


def size_of(value: Any) -> int:
    """Bytes of an object and of what it refers to."""
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    return sys.getsizeof(value) + sum(map(size_of, inner))


def test_the_first_bytes_decide_for_the_whole_step() -> None:
    room = Room(100)
    assert room.takes(0, 60)
    assert room.takes(0, 60)
    room.ended(0, 90)
    assert not room.takes(1, 10)
    room.waiting = 0
    assert not room.takes(1, 10)
    assert not room.takes(2, 10)  # a step of 120 bytes does not fit
    room.limit = 200
    assert room.takes(3, 10)


def test_where_no_step_is_ended_it_does_not_grow() -> None:
    room = Room(1 << 40)
    sizes = []
    for step in range(2000):
        assert room.takes(step, 1 << 20)
        sizes.append(sum(map(size_of, vars(room).values())))
    assert max(sizes[1000:]) <= max(sizes[:1000])


def test_a_step_that_was_forgotten_is_not_decided_anew() -> None:
    room = Room(100)
    room.waiting = 200
    assert not room.takes(0, 10)  # its first bytes are missing
    room.waiting = 0
    for step in range(1, 101):
        assert room.takes(step, 1)
    assert not room.takes(0, 10)
    assert room.takes(100, 1)


def test_one_that_is_asked_about_all_the_time_is_not_forgotten() -> None:
    room = Room(1 << 40)
    for step in range(1, 200):
        assert room.takes(0, 1)
        assert room.takes(step, 1)
