"""Which method found a spectrum, its status, its floors, and the bound of float32 products."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from optgeom.geometry import METRICS, Context, measure_spectrum
from optgeom.geometry.accuracy import singular_value_error
from optgeom.geometry.kernels import LAPACK
from optgeom.geometry.measure import measure
from optgeom.geometry.singular import resolution, singular_values
from tests.geometry import oracles
from tests.geometry.examined import examined
from tests.geometry.families import cases, with_spectrum


@pytest.mark.parametrize("name", cases())
def test_method_and_status(name: str) -> None:
    seen = examined(name)
    s, row = seen.decomposition.s, seen.row
    smallest = float(s[-1] / s[0])
    double = seen.case.matrix.dtype == torch.float64
    if abs(smallest / oracles.METHOD_FLOOR["gram"] - 1.0) > 0.1:
        needs_svd = double and smallest < oracles.METHOD_FLOOR["gram"]
        assert row["spectrum_method"] == ("svd" if needs_svd else "gram")
    lowest = oracles.noise_floor(
        1.0,
        method=row["spectrum_method"],
        dtype=seen.case.matrix.dtype,
        side=max(seen.case.matrix.shape),
    )
    if abs(smallest / lowest - 1.0) > 0.3:
        assert row["spectrum_status"] == ("ok" if smallest > lowest else "at_floor")
    assert row["status"] == "ok"


@pytest.mark.parametrize("name", cases())
def test_every_singular_value(name: str) -> None:
    seen = examined(name)
    s = seen.decomposition.s
    matrix = seen.case.matrix
    found = singular_values(matrix, eps=oracles.EPS[matrix.dtype])
    method, side = "svd" if bool(found.by_svd) else "gram", max(matrix.shape)
    assert method == seen.row["spectrum_method"]
    first = METRICS["spectral_norm"].accuracy
    for value, exact in zip(found.values.tolist(), s, strict=True):
        kappa = float(s[0] / exact) if exact > 0 else math.inf
        kappa = kappa if kappa < 1.0 / resolution(method, side) else math.inf
        bound = first.bound(float(exact), double=True)
        bound += float(s[0]) * singular_value_error(kappa, method, side)
        assert abs(float(value - exact)) <= bound


@pytest.mark.parametrize("name", cases())
def test_rows_of_the_polar_factor(name: str) -> None:
    seen = examined(name)
    found, exact = seen.polar_row_norms
    s, kept = seen.decomposition.s, seen.found["leverage_rank"]
    accuracy = METRICS["leverage_cv"].accuracy
    # The spread of the rows averages over their errors, which are up to eight times its own.
    bound = 8.0 * accuracy.bound(1.0, double=True, kappa=float(s[0] / s[kept - 1]))
    assert float(np.abs(found - exact).max()) <= bound


def test_the_catalogue_knows_the_floors() -> None:
    # A value that is not above its floor may come out anywhere up to it.
    accuracy = METRICS["sigma_min"].accuracy
    for method, side in itertools.product(oracles.METHOD_FLOOR, (3, 100, 3000)):
        floor = oracles.method_floor(method, side)
        found = accuracy.bound(
            0.0, double=True, method=method, kappa=math.inf, largest=3.0, side=side
        )
        assert found == pytest.approx(3.0 * floor)
        assert resolution(method, side) == pytest.approx(floor)


@pytest.mark.parametrize("operand", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("small", [1e-5, 1e-9])
@pytest.mark.parametrize("reading", [0.0, 0.02, 0.5])
def test_floors_of_operand_and_reading(
    operand: torch.dtype, small: float, reading: float, rng: np.random.Generator
) -> None:
    s = np.r_[np.geomspace(2.0, 0.1, 15), small]
    matrix = torch.from_numpy(with_spectrum((20, 16), s, rng))
    found = measure(matrix, operand_dtype=operand, noise_floor=reading)
    # What was rounded to float32 or less has nothing for an SVD to find.
    assert found["spectrum_method"] == "gram"
    floor = oracles.noise_floor(2.0, method="gram", dtype=operand, side=1, reading=reading)
    known = oracles.decomposed(matrix.numpy().astype(np.longdouble)).s
    exact = oracles.spectrum_metrics(known, floor=floor, resolved=int((known > floor).sum()))
    exact["resolved_rank"] = int((known > floor).sum())
    exact["noise_floor"] = floor
    for metric, value in exact.items():
        if value is None:
            assert found[metric] is None
            continue
        number = float(value)
        kappa = {
            "condition_number": 1.0 if known[-1] <= floor else known[0] / known[-1],
            "condition_number_resolved": known[0] / known[exact["resolved_rank"] - 1],
            "q75_q25": 20.0,
        }.get(metric, math.inf)
        bound = METRICS[metric].accuracy.bound(
            number, double=True, kappa=float(kappa), count=16, largest=2.0
        )
        assert abs(found[metric] - number) <= bound, metric


PRODUCTS = {
    "flat": lambda rng: with_spectrum((256, 640), np.ones(256), rng),
    "one large": lambda rng: with_spectrum((640, 256), np.r_[1.0, np.full(255, 0.24)], rng),
    "one small": lambda rng: with_spectrum((256, 640), np.r_[np.ones(255), 0.24], rng),
    "orthogonalized": lambda rng: with_spectrum((640, 256), rng.uniform(0.68, 1.21, 256), rng),
    "normal": lambda rng: rng.standard_normal((256, 2048)),
    "one size, rounding alike": lambda rng: np.where(rng.random((256, 12000)) < 0.6, 1 / 3, -1 / 3),
}


@cache
def _by_products(name: str) -> tuple[dict[str, Any], dict[str, Any], float]:
    matrix = torch.from_numpy(PRODUCTS[name](np.random.default_rng(7))).float()
    wide = matrix.double().numpy()
    wide = wide if wide.shape[0] < wide.shape[1] else wide.T
    # All singular values are of a size: float64 products tell them to 14 digits.
    s = np.sqrt(scipy.linalg.eigvalsh(wide @ wide.T)[::-1]).astype(np.longdouble)
    facts = Context(stage="orthogonalized", expected_condition_number=2.0)
    row = measure_spectrum(matrix, facts, kernels=LAPACK).values
    assert row["spectrum_method"] == "gram32"
    resolved = row["resolved_rank"]
    assert isinstance(resolved, int)
    exact = oracles.spectrum_metrics(s, floor=1e-3 * float(s[0]), resolved=resolved)
    exact |= oracles.orthogonalized_metrics(s[:, None], s, s)
    exact["noise_floor"] = resolution("gram32", 1) * s[0]
    return row, exact, float(s[0] / s[-1])


# The gradient's nuclear norm, and what the polynomial does, are made of other matrices' spectra.
ELSEWHERE = {"descent_efficiency", "ns_floor_fraction"}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(
    "metric",
    [
        name
        for name in METRICS
        if METRICS[name].accuracy.products.relative and name not in ELSEWHERE
    ],
)
def test_float32_products(metric: str, name: str) -> None:
    row, exact, kappa = _by_products(name)
    value = float(exact[metric])
    bound = METRICS[metric].accuracy.bound(value, double=False, method="gram32", kappa=kappa)
    assert abs(row[metric] - value) <= bound
