"""Every parameter of a model once, with what the rules know of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from optgeom.hooks.names import clean, escape, kind_of
from optgeom.hooks.sharding import placement_of
from optgeom.hooks.stored import NO_MATRIX, Place, is_router, stored
from optgeom.hooks.views import Stored

NOT_HELD = "the watched optimizer does not hold it"
FROZEN = "frozen"
LAZY = "lazy and without a shape yet: watch after the first forward pass"


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One parameter, before anything is decided.

    Attributes:
        name: cleaned, and no other's.
        kind: of layer.
        parameter: itself.
        place: where it stands.
        stored: how it is kept, or why it is no matrix by rule.
        others: further names of the same parameter.
    """

    name: str
    kind: str
    parameter: nn.Parameter
    place: Place
    stored: Stored | str
    others: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's global shape; empty while it is lazy."""
        return () if is_lazy(self.parameter) else tuple(self.parameter.shape)

    def refused(self, *, is_held: bool) -> str | None:
        """Why it cannot be captured, whatever is asked for; None if it can.

        Args:
            is_held: whether a watched optimizer updates it.
        """
        parameter, known = self.parameter, self.stored
        if not is_held:
            return NOT_HELD if parameter.requires_grad else FROZEN
        if isinstance(known, str) and (known == LAZY or known.startswith(NO_MATRIX)):
            return known
        if not parameter.is_floating_point() or parameter.dtype.itemsize == 1:
            return f"{parameter.dtype} weights are not captured yet"
        if parameter.numel() == 0:
            return "it has no entries"
        return placement_of(parameter).refused


def parameters_of(model: nn.Module) -> Iterator[Seen]:
    """Every parameter once, in the model's order; tied ones by their first name.

    Args:
        model: any module, wrapped or not.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    embeddings = {
        id(parameter)
        for module in modules.values()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        for parameter in module.parameters(recurse=False)
    }
    tied: dict[int, list[str]] = {}
    for full, parameter in model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(clean(full))
    parameters = list(model.named_parameters())
    names = Counter(clean(full) for full, _ in parameters)
    for full, parameter in parameters:
        name = clean(full) if names[clean(full)] == 1 else escape(full)
        place = Place.of(full, modules)
        known = LAZY if is_lazy(parameter) else stored(parameter, name, place)
        yield Seen(
            name,
            "embedding" if id(parameter) in embeddings else _kind(name, place, known),
            parameter,
            place,
            _flat_shard(full, parameter) or known,
            tuple(dict.fromkeys(tied[id(parameter)][1:])),
        )


def _kind(name: str, place: Place, known: Stored | str) -> str:
    """The kind of a parameter, by its name and by what its module is."""
    kind = kind_of(name)
    if kind == "mlp.gate" and is_router(place):
        return "mlp.router"
    convolution = isinstance(place.module, nn.modules.conv._ConvNd) and isinstance(known, Stored)
    return "conv" if convolution and not kind.startswith("lora.") else kind


def _flat_shard(full: str, parameter: nn.Parameter) -> str | None:
    """FSDP1 shows slices of a flat vector as parameters, whatever `use_orig_params` says."""
    if "_fsdp_wrapped_module" in full.split(".") and not is_lazy(parameter) and parameter.ndim < 2:
        return f"{NO_MATRIX}: FullyShardedDataParallel keeps flat shards; use fully_shard"
    return None
