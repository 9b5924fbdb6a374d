"""Which parameters are captured, and how each is seen as a matrix with rows = neurons."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optgeom.hooks.errors import WatchError
from optgeom.hooks.names import KINDS, block_of, clean, escape, kind_of
from optgeom.hooks.sharding import placement_of

NOT_NAMED = "layers= does not name it"
NO_MATRIX = "not a matrix"
LAZY = "lazy and without a shape yet: watch after the first forward pass"

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


def _matches(pattern: str, name: str, kind: str) -> bool:
    """Whether one entry of a filter, a kind or a regular expression, means a layer."""
    return kind == pattern if pattern in KINDS else re.search(pattern, name) is not None


def _patterns(layers: str | Sequence[str]) -> list[str]:
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise WatchError(
                f"layers takes regular expressions or kinds of layer, got {pattern!r}: {error}"
            ) from error
    return patterns


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
        WatchError: nothing is left to capture, a pattern matches nothing, or it is no regular
            expression.
    """
    places = _places(optimizers)
    patterns = None if layers is None or callable(layers) else _patterns(layers)
    unused = set(patterns or ())
    captured: list[Layer] = []
    decisions: list[Decision] = []
    for seen in _seen(model):
        reason = _why_not(seen, id(seen.parameter) in places)
        if reason is None and patterns is not None:
            means = {p for p in patterns if _matches(p, seen.name, seen.kind)}
            unused -= means
            reason = None if means else NOT_NAMED
        elif reason is None and callable(layers):
            reason = None if layers(seen.name, seen.parameter) else NOT_NAMED
        elif reason is None and seen.kind == "embedding":
            reason = "embeddings are off by default: name it in layers="
        shape = tuple(seen.parameter.shape) if reason != LAZY else ()
        if reason is not None or seen.view is None:
            decisions.append(Decision(seen.name, shape, False, reason or NO_MATRIX))
            continue
        optimizer, group, settings = places[id(seen.parameter)]
        captured.append(
            Layer(
                name=seen.name,
                kind=seen.kind,
                block=block_of(seen.name),
                parameter=seen.parameter,
                shape=seen.view[1],
                view=seen.view[0],
                optimizer=optimizer,
                group=group,
                algorithm=settings.get("algorithm"),
                placement=placement_of(seen.parameter).label,
            )
        )
        decisions.append(Decision(seen.name, shape, True, f"{seen.kind}, {seen.view[0]}"))
    if unused or not captured:
        raise WatchError(_nothing(sorted(unused), decisions))
    return tuple(captured), tuple(decisions)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    name: str
    kind: str
    parameter: nn.Parameter
    view: tuple[View, tuple[int, int]] | None


def _seen(model: nn.Module) -> Iterator[_Seen]:
    """Every parameter once, by a cleaned name that no other has."""
    modules = dict(model.named_modules(remove_duplicate=False))
    embeddings = {
        id(parameter)
        for module in modules.values()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        for parameter in module.parameters(recurse=False)
    }
    parameters = list(model.named_parameters())
    names = Counter(clean(full) for full, _ in parameters)
    for full, parameter in parameters:
        name = clean(full) if names[clean(full)] == 1 else escape(full)
        view = None
        if not is_lazy(parameter):
            view = _view_of(modules[full.rpartition(".")[0]], parameter)
        kind = "conv" if view and view[0] == "flattened" else kind_of(name)
        yield _Seen(name, "embedding" if id(parameter) in embeddings else kind, parameter, view)


def _why_not(seen: _Seen, is_updated: bool) -> str | None:
    """Why a parameter cannot be captured, whatever is asked for; None if it can."""
    parameter, lazy = seen.parameter, bool(is_lazy(seen.parameter))
    if not is_updated:
        return "the watched optimizer does not hold it"
    if lazy:
        return LAZY
    if seen.view is None:
        return NO_MATRIX
    if not parameter.is_floating_point() or parameter.dtype.itemsize == 1:
        return f"{parameter.dtype} weights are not captured yet"
    if parameter.numel() == 0:
        return "it has no entries"
    return placement_of(parameter).refused


def _nothing(unused: Sequence[str], decisions: Sequence[Decision]) -> str:
    if unused:
        names = [d.name for d in decisions if d.captured or d.reason == NOT_NAMED]
        return (
            f"layers={unused[0]!r} names no matrix that is updated; "
            f"there are: {', '.join(names) or 'none'}"
        )
    reasons = sorted({d.reason for d in decisions})
    return f"nothing to capture: {'; '.join(reasons) or 'the model has no parameters'}"


def as_float(tensor: Tensor) -> Tensor:
    """The tensor in the precision that folds are made in: float64 stays, the rest is float32."""
    return tensor.detach().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
