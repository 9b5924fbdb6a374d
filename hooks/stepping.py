"""Being there when an optimizer steps: its instance's `step` is wrapped, and given back.

Step hooks would do for well-behaved optimizers; some fire them twice, never, or in an order that
pairs two recorders wrongly, so a try/finally around the call itself is used instead. The wrapper
is a bound method, because learning-rate schedulers take `step.__func__`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from types import MethodType
from typing import Any, Protocol

from optgeom.hooks.compiling import never_compiled, pause, resumed
from optgeom.hooks.guard import is_of_a_signal
from optgeom.hooks.mode import taken_off


class Begun(Enum):
    """What a listener wants of a step."""

    LEFT_ALONE = "it is none, or a part of one that has begun"
    COUNTED = "to know when it is over"
    CAPTURED = "to run it"


class Listener(Protocol):
    """What wants to know of a step; nothing of its own may raise."""

    def begin(self, optimizer: Any) -> Begun:
        """Called before a step; says what is to be done with it."""

    def passed(self, optimizer: Any, done: bool) -> None:
        """A step that was only to be counted is over; `done` unless it raised."""

    def run(self, optimizer: Any, step: Callable[[], Any]) -> Any:
        """Run a captured step, with whatever belongs around it, and return its result."""

    def interrupted(self, optimizer: Any) -> None:
        """Ctrl-C or a signal's handler has ended a step, or what was done for it: it is over."""

    def closure_returned(self, optimizer: Any) -> None:
        """A closure has just made the gradients anew."""


class Attachment:
    """One optimizer's wrapped step."""

    def __init__(self, optimizer: Any, listener: Listener) -> None:
        """Wrap `optimizer.step` for this instance alone.

        Args:
            optimizer: any object with a bound `step` method.
            listener: told of every step until `detach`.
        """
        self._optimizer = optimizer
        self._own = optimizer.__dict__.get("step")
        self._listener: Listener | None = listener
        inner = optimizer.step
        attachment = self

        @functools.wraps(getattr(inner, "__func__", inner))
        def step(instance: Any, *args: Any, **kwargs: Any) -> Any:
            if instance is not attachment._optimizer:
                return type(instance).step(instance, *args, **kwargs)  # a copy took it along
            listening = attachment._listener
            if listening is None:
                return inner(*args, **kwargs)
            # steps that capture nothing pay for what stands here, so no more does than must
            before = pause(None)
            done = False
            try:
                begun = listening.begin(instance)
                if begun is not Begun.CAPTURED:
                    try:
                        pause(before)
                        result = inner(*args, **kwargs)
                        done = True
                        return result
                    finally:
                        pause(None)
                        if begun is Begun.COUNTED:
                            listening.passed(instance, done)
                args, kwargs = attachment._without_mode(args, kwargs)
                return listening.run(
                    instance, lambda: resumed(before, functools.partial(inner, *args, **kwargs))
                )
            except BaseException as error:
                if is_of_a_signal(error):
                    listening.interrupted(instance)
                raise
            finally:
                pause(before)

        never_compiled(step)
        step.__dict__["_attachment"] = self
        self._wrapped = MethodType(step, optimizer)
        optimizer.step = self._wrapped

    def _without_mode(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Take the mode off while a closure runs forward and backward."""
        if args and callable(args[0]):
            return (self._closure(args[0]), *args[1:]), kwargs
        if callable(kwargs.get("closure")):
            return args, kwargs | {"closure": self._closure(kwargs["closure"])}
        return args, kwargs

    def _closure(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(closure)
        def outside(*args: Any, **kwargs: Any) -> Any:
            with taken_off():
                result = closure(*args, **kwargs)
            if self._listener is not None:
                self._listener.closure_returned(self._optimizer)
            return result

        return outside

    def detach(self) -> None:
        """Give the step back; where somebody wrapped it again, ours only turns inert."""
        self._listener = None
        if self._optimizer.__dict__.get("step") is not self._wrapped:
            return
        before = self._own
        while (beneath := _attachment_of(before)) is not None and beneath._listener is None:
            before = beneath._own
        if before is None:
            del self._optimizer.step
        else:
            self._optimizer.step = before


def _attachment_of(step: Any) -> Attachment | None:
    """The attachment that made a wrapped step, if one did."""
    found = getattr(getattr(step, "__func__", None), "_attachment", None)
    return found if isinstance(found, Attachment) and found._wrapped is step else None
