"""Names to rules: what `whatif` can compute, made of the pure functions of optgeom.optim.

Geometry takes rules as arguments and knows none; optim knows no trace. This module is above both.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from optgeom.geometry.counterfactual.result import WhatIf
from optgeom.geometry.counterfactual.rule import Applied, Rule, SecondMoment
from optgeom.geometry.whatif import whatif as _whatif
from optgeom.optim import (
    COEFFICIENT_SETS,
    FAMILIES,
    MuonSettings,
    NorMuonSettings,
    normuon_settings,
    orthogonalize,
)
from optgeom.optim.families import MatrixSettings, ShapeFactor, with_overrides
from optgeom.optim.momentum import shape_scale
from optgeom.optim.newton_schulz import DTYPES
from optgeom.optim.normuon import neuron_sums_, normalize_neurons_, second_moment_shape
from optgeom.traces.errors import OptgeomError
from optgeom.traces.reading.asked import Names, Steps
from optgeom.traces.store import Trace

__all__ = [
    "RULES",
    "adamw_sign",
    "arithmetic_of",
    "aurora",
    "muon",
    "normuon",
    "polar",
    "polar_express",
    "rule_named",
    "whatif",
]

_NOT_OF_THE_RULE = frozenset(
    {"momentum", "momentum_form", "nesterov", "weight_decay", "comm_dtype"}
)


def normuon(family: str = "paper", **settings: Any) -> Rule:
    """NorMuon, arXiv:2510.05491: every neuron of the orthogonalized matrix over its running RMS.

    Args:
        family: "paper", "released", "dion" or "larger-axis", as of `optgeom.optim.NorMuon`.
        **settings: Fields of `NorMuonSettings` that override the family's.

    Raises:
        TypeError, ValueError: as `normuon_settings`.
    """
    chosen = normuon_settings(family, **settings)

    def apply(matrix: Tensor, before: Tensor | None, after: Tensor | None) -> Applied:
        update = _orthogonalized(matrix, chosen)
        rows, cols = matrix.shape
        shape = second_moment_shape((rows, cols), settings=chosen)
        moment = torch.zeros(shape) if before is None else before.clone()
        if after is not None and chosen.beta2 > 0.0:
            # what gives the recorded one after this step
            new = update.square().mean(dim=-1 if shape[-1] == 1 else -2, keepdim=True)
            moment = (after.reshape(shape) - (1.0 - chosen.beta2) * new) / chosen.beta2
        sums = neuron_sums_(update, moment, settings=chosen)
        normalize_neurons_(update, sums, moment, settings=chosen, shape=(rows, cols))
        return Applied(update, moment)

    def shape_of(shape: tuple[int, int]) -> tuple[int, int]:
        rows, cols = second_moment_shape(shape, settings=chosen)
        return rows, cols

    return Rule(
        name="normuon" if family == "paper" else f"normuon:{family}",
        title="NorMuon" if family == "paper" else f"NorMuon ({family})",
        algorithm="normuon",
        apply=apply,
        looks_ahead=chosen.nesterov,
        second_moment=SecondMoment(
            chosen.beta2,
            shape_of,
            {
                "coefficients": chosen.coefficients,
                "ns_steps": chosen.ns_steps or COEFFICIENT_SETS[chosen.coefficients].steps,
            },
        ),
        neuron_axis=lambda shape: "rows" if shape_of(shape)[1] == 1 else "columns",
        settings={"family": family, **_of_the_rule(chosen)},
        words="Newton-Schulz, every neuron over its running RMS, then the rescale of the family",
        source="arXiv:2510.05491, algorithm 1"
        if family == "paper"
        else f"the family {family!r} of optgeom.optim.NorMuon",
    )


def muon(scale: str = "match_rms", **settings: Any) -> Rule:
    """Muon (K. Jordan et al., 2024): the orthogonalized matrix times a factor of its shape.

    Args:
        scale: "match_rms", "original", "spectral" or "none", as of `optgeom.optim.Muon`.
        **settings: Other fields of `MuonSettings`.

    Raises:
        TypeError, ValueError: a setting that does not exist, or a value outside its range.
    """
    return _muon(
        "muon" if scale == "match_rms" else f"muon:{scale}",
        "Muon" if scale == "match_rms" else f"Muon ({scale})",
        {"scale": scale, **settings},
        words="Newton-Schulz, then a factor of the shape",
        source="github.com/KellerJordan/Muon; scale of arXiv:2502.16982"
        if scale == "match_rms"
        else "github.com/KellerJordan/Muon",
    )


def polar_express(**settings: Any) -> Rule:
    """Muon with the Polar Express schedule of polynomials, arXiv:2505.16932.

    Args:
        **settings: Other fields of `MuonSettings`.
    """
    return _muon(
        "polar-express",
        "Polar Express",
        {"coefficients": "polar_express", **settings},
        words="Muon whose polynomials are the Polar Express schedule",
        source=COEFFICIENT_SETS["polar_express"].source,
    )


def adamw_sign() -> Rule:
    """The sign of the momentum: what Adam's update tends to, entry by entry.

    Adam divides an entry's mean gradient by the root of its mean square. Where the gradient hardly
    changes over both averages the quotient is its sign (Adam as a sign method: arXiv:1705.07774;
    signSGD: arXiv:1802.04434). RMS 1. It is no replay of AdamW: its second moment, entry by entry,
    is not used.
    """

    def apply(matrix: Tensor, before: Tensor | None, after: Tensor | None) -> Applied:
        del before, after
        return Applied(torch.sign(matrix))

    return Rule(
        name="adamw-sign",
        title="AdamW's sign limit",
        algorithm="adamw-sign",
        apply=apply,
        inputs=("momentum", "ns_input", "gradient"),
        words="the sign of every entry of the momentum: the limit of Adam's update for a steady "
        "gradient, not AdamW itself",
        source="arXiv:1705.07774; arXiv:1802.04434",
    )


def aurora(iterations: int = 2, beta: float = 0.5, *, ns_dtype: str = "bfloat16") -> Rule:
    """Aurora, arXiv:2606.27715: the polar factor of rows that were scaled to come out even.

    For a tall matrix G, m > n, with the diagonal D = 1 / |G_j| at first: U = polar(D G), then
    D_j = D_j (n/m / |U_j|^2)^beta, and once more. n/m is the squared row norm that m even rows of
    an orthogonal matrix have. A wide matrix is transposed, so that its columns come out even; a
    square one is Muon's. The polar factor is by 12 steps of the simple quintic, as published.

    Args:
        iterations: How many polar factors; 2 as published.
        beta: Exponent of the correction; 0.5 as published.
        ns_dtype: "bfloat16", as published, or "float32": the arithmetic of the iteration.

    Raises:
        ValueError: fewer than one iteration, or a beta outside (0, 1].
    """
    if iterations < 1 or not 0.0 < beta <= 1.0:
        raise ValueError(
            f"aurora takes iterations >= 1 and 0 < beta <= 1; got {iterations} and {beta}"
        )

    def factor(matrix: Tensor) -> Tensor:
        return orthogonalize(matrix, coefficients="simple", dtype=ns_dtype).float()

    def even(tall: Tensor) -> Tensor:
        share = tall.shape[1] / tall.shape[0]
        scale = 1.0 / tall.norm(dim=1, keepdim=True).clamp(min=1e-7)
        found = factor(scale * tall)
        for _ in range(iterations - 1):
            squares = found.square().sum(dim=1, keepdim=True).clamp(min=1e-14)
            scale = scale * (share / squares).pow(beta)
            found = factor(scale * tall)
        return found

    def apply(matrix: Tensor, before: Tensor | None, after: Tensor | None) -> Applied:
        del before, after
        rows, cols = matrix.shape
        if rows == cols:
            found = factor(matrix)
        else:
            found = even(matrix) if rows > cols else even(matrix.mT).mT
        return Applied((found * shape_scale("original", rows, cols)).contiguous())

    return Rule(
        name="aurora",
        title="Aurora",
        algorithm="aurora",
        apply=apply,
        looks_ahead=True,
        neuron_axis=lambda shape: "rows" if shape[0] >= shape[1] else "columns",
        settings={
            "iterations": iterations,
            "beta": beta,
            "coefficients": "simple",
            "ns_steps": COEFFICIENT_SETS["simple"].steps,
            "ns_dtype": ns_dtype,
            "scale": "original",
        },
        words="the polar factor of a matrix whose rows are scaled so that those of the factor come "
        "out even (of a wide matrix: the columns)",
        source="arXiv:2606.27715; github.com/tilde-research/aurora-release, src/aurora.py",
    )


def polar() -> Rule:
    """The exact polar factor, by SVD: what every Newton-Schulz iteration approximates.

    Directions below 1e-6 of the largest singular value are left out. Times 0.2 sqrt(max(m, n)), as
    Muon's match_rms.
    """

    def apply(matrix: Tensor, before: Tensor | None, after: Tensor | None) -> Applied:
        del before, after
        if not bool(torch.isfinite(matrix).all()):
            return Applied(torch.full_like(matrix, torch.nan))
        u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        kept = (s > 1e-6 * s[0]).double()
        return Applied(((u * kept) @ v).float() * shape_scale("match_rms", *matrix.shape))

    return Rule(
        name="polar",
        title="The exact polar factor",
        algorithm="polar",
        apply=apply,
        looks_ahead=True,
        settings={"scale": "match_rms"},
        words="U V^T of the SVD: what Newton-Schulz approximates",
        source="polar decomposition; scale of arXiv:2502.16982",
    )


_MAKERS: Mapping[str, Callable[..., Rule]] = {
    **{f"normuon:{one}": partial(normuon, one) for one in FAMILIES},
    **{f"muon:{one}": partial(muon, one) for one in get_args(ShapeFactor)},
    "polar-express": polar_express,
    "aurora": aurora,
    "adamw-sign": adamw_sign,
    "polar": polar,
}
_SHORT = {"normuon": "normuon:paper", "muon": "muon:match_rms"}
_EXACT = ("adamw-sign", "polar")

RULES: tuple[str, ...] = (
    "normuon",
    "muon",
    *(name for name in _MAKERS if name not in _SHORT.values()),
)
"""The names that stand for a rule."""


def rule_named(name: str, *, ns_dtype: str | None = None) -> Rule:
    """The rule that a name stands for.

    Args:
        name: One of `RULES`; "normuon:paper" and "muon:match_rms" are "normuon" and "muon".
        ns_dtype: The arithmetic of the iteration, "float32" or "bfloat16"; None: the rule's own.

    Raises:
        OptgeomError: there is none; names the nearest.

    >>> rule_named("normuon").settings["neuron_axis"]
    'rows'
    """
    known = _SHORT.get(name, name)
    if known not in _MAKERS:
        close = difflib.get_close_matches(name, RULES, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise OptgeomError(f"no rule {name!r}: {hint}There are {', '.join(RULES)}")
    if ns_dtype is None or known in _EXACT:
        return _MAKERS[known]()
    return _MAKERS[known](ns_dtype=ns_dtype)


def arithmetic_of(trace: Trace) -> str | None:
    """The precision that a run orthogonalizes in, where its settings say one and the same.

    A rule is computed in it, so that what changes is the rule's doing and not the rounding's.
    """
    said = {group.get("ns_dtype") for one in trace.info.optimizers for group in one.groups}
    named = said - {None}
    return str(named.pop()) if len(named) == 1 and named <= DTYPES.keys() else None


def whatif(
    trace: Trace,
    rules: str | Rule | Iterable[str | Rule] = ("normuon",),
    *,
    out: str | os.PathLike[str] | None = None,
    steps: Steps = None,
    layers: Names = None,
    overwrite: bool = False,
    updates: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> WhatIf:
    """What other rules would have applied at the captured steps of a run: see docs/whatif.md.

    Args:
        trace: A run with raw matrices of ns_input, momentum or gradient; also one of AdamW.
        rules: Names in `RULES`, computed in the precision of the run (`arithmetic_of`), else in
            their own; or rules, such as ``normuon(beta2=0.9)``.
        out: As of `optgeom.geometry.whatif.whatif`, as all that follows.
        steps: Steps.
        layers: Layers by name.
        overwrite: Replace what was computed from this run before.
        updates: Store the computed updates too.
        progress: Called with (done, total) cells.

    Returns:
        The computed traces by rule, and what they say.

    Raises:
        OptgeomError: no such rule, or two of one name; and as geometry's `whatif`.
    """
    given = [rules] if isinstance(rules, str | Rule) else list(rules)
    ns_dtype = arithmetic_of(trace)
    made = [one if isinstance(one, Rule) else rule_named(one, ns_dtype=ns_dtype) for one in given]
    found: dict[str, Rule] = {}
    for rule in made:
        if rule.name in found:
            raise OptgeomError(
                f"two rules are called {rule.name}: give one of them a name of its own, with "
                "dataclasses.replace(rule, name=...)"
            )
        found[rule.name] = rule
    return _whatif(
        trace,
        found,
        out=out,
        steps=steps,
        layers=layers,
        overwrite=overwrite,
        updates=updates,
        progress=progress,
    )


def _muon(name: str, title: str, overrides: Mapping[str, Any], *, words: str, source: str) -> Rule:
    chosen = with_overrides(MuonSettings(), overrides, owner="Muon")

    def apply(matrix: Tensor, before: Tensor | None, after: Tensor | None) -> Applied:
        del before, after
        scale = shape_scale(chosen.scale, *matrix.shape)
        return Applied(_orthogonalized(matrix, chosen) * scale)

    return Rule(
        name=name,
        title=title,
        algorithm=name.partition(":")[0],
        apply=apply,
        looks_ahead=chosen.nesterov,
        settings=_of_the_rule(chosen),
        words=words,
        source=source,
    )


def _orthogonalized(matrix: Tensor, settings: MatrixSettings) -> Tensor:
    """O, (m, n) float32, a new tensor; the arithmetic of the iteration is the settings'."""
    found = orthogonalize(
        matrix,
        coefficients=settings.coefficients,
        steps=settings.ns_steps,
        dtype=settings.ns_dtype,
    )
    return found.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _of_the_rule(settings: MuonSettings | NorMuonSettings) -> dict[str, Any]:
    """Settings of what is done to the matrix that enters; the momentum's are the run's own."""
    chosen = {k: v for k, v in asdict(settings).items() if k not in _NOT_OF_THE_RULE}
    chosen["ns_steps"] = settings.ns_steps or COEFFICIENT_SETS[settings.coefficients].steps
    return chosen
