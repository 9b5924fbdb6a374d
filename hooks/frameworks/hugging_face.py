"""Hugging Face Trainer."""

from __future__ import annotations

from functools import cache
from typing import Any

from optgeom.hooks.frameworks.attached import Attached, framework


class _OfTrainer(Attached):
    """Watches what a `transformers.Trainer` trains, from train begin to train end.

    What the Trainer logs is recorded under its names: loss (its mean since the log before),
    learning_rate, grad_norm, epoch, eval_loss.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach to the model and to the optimizer inside accelerate's wrapper."""
        self.attach(given["model"], [given["optimizer"]], int(state.global_step))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Record what was logged."""
        self.follow(lambda: logs or {})

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Close."""
        self.detach()


@cache
def callback_class() -> type[Any]:
    """The callback, as a class of transformers'.

    Raises:
        WatchError: transformers is not installed.
    """
    base = framework("transformers", extra="hf", callback="HuggingFaceCallback").TrainerCallback
    made = {"__module__": "optgeom.frameworks", "__doc__": _OfTrainer.__doc__}
    return type("HuggingFaceCallback", (_OfTrainer, base), made)
