"""Each case of `families`, measured and by the formulas, and what the catalogue allows between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg
import torch

from optgeom.geometry import METRICS, Context, measure_norms, measure_spectrum
from optgeom.geometry.measure import measure
from tests.geometry import oracles
from tests.geometry.families import Case, cases

LR = 0.02
SKETCHED_EXACTLY = 4091
HANDED_THROUGH = {
    # the context says them, and they are handed through; test_exact_rounding has the first two
    "lost_update_fraction",
    "lost_decay_fraction",
    "steps_since_previous",
    "second_moment_steps",
}
INPUT_ONLY = {"leverage_cv", "leverage_rank", "ns_floor_fraction"}
ORTHOGONALIZED_ONLY = {"sigma_min", "sigma_max", "polar_error", "ns_row_error"}


@dataclass(frozen=True)
class Examined:
    """A case as it was measured, and by the formulas.

    Attributes:
        found: Value by metric.
        exact: The same by the oracle: a number, None, or what is to be counted.
        row: As measured as an update.
        decomposition: By the oracle.
        polar_row_norms: As measured, and by the oracle.
        gradient: Its singular values, by LAPACK.
    """

    case: Case
    found: dict[str, Any]
    exact: dict[str, Any]
    row: dict[str, Any]
    decomposition: oracles.Decomposition
    polar_row_norms: tuple[Any, Any]
    gradient: Any


@cache
def examined(name: str) -> Examined:
    case = cases()[name]
    a, w, g, before = (
        tensor.double().numpy().astype(np.longdouble)
        for tensor in (case.matrix, case.weight, case.gradient, case.previous)
    )
    update = measure(
        case.matrix,
        weight=case.weight,
        gradient=case.gradient,
        lr=LR,
        previous_sketch=measure_norms(case.previous).sketch,
        steps_since_previous=1,
    )
    entering = measure_spectrum(case.matrix, Context(stage="ns_input", polynomial=oracles.JORDAN))
    decomposition = oracles.decomposed(a)
    kept = entering.values["leverage_rank"]
    assert isinstance(kept, int)
    polar = oracles.polar_rows(decomposition, kept)
    left = measure(case.matrix, stage="orthogonalized", polar_row_norms=entering.polar_row_norms)
    found = {name: update[name] for name in METRICS}
    found |= {name: entering.values[name] for name in INPUT_ONLY}
    found |= {name: left[name] for name in ORTHOGONALIZED_ONLY}
    method, resolved = update["spectrum_method"], update["resolved_rank"]
    assert isinstance(method, str)
    assert isinstance(resolved, int)
    floor = oracles.noise_floor(
        float(decomposition.s[0]),
        method=method,
        dtype=case.matrix.dtype,
        side=max(case.matrix.shape),
    )
    exact = (
        {"noise_floor": floor}
        | oracles.norm_metrics(a)
        | oracles.update_metrics(a, w, g, before, LR)
        | oracles.spectrum_metrics(decomposition.s, floor=floor, resolved=resolved)
        | oracles.input_metrics(decomposition, floor=floor, kept=kept)
        | oracles.orthogonalized_metrics(a, decomposition.s, polar)
    )
    return Examined(
        case,
        found,
        exact,
        update,
        decomposition,
        (entering.polar_row_norms, polar),
        scipy.linalg.svdvals(g.astype(np.float64)),
    )


def bound_of(metric: str, seen: Examined, value: float) -> float:
    """What the catalogue allows, from what the oracle says of the matrix."""
    s, row = seen.decomposition.s, seen.row
    r, s1 = len(s), float(s[0])
    double = seen.case.matrix.dtype == torch.float64
    everything = float(s[0] / s[-1]) if row["spectrum_status"] == "ok" else math.inf
    kept = seen.found["leverage_rank"]
    smallest = {
        "condition_number": everything if math.isfinite(everything) else 1.0,
        "condition_number_resolved": float(s[0] / s[max(row["resolved_rank"], 1) - 1]),
        "q75_q25": float(s[0] / np.sqrt(oracles.percentile((s * s)[::-1], 0.25) or s[0] ** 2)),
        "leverage_cv": float(s[0] / s[kept - 1]),
        "ns_row_error": float(s[0] / s[kept - 1]),
        "resolved_rank": s1 / value if value else 1.0,
        "leverage_rank": s1 / value if value else 1.0,
        "descent_efficiency": float(seen.gradient[0] / seen.gradient[-1]),
    }
    return METRICS[metric].accuracy.bound(
        value,
        double=double,
        method=row["spectrum_method"],
        kappa=smallest.get(metric, everything),
        count=r,
        largest=s1,
        side=max(seen.case.matrix.shape),
        sketched=metric == "cosine_previous" and seen.case.matrix.numel() > SKETCHED_EXACTLY,
    )
