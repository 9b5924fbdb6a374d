"""Every metric of the catalogue by its formula, in extended precision and by no kernel of ours.

Singular values come from one-sided Jacobi rotations (Hestenes 1958; Demmel & Veselic 1992) in long
double: 64 bits of mantissa where the processor has them. `test_exact_oracles` holds them against
arbitrary precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

Long = NDArray[np.longdouble]
JORDAN = ((3.4445, -4.7750, 2.0315),) * 5
EPS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}
METHOD_FLOOR = {"gram": 1.5e-7, "svd": 10 * 2.0**-52}


def method_floor(method: str, side: int) -> float:
    return METHOD_FLOOR[method] * (max(1.0, side / 100) if method == "svd" else 1.0)


class Decomposition(NamedTuple):
    """Singular values and left vectors.

    Attributes:
        s: (r,) descending.
        left: (m, r); columns of zero singular values are zero or arbitrary.
    """

    s: Long
    left: Long


@dataclass(frozen=True)
class Counted:
    """A metric that counts things on one side of a limit.

    Attributes:
        items: What is compared.
        limit: With what.
        above: Whether those above it are counted, or those below.
        share: Whether the metric is their share, or their number.
    """

    items: Long
    limit: float
    above: bool
    share: bool

    def interval(self, errors: Any) -> tuple[float, float]:
        """Fewest and most that may be counted where each item errs by so much."""
        distance = (self.items - self.limit) * (1 if self.above else -1)
        scale = len(self.items) if self.share else 1
        sure, possible = (distance > errors).sum(), (distance >= -errors).sum()
        return float(sure / scale), float(possible / scale)


def decomposed(matrix: Long) -> Decomposition:
    """Singular values and left singular vectors of a matrix, (m, n), n and m up to a few dozen."""
    tall = matrix.shape[0] >= matrix.shape[1]
    columns, rotation = _rotated(np.array(matrix if tall else matrix.T, dtype=np.longdouble))
    s = np.sqrt((columns**2).sum(0))
    order = np.argsort(-s, kind="stable")
    unit = columns / np.where(s > 0, s, 1)
    return Decomposition(s[order], (unit if tall else rotation)[:, order])


def _rotated(columns: Long) -> tuple[Long, Long]:
    """Rotate pairs of columns until all are orthogonal; the columns, and the rotation."""
    count = columns.shape[1]
    rotation = np.eye(count, dtype=np.longdouble)
    if count == 1:
        return columns, rotation
    players = np.arange(count + count % 2)
    half = len(players) // 2
    for _ in range(60):
        worst = 0.0
        for _ in range(len(players) - 1):
            # a tournament: every pair of columns meets once in a sweep
            first, second = players[:half], players[half:][::-1]
            both = (first < count) & (second < count)
            worst = max(worst, _rotate(columns, rotation, first[both], second[both]))
            players = np.r_[players[0], np.roll(players[1:], 1)]
        if worst < 16 * np.finfo(np.longdouble).eps:
            return columns, rotation
    raise AssertionError(f"Jacobi rotations stopped at {worst:.1e}")


def _rotate(columns: Long, rotation: Long, first: Any, second: Any) -> float:
    x, y = columns[:, first], columns[:, second]
    xx, yy, xy = (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)
    size = np.sqrt(xx) * np.sqrt(yy)
    # what is far below the largest column is rounding, and need not become orthogonal
    negligible = np.sqrt(np.minimum(xx, yy)) <= 1e-40 * np.sqrt((columns**2).sum(0).max())
    turned = (xy != 0) & (size > 0) & ~negligible
    zeta = np.where(turned, (yy - xx) / (2 * np.where(turned, xy, 1)), 1)
    t = np.where(zeta >= 0, 1, -1) / (np.abs(zeta) + np.hypot(1, zeta))
    cosine = 1 / np.hypot(1, t)
    cosine, sine = np.where(turned, cosine, 1), np.where(turned, cosine * t, 0)
    for matrix in (columns, rotation):
        x, y = matrix[:, first], matrix[:, second]
        matrix[:, first], matrix[:, second] = cosine * x - sine * y, sine * x + cosine * y
    return float(np.max(np.abs(xy) / np.where(turned, size, np.inf), initial=0.0))


def spectrum_metrics(s: Long, *, floor: float, resolved: int) -> dict[str, Any]:
    """What the singular values decide, with `resolved` of them above the floor."""
    total, energy = s.sum(), (s * s).sum()
    p, q = s / total, s * s / energy
    low, high = (percentile((s * s)[::-1], share) for share in (0.25, 0.75))
    return {
        "spectral_norm": s[0],
        "nuclear_norm": total,
        "condition_number": s[0] / s[-1] if resolved == len(s) else s[0] / floor,
        "condition_number_resolved": s[0] / s[resolved - 1] if resolved else None,
        "resolved_rank": Counted(s, floor, above=True, share=False),
        "spectral_flatness_cv": _cv(s * s),
        "stable_rank": energy / s[0] ** 2,
        "nuclear_rank": total**2 / energy,
        "svd_entropy": _entropy(q) / math.log(len(s)) if len(s) > 1 else None,
        "effective_rank": np.exp(_entropy(p)),
        "effective_rank_energy": np.exp(_entropy(q)),
        "top10_energy": q[:10].sum(),
        "q75_q25": high / low if low > np.longdouble(floor) ** 2 else None,
    }


def noise_floor(
    s1: float, *, method: str, dtype: torch.dtype, side: int, reading: float = 0.0
) -> float:
    return max(reading, EPS[dtype] * s1, method_floor(method, side) * s1)


def orthogonalized_metrics(matrix: Long, s: Long, polar: Long) -> dict[str, Any]:
    """What is asked of an approximate polar factor; `polar` are the exact one's row norms."""
    rho = np.sqrt((matrix * matrix).sum(1))
    residual = rho - (rho @ polar) / (polar @ polar) * polar
    return {
        "sigma_max": s[0],
        "sigma_min": s[-1],
        "polar_error": np.sqrt(((s - 1) ** 2).mean()),
        "ns_row_error": np.sqrt((residual**2).sum() / (rho**2).sum()),
    }


