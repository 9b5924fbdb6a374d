"""What a run's settings promise of a layer: the rule that moves it, and the size of its update.

An optimizer is taken at its word: the layer's or the group's `algorithm`, a group's `use_muon`, or
the name of its class. What was really done is for the rules to find out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, Literal

from optgeom.traces.info import LayerInfo, OptimizerInfo, RunInfo

Algorithm = Literal["muon", "normuon", "other"]


@dataclass(frozen=True, slots=True)
class Declared:
    """What the settings say of one layer.

    Attributes:
        algorithm: "muon" or "normuon" where its update should come from an orthogonalized matrix.
        called: The optimizer's name for people, such as "Muon".
        factor: What the singular values of Muon's update should lie around, from the layer's shape
            and the scale that the settings name; None where they name none, or the shape is not
            the one that the optimizer sees.
        rms: The root mean square that NorMuon's settings give the update; None likewise.
        frobenius: The Frobenius norm at most, where they keep that of the orthogonal matrix.
        seen: (rows, cols) of the matrix as the optimizer sees it.
        is_piece: The layer is a piece of a matrix that may be orthogonalized as a whole.
        ns_steps: Steps of the iteration; None where the settings do not say.
        slope: Of the whole iteration at 0: how far it lifts what is smallest; None likewise.
    """

    algorithm: Algorithm
    called: str
    factor: float | None
    rms: float | None
    frobenius: float | None
    seen: tuple[int, int]
    is_piece: bool
    ns_steps: int | None = None
    slope: float | None = None

    @property
    def orthogonalizes(self) -> bool:
        """Whether an orthogonal matrix is promised."""
        return self.algorithm != "other"


def shape_factors(rows: int, cols: int) -> Mapping[str, float]:
    """The factors that implementations of Muon multiply an orthogonal matrix with, by name.

    Sources: K. Jordan's Muon (original), Moonlight arXiv 2502.16982 (match_rms), Bernstein's
    modular norms (spectral), NVIDIA Emerging-Optimizers (larger_side).

    >>> shape_factors(4, 1)["original"]
    2.0
    """
    return {
        "none": 1.0,
        "original": sqrt(max(1.0, rows / cols)),
        "match_rms": 0.2 * sqrt(max(rows, cols)),
        "spectral": sqrt(rows / cols),
        "larger_side": sqrt(max(rows, cols)),
    }


def declared(layer: LayerInfo, info: RunInfo) -> Declared:
    """What the settings say of a layer.

    Args:
        layer: One of the run's.
        info: run.json.
    """
    optimizer = next((one for one in info.optimizers if one.name == layer.optimizer), None)
    group: Mapping[str, Any] = {}
    if optimizer is not None and layer.group < len(optimizer.groups):
        group = optimizer.groups[layer.group]
    algorithm = _algorithm(layer.algorithm or group.get("algorithm"), group, optimizer)
    seen = (layer.shape[1], layer.shape[0]) if layer.transposed else layer.shape
    piece = layer.split is not None and not layer.split.isdigit()
    whole = len(layer.stored) <= 2 or layer.split is not None
    factor = rms = frobenius = None
    if whole and not piece and algorithm == "muon":
        factor = _factor(group, optimizer, seen)
    if whole and not piece and algorithm == "normuon":
        rms, frobenius = _norms(group, seen)
    called = layer.optimizer if optimizer is None else optimizer.type.rpartition(".")[2]
    given = group.get("ns_steps")
    steps = given if isinstance(given, int) and given > 0 else None
    return Declared(
        algorithm,
        called,
        factor,
        rms,
        frobenius,
        seen,
        piece or not whole,
        steps,
        _slope(group, steps),
    )


def _algorithm(
    named: object, group: Mapping[str, Any], optimizer: OptimizerInfo | None
) -> Algorithm:
    if isinstance(named, str) and named:
        return _of_name(named)
    if group.get("use_muon") is False or optimizer is None:
        return "other"
    if "betas" in group and not {"momentum", "ns_steps", "use_muon"} & group.keys():
        return "other"  # the Adam part of an optimizer that is named for its Muon part
    return _of_name(optimizer.type.rpartition(".")[2])


def _of_name(name: str) -> Algorithm:
    plain = re.sub(r"[^a-z]", "", name.lower())
    if "normuon" in plain:
        return "normuon"
    # AdaMuon divides entry by entry: its update is not meant to be orthogonal
    return "muon" if "muon" in plain and "adamuon" not in plain else "other"


_LINEAR: Mapping[str, tuple[float, ...]] = {
    "jordan": (3.4445,),
    "polar_express": (8.28721, 4.10706, 3.94869, 3.31842, 2.30065),
}
"""The linear coefficient of each step; the last one is repeated."""


def _slope(group: Mapping[str, Any], steps: int | None) -> float | None:
    """The product of the linear coefficients, which torch.optim.Muon's settings have as numbers."""
    given = group.get("ns_coefficients")
    linear = _LINEAR.get(str(group.get("coefficients")))
    if linear is None and isinstance(given, list | tuple) and given:
        linear = (float(given[0]),) if isinstance(given[0], int | float) else None
    if linear is None or steps is None:
        return None
    return prod(linear[min(at, len(linear) - 1)] for at in range(steps))


def _factor(
    group: Mapping[str, Any], optimizer: OptimizerInfo | None, seen: tuple[int, int]
) -> float | None:
    factors = shape_factors(*seen)
    if "scale" in group:
        return factors.get(str(group["scale"]))
    if "adjust_lr_fn" in group:  # torch.optim.Muon
        name = {None: "original", "match_rms_adamw": "match_rms"}.get(
            group["adjust_lr_fn"], str(group["adjust_lr_fn"])
        )
        return factors.get(name)
    theirs = optimizer is not None and optimizer.type.startswith("pytorch_optimizer.")
    if theirs and "use_adjusted_lr" in group:
        return factors["match_rms" if group["use_adjusted_lr"] else "original"]
    return None


def _norms(group: Mapping[str, Any], seen: tuple[int, int]) -> tuple[float | None, float | None]:
    """The RMS or the largest Frobenius norm that NorMuon's last step gives a matrix."""
    rows, cols = seen
    if group.get("update_scale") == "match_rms":  # pytorch_optimizer
        return 0.2, None
    if group.get("update_scale") == "preserve_norm":
        name = "match_rms" if group.get("use_adjusted_lr") else "original"
        return None, sqrt(min(rows, cols)) * shape_factors(rows, cols)[name]
    factor = shape_factors(rows, cols).get(str(group.get("shape_factor", "none")))
    rms = group.get("rms")
    if factor is None:
        return None, None
    if group.get("rescale") == "rms" and isinstance(rms, int | float):
        return float(rms) * factor, None
    if group.get("rescale") == "norm_before":
        return None, sqrt(min(rows, cols)) * factor
    return None, None
