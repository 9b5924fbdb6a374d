"""A matrix and what is known about it, to one row of each table.

Measuring never raises on what a matrix holds: zero, NaN and Inf matrices give null metrics and a
status that says why. It changes no input, no global state of torch, and draws no random number.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.geometry import balance, conditioning, newton_schulz, ranks
from optgeom.geometry.catalogue import METRICS, columns
from optgeom.geometry.companions import Reach
from optgeom.geometry.context import Context
from optgeom.geometry.finish import NormsRow, Value, finish_norms
from optgeom.geometry.floor import dispatch_floor
from optgeom.geometry.kernels import TORCH, Kernels, LinAlgError
from optgeom.geometry.leverage import polar_row_norms
from optgeom.geometry.norms import line_norms
from optgeom.geometry.partial import check, is_lost, norms_pass
from optgeom.geometry.singular import SingularValues, resolution, singular_values
from optgeom.traces.errors import OptgeomError

WITHOUT_SPECTRUM = frozenset({"second_moment"})
"""Stages that are numbers per neuron or entry, and no map from inputs to outputs."""


@dataclass(frozen=True, slots=True, eq=False)
class SpectrumRow:
    """What the spectra clock records of one cell.

    Attributes:
        values: Every column of `columns("spectra")`, "spectrum_status" (ok, at_floor, zero,
            non_finite, lost, not_converged) and "spectrum_method" (gram, gram32, svd, or None).
        singular_values: (r,) float32 descending, or None where the status says why.
        polar_row_norms: (m,) float64 row norms of the polar factor, of ns_input only; for the
            `Context.polar_row_norms` of the same step's orthogonalized matrix.
    """

    values: dict[str, Value]
    singular_values: NDArray[np.float32] | None
    polar_row_norms: NDArray[np.float64] | None


def measure_norms(matrix: Tensor, context: Context | None = None) -> NormsRow:
    """Row of the norms clock: balance, scale, overlaps.

    For many matrices `norms_pass` of each and one `finish_norms` of all give the same for less.

    Args:
        matrix: (m, n), m, n >= 1, any float dtype and device, rows = neurons; left as it is.
        context: What else is known.

    Returns:
        Values, neuron norms, sketch.

    Raises:
        OptgeomError: if the matrix, or one in the context, has the wrong shape or dtype.
    """
    return finish_norms([norms_pass(matrix, context)])[0]


@torch.no_grad()
def measure_spectrum(
    matrix: Tensor, context: Context | None = None, *, kernels: Kernels = TORCH
) -> SpectrumRow:
    """Row of the spectra clock: singular values and all that is made from them.

    Cost: m n r multiplications and an r x r eigenproblem, about twice that for an SVD or for a tall
    matrix's leverage; meant for the device or a background thread. descent_efficiency is null
    without `gradient_nuclear_norm`: it would cost the spectrum of a second matrix.

    Args:
        matrix: (m, n), m, n >= 1, any float dtype and device, rows = neurons; left as it is.
        context: What else is known.
        kernels: What to compute with.

    Returns:
        Values, singular values, and for ns_input the polar factor's row norms.

    Raises:
        OptgeomError: if the matrix, or one in the context, has the wrong shape or dtype.
    """
    context = context or Context()
    check(matrix, context)
    matrix = matrix.detach()
    values: dict[str, Value] = dict.fromkeys(columns("spectra"))
    values |= {"spectrum_status": "ok", "spectrum_method": None}
    if is_lost(context.source, context.lost_update_fraction):
        values["spectrum_status"] = "lost"
        return SpectrumRow(values, None, None)
    found = singular_values(
        matrix,
        eps=_eps(matrix, context),
        floor=context.noise_floor,
        expected_condition=context.expected_condition_number,
        kernels=kernels,
    )
    s = found.values.cpu().numpy()
    if not (np.isfinite(s).all() and s[0] > 0.0):
        values["spectrum_status"] = _why_no_spectrum(matrix)
        return SpectrumRow(values, None, None)
    method = _method(found)
    values["spectrum_method"] = method
    floor = _floor(matrix, context, float(s[0]), method)
    values |= _summaries(s, floor)
    values |= _of_stage(matrix, context, s)
    polar = None
    wants_leverage = context.stage == "ns_input" or (
        context.stage == "orthogonalized" and context.polar_row_norms is None
    )
    if wants_leverage:
        leverage, polar = _leverage(matrix, found, floor, kernels)
        values |= leverage
    with np.errstate(over="ignore", under="ignore"):
        stored = s.astype(np.float32)
    return SpectrumRow(values, stored, polar if context.stage == "ns_input" else None)


def measure(matrix: Any, **context: Any) -> dict[str, Value]:
    """Every metric of one matrix.

    Args:
        matrix: (m, n) numpy array or torch tensor of real numbers, rows = neurons.
        **context: Fields of `Context`; matrices may be numpy arrays.

    Returns:
        Value by metric name, in the catalogue's order, and then status, spectrum_status and
        spectrum_method. None where a metric is not defined or an ingredient is missing.

    Raises:
        OptgeomError: if the matrix is not a real matrix with entries, or a keyword is unknown.

    Examples:
        >>> import numpy as np
        >>> found = measure(np.diag([4.0, 2.0, 1.0]))
        >>> round(found["condition_number"], 6), found["status"]
        (4.0, 'ok')
    """
    known = {field.name for field in fields(Context)}
    if unknown := sorted(context.keys() - known):
        raise OptgeomError(f"measure knows {', '.join(sorted(known))}; not {', '.join(unknown)}")
    for name in ("weight", "weight_after", "gradient", "previous_sketch"):
        if context.get(name) is not None:
            context[name] = _as_tensor(context[name])
    tensor = _as_tensor(matrix)
    facts = with_nuclear_norm(Context(**context))
    rows = measure_norms(tensor, facts).values | measure_spectrum(tensor, facts).values
    ends = ("status", "spectrum_status", "spectrum_method")
    return {name: rows[name] for name in (*METRICS, *ends)}


def with_nuclear_norm(context: Context, *, kernels: Kernels = TORCH) -> Context:
    """Add the gradient's nuclear norm where an update's descent_efficiency lacks it.

    Costs a spectrum of the gradient, as much as the update's own: `measure_spectrum` leaves that to
    the caller, who may have it from the stage `gradient`.
    """
    if (
        context.stage != "update"
        or context.gradient is None
        or context.gradient_nuclear_norm is not None
    ):
        return context
    gradient = context.gradient.detach()
    eps = torch.finfo(gradient.dtype).eps
    found = singular_values(gradient, eps=eps, kernels=kernels)
    return replace(context, gradient_nuclear_norm=float(found.values.sum()))


def _as_tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        return array if array.dtype.is_floating_point or array.is_complex() else array.double()
    values = np.asarray(array)
    if values.dtype.kind in "biu" or values.dtype == np.longdouble:
        values = values.astype(np.float64)
    if values.dtype.kind != "f":
        raise OptgeomError(f"a matrix holds real numbers, not {values.dtype}")
    return torch.from_numpy(np.array(values, order="C"))


def _why_no_spectrum(matrix: Tensor) -> str:
    largest = float(matrix.abs().amax())
    if not np.isfinite(largest):
        return "non_finite"
    return "zero" if largest == 0.0 else "not_converged"


def _eps(matrix: Tensor, context: Context) -> float:
    return dispatch_floor(context.operand_dtype or matrix.dtype, 1.0)


def _method(found: SingularValues) -> str:
    if found.in_float32:
        return "gram32"
    return "svd" if bool(found.by_svd) else "gram"


def _floor(matrix: Tensor, context: Context, s1: float, method: str) -> float:
    share = max(_eps(matrix, context), resolution(method, max(matrix.shape)))
    return max(context.noise_floor, share * s1)


def _summaries(s: NDArray[np.float64], floor: float) -> dict[str, Value]:
    found = conditioning.conditioning(s, floor)
    return {
        "spectrum_status": "at_floor" if found.at_floor else "ok",
        "condition_number": found.condition_number,
        "condition_number_resolved": found.condition_number_resolved,
        "resolved_rank": found.resolved_rank,
        "noise_floor": floor,
        "spectral_flatness_cv": conditioning.spectral_flatness_cv(s),
        "stable_rank": ranks.stable_rank(s),
        "svd_entropy": ranks.svd_entropy(s),
        "effective_rank": ranks.effective_rank(s),
        "effective_rank_energy": ranks.effective_rank_energy(s),
        "nuclear_rank": ranks.nuclear_rank(s),
        "top10_energy": ranks.top_energy(s),
        "q75_q25": ranks.quartile_ratio(s, floor),
        "spectral_norm": float(s[0]),
        "nuclear_norm": float(s.sum()),
    }


def _of_stage(matrix: Tensor, context: Context, s: NDArray[np.float64]) -> dict[str, Value]:
    if context.stage == "orthogonalized":
        values: dict[str, Value] = {
            "sigma_min": float(s[-1]),
            "sigma_max": float(s[0]),
            "polar_error": conditioning.polar_error(s),
        }
        if context.polar_row_norms is not None:
            rho = line_norms(matrix)[: matrix.shape[0]].cpu().numpy()
            values["ns_row_error"] = newton_schulz.row_error(rho, context.polar_row_norms)
        return values
    if context.stage == "ns_input" and context.polynomial is not None:
        return {"ns_floor_fraction": newton_schulz.floor_fraction(s, context.polynomial)}
    if context.stage == "update":
        return {"descent_efficiency": _descent(matrix, context, s)}
    return {}


def _descent(matrix: Tensor, context: Context, s: NDArray[np.float64]) -> float | None:
    nuclear = context.gradient_nuclear_norm
    if context.gradient is None or nuclear is None or not nuclear > 0.0:
        return None
    with np.errstate(over="ignore"):
        found = Reach.of(matrix.detach(), float(np.vdot(s, s))).along(context.gradient)
    # Lengths before products: the two norms may lie at opposite ends of the range.
    efficiency = (float(found.length) / float(s[0])) * (float(found.norm) / nuclear)
    return efficiency if np.isfinite(efficiency) else None


def _leverage(
    matrix: Tensor, found: SingularValues, floor: float, kernels: Kernels
) -> tuple[dict[str, Value], NDArray[np.float64] | None]:
    try:
        polar = polar_row_norms(matrix, found.values, floor, gram=found.gram, kernels=kernels)
    except LinAlgError:
        return {}, None
    norms = polar.norms.cpu().numpy()
    return {
        "leverage_cv": balance.coefficient_of_variation(norms),
        "leverage_rank": int(polar.rank),
    }, norms
