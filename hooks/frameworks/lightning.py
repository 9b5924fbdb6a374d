"""Lightning."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from optgeom.hooks.frameworks.attached import Attached, framework

_NAMES = ("lightning.pytorch", "pytorch_lightning")


class _OfLightning(Attached):
    """Watches what a Lightning Trainer trains, from train start to train end.

    Every `log_every_n_steps` steps, after validation and at the end of an epoch, what
    `self.log` was given since is recorded under its names; `loss` is what training_step returned,
    where nothing of that name was logged.
    """

    _seen: Mapping[str, Any] = {}
    _logged = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach to the module and to its optimizers, once a checkpoint has been restored."""
        optimizers = trainer.optimizers
        # Lightning counts the steps of all optimizers
        step = int(trainer.global_step) // max(1, len(optimizers))
        self._seen, self._logged = {}, step
        self.attach(pl_module, optimizers, step)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning makes the numbers of the epoch before anew when it ends: they are known."""
        self._seen = dict(trainer.callback_metrics)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record what was logged, as often as Lightning's own loggers do."""
        step = 0 if self.recorder is None else self.recorder.step
        if step == self._logged or step % trainer.log_every_n_steps:
            return
        self._logged = step
        self.follow(lambda: _loss(trainer, outputs) | self._fresh(trainer))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record what is logged once an epoch."""
        self.follow(lambda: self._fresh(trainer))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record what validation found."""
        if not trainer.sanity_checking:
            self.follow(lambda: self._fresh(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close."""
        self.detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close; the attempt has failed."""
        self.detach(exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close what may be open still."""
        self.detach()

    def _fresh(self, trainer: Any) -> dict[str, Any]:
        """What was logged since the last time: a value that was logged anew is another object."""
        now = dict(trainer.callback_metrics)
        fresh = {name: one for name, one in now.items() if one is not self._seen.get(name)}
        self._seen = now
        return fresh


def _loss(trainer: Any, outputs: Any) -> dict[str, Any]:
    """What training_step returned; Lightning has divided it by the batches of a step."""
    if not isinstance(outputs, Mapping) or outputs.get("loss") is None:
        return {}
    return {"loss": outputs["loss"] * trainer.accumulate_grad_batches}


def callback_class() -> type[Any]:
    """The callback, as a class of the package that the program uses; `lightning` if both are there.

    Raises:
        WatchError: neither is installed.
    """
    names = sorted(_NAMES, key=lambda name: name not in sys.modules)
    module = framework(*names, extra="lightning", callback="LightningCallback")
    return _made(module.Callback)


@cache
def _made(base: type[Any]) -> type[Any]:
    made = {"__module__": "optgeom.frameworks", "__doc__": _OfLightning.__doc__}
    return type("LightningCallback", (_OfLightning, base), made)
