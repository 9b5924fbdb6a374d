"""Whose an error is: ours, or that of a signal's handler which ran between two of our lines."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import pytest

from optgeom.hooks.guard import Guard, is_of_a_signal


class TooLong(Exception):
    pass


def raises(number: int, frame: FrameType | None) -> NoReturn:
    deeper()


def deeper() -> NoReturn:
    raise TooLong


class Handlers:
    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        deeper()

    def method(self, number: int, frame: FrameType | None) -> NoReturn:
        deeper()


HANDLERS: dict[str, Callable[..., Any]] = {
    "function": raises,
    "method": Handlers().method,
    "object": Handlers(),
    "partial": partial(raises),
    "partial-object": partial(Handlers()),
}


@pytest.mark.parametrize("name", HANDLERS)
def test_what_a_handler_raises_passes(name: str) -> None:
    said: list[str] = []
    guard = Guard(lambda: said.append("stopped"))
    before = signal.signal(signal.SIGALRM, HANDLERS[name])
    try:
        with pytest.raises(TooLong), guard.harmless():
            signal.raise_signal(signal.SIGALRM)
        with guard.harmless():
            pass
        assert (guard.error, said) == (None, [])
        with guard.harmless():
            deeper()  # the same error, and not from the handler
    finally:
        signal.signal(signal.SIGALRM, before)
    assert isinstance(guard.error, TooLong)
    assert said == ["stopped"]


def test_an_error_of_ours_is_none_of_a_signal() -> None:
    with pytest.raises(TooLong) as raised:
        deeper()
    assert not is_of_a_signal(raised.value)
    assert is_of_a_signal(KeyboardInterrupt())
