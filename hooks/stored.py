"""Which way round modules keep their weights: the rules that need no setting.

A rule holds only where the layout is sure. A parameter of three axes that none is sure of is not
captured, and the reason names the override.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optgeom.hooks.errors import WatchError
from optgeom.hooks.names import WRAPPER_PREFIXES, kind_of
from optgeom.hooks.views import Stored, View

NO_MATRIX = "not a matrix"
UNKNOWN = "axes of unknown meaning: name it in views=, as View(experts=True) or View(whole=True)"
TURNED = "stored (in, out), turned"

Modules = Mapping[str, nn.Module]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a parameter stands.

    Attributes:
        name: its own in its module.
        module: that holds it.
        called: the module's own name, wrappers left out.
        parent: the module around that one; None for the model itself.
    """

    name: str
    module: nn.Module
    called: str
    parent: nn.Module | None

    @classmethod
    def of(cls, full: str, modules: Modules) -> Place:
        """Find a parameter's place; a parametrized weight's is that of its owner.

        Args:
            full: its name as in `model.named_parameters()`.
            modules: all of the model, by name.
        """
        owner, _, inside = full.partition(".parametrizations.")
        path, _, name = owner.rpartition(".")
        if inside:
            path, name = owner, inside.partition(".")[0]
        parts = path.split(".")
        while len(parts) > 1 and parts[-1] in WRAPPER_PREFIXES:
            parts.pop()
        parent = modules.get(".".join(parts[:-1])) if path else None
        return cls(name, modules[path], parts[-1], parent)


def stored(parameter: Tensor, name: str, place: Place) -> Stored | str:
    """How a parameter is kept, or why it is no matrix by rule.

    Args:
        parameter: with its global shape.
        name: its cleaned one.
        place: where it stands.
    """
    shape, module = tuple(parameter.shape), place.module
    if len(shape) < 2 or place.name.endswith("bias"):
        return NO_MATRIX
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return f"{NO_MATRIX}: a norm's scale"
    if isinstance(module, nn.modules.conv._ConvNd) and len(shape) > 2:
        if not module.transposed:
            return Stored(note="flattened")
        return Stored(
            transposed=True,
            groups=module.groups,
            note="stored (in, out, ...), turned and flattened",
        )
    if len(shape) == 2:
        if type(module).__name__ == "Conv1D":  # Hugging Face keeps these as (in, out)
            return Stored(transposed=True, note=TURNED)
        return Stored()
    if sum(size > 1 for size in shape) < 2 or kind_of(name) == "embedding":
        return NO_MATRIX
    turned = _stack_is_transposed(parameter, name, place)
    if turned is not None:
        return Stored(experts=True, transposed=turned, note=TURNED if turned else "")
    return UNKNOWN


def overridden(known: Stored | str, view: View, shape: tuple[int, ...]) -> Stored:
    """What a view leaves of the rules.

    Args:
        known: by rule.
        view: the user's.
        shape: the parameter's.

    Raises:
        WatchError: the view does not say enough, or has more axes than the parameter.
    """
    by_rule = Stored() if isinstance(known, str) else known
    if view.whole:
        # the neurons of a stack have no axis of their own, so its rule has no say
        turned = bool(by_rule.transposed and not by_rule.experts)
        turned = turned if view.transposed is None else view.transposed
        groups = by_rule.groups if turned else 1
        return Stored(transposed=turned, groups=groups, note="flattened" if len(shape) > 2 else "")
    experts = by_rule.experts or view.experts
    if experts and len(shape) < 3:
        raise WatchError(f"View(experts=True) needs three axes or more, its shape is {shape}")
    if len(shape) - experts > 2 and isinstance(known, str):
        raise WatchError(known)
    if view.transposed is None or view.transposed == by_rule.transposed:
        return replace(by_rule, experts=experts)
    return Stored(experts, view.transposed, note=TURNED if view.transposed else "")


def _stack_is_transposed(parameter: Tensor, name: str, place: Place) -> bool | None:
    """Whether a stack of experts is (E, in, out); None if it is no stack or nothing is sure."""
    module = place.module
    about = f"{name}.{type(module).__name__}".lower()
    if parameter.ndim != 3 or not ("expert" in about or "moe" in about):
        return None
    if parameter.shape[0] != getattr(module, "num_experts", parameter.shape[0]):
        return None
    said = getattr(module, "is_transposed", None)  # transformers from 5.0 on
    if isinstance(said, bool):
        return said
    found = {
        *_by_sizes(module, tuple(parameter.shape)),
        *_by_fused_sizes(module),
        *_by_router(module, place.parent or module),
    }
    return found.pop() if len(found) == 1 else None


def _by_sizes(module: nn.Module, shape: tuple[int, ...]) -> Iterator[bool]:
    """What JetMoe's and Granite's experts tell: `input_size` and `output_size`."""
    sizes = getattr(module, "input_size", None), getattr(module, "output_size", None)
    if None not in sizes and sizes[0] != sizes[1]:
        if shape[1:] == sizes:
            yield True
        elif shape[1:] == sizes[::-1]:
            yield False


def _by_fused_sizes(module: nn.Module) -> Iterator[bool]:
    """Gate and up fill twice the axis that down has once, so both orders cannot hold at once."""
    fused, down = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    if isinstance(fused, Tensor) and isinstance(down, Tensor) and fused.ndim == down.ndim == 3:
        if fused.shape[1] == 2 * down.shape[2] and fused.shape[2] == down.shape[1]:
            yield False
        if fused.shape[2] == 2 * down.shape[1] and fused.shape[1] == down.shape[2]:
            yield True


def _by_router(module: nn.Module, around: nn.Module) -> Iterator[bool]:
    """The router beside the experts tells the model's width, which one of their axes must have."""
    stacks = {
        name: tuple(p.shape)
        for name, p in module.named_parameters(recurse=False)
        if not is_lazy(p) and p.ndim == 3
    }
    widths = {
        int(p.shape[1])
        for name, p in around.named_parameters()
        if not is_lazy(p)
        and p.ndim == 2
        and ("router" in name.lower() or "gate" in name.lower())
        and not name.endswith("bias")
        and p.shape[0] in {shape[0] for shape in stacks.values()}
    }
    if len(widths) != 1:
        return
    width = widths.pop()
    for name, (_, first, second) in stacks.items():
        if (first == width) == (second == width):
            continue
        kind = kind_of(f"experts.{name}")
        if kind in ("mlp.gate", "mlp.up", "mlp.gate_up"):
            yield first == width
        elif kind == "mlp.down":
            yield second == width


def is_router(place: Place) -> bool:
    """Whether a matrix called gate chooses experts: there are experts beside its module.

    Args:
        place: where it stands.
    """
    beside = () if place.parent is None else place.parent.named_children()
    return place.called == "gate" and any("expert" in name for name, _ in beside)
