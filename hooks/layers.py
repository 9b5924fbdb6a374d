"""Which parameters are captured, and how each is seen as a matrix with rows = neurons."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from optgeom.hooks.errors import WatchError
from optgeom.hooks.names import block_of, clean, kind_of
from optgeom.hooks.sharding import placement_of

View = Literal["as_is", "transposed", "flattened"]
LayerFilter = str | Sequence[str] | Callable[[str, nn.Parameter], bool] | None


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One captured matrix: a parameter, and where it stands in the model and its optimizer."""

    name: str
    kind: str
    block: int | None
    parameter: nn.Parameter
    shape: tuple[int, int]
    view: View
    optimizer: int
    group: int
    algorithm: str | None
    placement: str

    def matrix(self, tensor: Tensor) -> Tensor:
        """See a tensor of the parameter's (global) shape as (neurons, inputs), without a copy."""
        if self.view == "transposed":
            return tensor.mT
        return tensor.reshape(self.shape) if self.view == "flattened" else tensor


@dataclass(frozen=True, slots=True)
class Decision:
    """What `Recorder.describe` says of one parameter."""

    name: str
    shape: tuple[int, ...]
    captured: bool
    reason: str


def _view_of(module: nn.Module, parameter: Tensor) -> tuple[View, tuple[int, int]] | None:
    """How a parameter becomes a matrix; None for what is none."""
    if parameter.ndim == 2:
        if type(module).__name__ == "Conv1D":  # Hugging Face keeps these as (in, out)
            return "transposed", (parameter.shape[1], parameter.shape[0])
        return "as_is", (parameter.shape[0], parameter.shape[1])
    if parameter.ndim > 2 and isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        return "flattened", (parameter.shape[0], math.prod(parameter.shape[1:]))
    return None


def _wanted(layers: LayerFilter) -> Callable[[str, nn.Parameter], bool] | None:
    if layers is None:
        return None
    if callable(layers):
        return layers
    patterns = [layers] if isinstance(layers, str) else list(layers)
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise WatchError(
            f"layers takes regular expressions or kinds of layer, got {layers!r}: {error}"
        ) from error
    kinds = set(patterns)
    return lambda name, _: kind_of(name) in kinds or any(p.search(name) for p in compiled)


def _places(optimizers: Sequence[Any]) -> dict[int, tuple[int, int, Mapping[str, Any]]]:
    """From a parameter's id to its (optimizer, group, group settings)."""
    return {
        id(parameter): (i, j, group)
        for i, optimizer in enumerate(optimizers)
        for j, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }


def select(
    model: nn.Module, optimizers: Sequence[Any], layers: LayerFilter
) -> tuple[tuple[Layer, ...], tuple[Decision, ...]]:
    """Decide for every parameter of a model whether it is captured, and as what.

    By default every matrix that an optimizer updates is captured but embeddings; a filter
    replaces that default.

    Args:
        model: whose named parameters are searched.
        optimizers: the watched optimizers; a parameter that none of them holds is left out.
        layers: a regular expression searched in the cleaned names, a kind of layer such as
            "mlp.up", several of these, a callable (name, parameter) -> bool, or None.

    Returns:
        The captured layers in the model's order, and one decision per parameter.

    Raises:
        WatchError: nothing is left to capture, or a pattern is no regular expression.
    """
    places, wanted = _places(optimizers), _wanted(layers)
    modules = dict(model.named_modules(remove_duplicate=False))
    embeddings = {
        id(parameter)
        for module in modules.values()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        for parameter in module.parameters(recurse=False)
    }
    captured: list[Layer] = []
    decisions: list[Decision] = []
    for full_name, parameter in model.named_parameters():
        owner = modules[full_name.rpartition(".")[0]]
        name = clean(full_name)
        view = _view_of(owner, parameter)
        kind = "conv" if view and view[0] == "flattened" else kind_of(name)
        kind = "embedding" if id(parameter) in embeddings else kind
        if id(parameter) not in places:
            reason = "no watched optimizer updates it"
        elif view is None:
            reason = "not a matrix"
        elif isinstance(parameter, DTensor) and (why := placement_of(parameter).refused):
            reason = why
        elif wanted is None and kind == "embedding":
            reason = "embeddings are off by default: name it in layers="
        elif wanted is not None and not wanted(name, parameter):
            reason = "layers= does not name it"
        else:
            optimizer, group, settings = places[id(parameter)]
            layer = Layer(
                name=name,
                kind=kind,
                block=block_of(name),
                parameter=parameter,
                shape=view[1],
                view=view[0],
                optimizer=optimizer,
                group=group,
                algorithm=settings.get("algorithm"),
                placement=placement_of(parameter).label,
            )
            captured.append(layer)
            decisions.append(Decision(name, tuple(parameter.shape), True, f"{kind}, {view[0]}"))
            continue
        decisions.append(Decision(name, tuple(parameter.shape), False, reason))
    if not captured:
        raise WatchError(_nothing(layers, decisions, bool(places)))
    return tuple(captured), tuple(decisions)


def _nothing(layers: LayerFilter, decisions: Sequence[Decision], any_place: bool) -> str:
    if layers is not None and not callable(layers):
        names = ", ".join(d.name for d in decisions if d.reason.startswith("layers="))
        return f"layers={layers!r} names no matrix; the model has: {names or 'no matrix'}"
    reasons = sorted({d.reason for d in decisions})
    return f"nothing to capture: {'; '.join(reasons) or 'the model has no parameters'}"


def as_float(tensor: Tensor) -> Tensor:
    """The tensor in the precision that folds are made in: float64 stays, the rest is float32."""
    return tensor.detach().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
