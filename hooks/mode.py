"""The one dispatch mode of the process, worn only while a captured step runs.

Two recorders, nested steps and closures share it: a depth counter says when it goes on and off,
and it is never popped unless it is on top of the stack. torch.compile sees through it, so that
what was compiled stays compiled and keeps its bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from optgeom.hooks.reading import Reading

OnError = Callable[[Exception], None]


@cache
def _written(func: OpOverload) -> tuple[str, ...]:
    """The names of the arguments that an operation writes to."""
    return tuple(
        argument.name
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )


class _Watching(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.readings: list[tuple[Reading, OnError]] = []

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.readings or not isinstance(func, OpOverload):
            return func(*args, **kwargs)
        names = _written(func)
        if names:
            self._tell(lambda reading: reading.before(func, names, args, kwargs))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self._tell(lambda reading: reading.after(func, args, kwargs, result))
        return result

    def _tell(self, what: Callable[[Reading], None]) -> None:
        for entry in tuple(self.readings):
            reading, on_error = entry
            try:
                if torch.is_grad_enabled():
                    with torch.no_grad():
                        what(reading)
                else:
                    what(reading)
            except Exception as error:  # noqa: BLE001 -- nothing of ours may raise inside a step
                self.readings.remove(entry)
                on_error(error)


class _Worn(threading.local):
    """The mode of this thread: dispatch modes do not cross threads."""

    def __init__(self) -> None:
        self.mode = _Watching()
        self.depth = 0


_worn = _Worn()


def _take_off(entry: tuple[Reading, OnError], mode: _Watching, depth: int) -> None:
    """Go back to a depth; at none of it the mode is off."""
    if entry in mode.readings:
        mode.readings.remove(entry)
    _worn.depth = depth
    if depth or _worn.mode is not mode:
        return
    if _get_current_dispatch_mode() is mode:
        mode.__exit__(None, None, None)
    else:
        # somebody entered a mode inside the step and left it there: ours stays beneath, inert
        _worn.mode = _Watching()


@contextmanager
def worn(reading: Reading, on_error: OnError) -> Iterator[None]:
    """Tell a reading of every operation until the block ends, however it ends.

    Args:
        reading: the captured step.
        on_error: called once if the reading itself fails; it is then told nothing more.
    """
    entry, mode, depth = (reading, on_error), _worn.mode, _worn.depth
    try:
        mode.readings.append(entry)
        if not depth:
            mode.__enter__()
        _worn.depth = depth + 1
        yield
    finally:
        try:
            _take_off(entry, mode, depth)
        except BaseException:  # Ctrl-C, or a signal's handler, came in between
            _take_off(entry, mode, depth)
            raise


@contextmanager
def taken_off() -> Iterator[None]:
    """Run a block, such as a closure with forward and backward, without the mode."""
    mode = _worn.mode
    if not _worn.depth or _get_current_dispatch_mode() is not mode:
        yield
        return
    mode.__exit__(None, None, None)
    try:
        yield
    finally:
        mode.__enter__()