def input_metrics(found: Decomposition, *, floor: float, kept: int) -> dict[str, Any]:
    """What is asked of ns_input, with `kept` directions in the leverage."""
    s = found.s
    x = s / np.sqrt((s * s).sum())
    for a, b, c in JORDAN:
        x = a * x + b * x**3 + c * x**5
    limit = max(floor, 1e-6 * float(s[0]))
    return {
        "leverage_cv": _cv(polar_rows(found, kept)) if kept else None,
        "leverage_rank": Counted(s, limit, above=True, share=False),
        "ns_floor_fraction": Counted(np.abs(x), 0.5, above=False, share=True),
    }


def polar_rows(found: Decomposition, kept: int) -> Long:
    """Row norms of U_k V_k^T: those of U_k."""
    rows: Long = np.sqrt((found.left[:, :kept] ** 2).sum(1))
    return rows


def norm_metrics(matrix: Long) -> dict[str, Any]:
    """What the norms of rows and columns decide."""
    rho, columns = np.sqrt((matrix**2).sum(1)), np.sqrt((matrix**2).sum(0))
    ordered = np.sort(rho)
    u = rho / rho.mean()
    apart = sum(np.abs(rho - one).sum() for one in rho)
    largest = ordered[::-1][: math.ceil(len(rho) / 100)]
    median = percentile(ordered, 0.5)
    return {
        "neuron_norm_cv": _cv(rho),
        "neuron_norm_max_min": ordered[-1] / ordered[0] if ordered[0] > 0 else None,
        "neuron_norm_p99_median": percentile(ordered, 0.99) / median if median > 0 else None,
        "neuron_norm_gini": apart / (2 * len(rho) ** 2 * rho.mean()),
        "neuron_top1pct_share": (largest**2).sum() / (rho**2).sum(),
        "neuron_dormant_fraction": Counted(u, 0.1, above=False, share=True),
        "column_norm_cv": _cv(columns),
        "column_norm_max_min": columns.max() / columns.min() if columns.min() > 0 else None,
        "frobenius_norm": _norm(matrix),
    }


def update_metrics(update: Long, weight: Long, gradient: Long, before: Long, lr: float) -> Any:
    """What an update is compared with; the spectral norm is by LAPACK, in float64."""
    size = _norm(update)
    return {
        "update_rms": size / np.sqrt(np.longdouble(update.size)),
        "update_to_weight": lr * size / _norm(weight),
        "radial_fraction": _cosine(update, weight),
        "cosine_gradient": _cosine(update, gradient),
        "cosine_previous": _cosine(update, before),
        "descent_efficiency": (update / size * gradient).sum()
        / scipy.linalg.svdvals(gradient.astype(np.float64)).sum()
        * (size / spectral_norm(update)),
    }


def spectral_norm(matrix: Long) -> np.longdouble:
    largest = np.abs(matrix).max()
    return largest * np.longdouble(np.linalg.norm((matrix / largest).astype(np.float64), 2))


def _norm(matrix: Long) -> np.longdouble:
    return np.sqrt((matrix**2).sum())


def _cosine(first: Long, second: Long) -> np.longdouble:
    return (first * second).sum() / (_norm(first) * _norm(second))


def _cv(values: Long) -> np.longdouble:
    mean = values.mean()
    return np.sqrt(((values - mean) ** 2).mean()) / mean


def _entropy(shares: Long) -> np.longdouble:
    positive = shares[shares > 0]
    return -(positive * np.log(positive)).sum()


def percentile(ordered: Sequence[Any] | Long, share: float) -> Any:
    place = np.longdouble(share) * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
