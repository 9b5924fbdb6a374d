"""What is counted of the stored weights, entry by entry, and companions of every dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optgeom.geometry import METRICS
from optgeom.geometry.measure import measure
from optgeom.geometry.rounding import lost_decay, lost_fraction
from tests.geometry import oracles

HALF = {torch.bfloat16: 8, torch.float16: 11}
STORED = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def _rounded(exact: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """To the nearest of a dtype, ties to even, by arithmetic: float32 first, as torch computes."""
    if dtype == torch.float64:
        return exact.astype(np.float64)
    narrow = exact.astype(np.float32)
    if dtype == torch.float32:
        return narrow.astype(np.float64)
    _, exponent = np.frexp(narrow)
    smallest = -132 if dtype == torch.bfloat16 else -24
    unit = np.ldexp(1.0, np.maximum(exponent - HALF[dtype], smallest))
    return np.rint(narrow.astype(np.float64) / unit) * unit


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-5, 1e-8, 1e-18])
def test_lost_update_is_counted_exactly(dtype: torch.dtype, size: float) -> None:
    rng = np.random.default_rng(3)
    weight = torch.from_numpy(0.02 * rng.standard_normal((70, 50))).to(dtype)
    term = torch.from_numpy(size * rng.standard_normal((70, 50)))
    term = term if dtype == torch.float64 else term.float()
    term[::7] = 0.0
    w, t = weight.double().numpy(), term.double().numpy()
    stays = _rounded(w.astype(np.longdouble) + t.astype(np.longdouble), dtype) == w
    exact = (stays & (t != 0)).sum() / (t != 0).sum()
    bound = METRICS["lost_update_fraction"].accuracy.bound(float(exact), double=True)
    assert abs(lost_fraction(weight, term) - exact) <= bound
    found = measure(term, lost_update_fraction=lost_fraction(weight, term))
    assert found["lost_update_fraction"] == lost_fraction(weight, term)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("decay", [2.0**-3, 2.0**-9, 2.0**-13, 2.0**-20, 2.0**-40, 2.0**-55])
def test_lost_decay_is_counted_exactly(dtype: torch.dtype, decay: float) -> None:
    rng = np.random.default_rng(4)
    weight = torch.from_numpy(0.02 * rng.standard_normal((70, 50))).to(dtype)
    weight[::7] = 0.0
    w = weight.double().numpy()
    # 1 - decay is a number of the dtype that is multiplied in, or rounds to 1 with all its products
    kept = float(np.float32(1.0 - decay)) if dtype != torch.float64 else 1.0 - decay
    stays = _rounded(w.astype(np.longdouble) * kept, dtype) == w
    exact = (stays & (w != 0)).sum() / (w != 0).sum()
    bound = METRICS["lost_decay_fraction"].accuracy.bound(float(exact), double=True)
    assert abs(lost_decay(weight, decay) - exact) <= bound


@pytest.mark.parametrize("matrix", STORED)
@pytest.mark.parametrize("other", STORED)
def test_companions_of_another_dtype(
    matrix: torch.dtype, other: torch.dtype, rng: np.random.Generator
) -> None:
    a, w, g = (torch.from_numpy(x) for x in rng.standard_normal((3, 40, 30)))
    a, w, g = (a + w).to(matrix), w.to(other), (g - a).to(other)
    found = measure(a, weight=w, gradient=g, lr=0.1)
    wide = [x.double().numpy().astype(np.longdouble) for x in (a, w, g)]
    exact = oracles.update_metrics(*wide, wide[0], 0.1)
    for metric in ("update_to_weight", "radial_fraction", "cosine_gradient", "descent_efficiency"):
        value = float(exact[metric])
        bound = METRICS[metric].accuracy.bound(value, double=matrix == torch.float64, kappa=1e2)
        assert abs(found[metric] - value) <= bound, metric
