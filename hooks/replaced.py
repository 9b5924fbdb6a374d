"""Noticing that a layer's parameter is no longer the one that is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from optgeom.hooks.layers import Layer


class Replaced:
    """The layers whose parameter the model or the optimizer has let go of since `watch`.

    `load_state_dict(assign=True)` puts other parameters into a model, a rebuilt `param_groups`
    into an optimizer: what is recorded of the old ones would look like weights that rest.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Any],
        layers: Sequence[Layer],
        warn: Callable[..., None],
    ) -> None:
        """Begin with nothing replaced.

        Args:
            model: that is trained.
            optimizers: that train it.
            layers: that are captured.
            warn: says what is left out, as a logger does.
        """
        self._model = model
        self._optimizers = optimizers
        self._layers = layers
        self._warn = warn
        self._held = self._count()
        self.gone: frozenset[int] = frozenset()

    def look(self, step: int) -> frozenset[int]:
        """Find the layers to be left out from now on; each is said once.

        Args:
            step: the recorder's, for the message.
        """
        trained = {id(parameter) for parameter in self._model.parameters()}
        held = {
            id(parameter)
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for index, layer in enumerate(self._layers):
            if index in self.gone:
                continue
            # a sharded parameter is put aside by FSDP while it is gathered
            kept = id(layer.parameter) in trained or layer.placement != "replicate"
            if kept and id(layer.parameter) in held:
                continue
            self.gone |= {index}
            self._warn(
                "%s is left out from step %d on: the %s another parameter in its place; call "
                "watch again, with start_step=%d",
                layer.name,
                step,
                "optimizer holds" if kept else "model has",
                step,
            )
        if (count := self._count()) > self._held:
            self._warn(
                "%d parameters came to the optimizer after watch: they are not captured; call "
                "watch again, with start_step=%d",
                count - self._held,
                step,
            )
            self._held = count
        return self.gone

    def _count(self) -> int:
        return sum(len(group["params"]) for one in self._optimizers for group in one.param_groups)
