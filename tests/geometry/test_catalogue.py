from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from optgeom.geometry import METRICS, columns
from optgeom.geometry.reference import metrics_page
from optgeom.traces.errors import OptgeomError

NORMS = {
    "neuron_norm_cv",
    "neuron_norm_max_min",
    "neuron_norm_p99_median",
    "neuron_norm_gini",
    "neuron_top1pct_share",
    "neuron_dormant_fraction",
    "column_norm_cv",
    "column_norm_max_min",
    "frobenius_norm",
    "update_rms",
    "update_to_weight",
    "radial_fraction",
    "cosine_previous",
    "steps_since_previous",
    "cosine_gradient",
    "lost_update_fraction",
    "lost_decay_fraction",
    "second_moment_steps",
}
SPECTRA = {
    "condition_number",
    "condition_number_resolved",
    "resolved_rank",
    "noise_floor",
    "spectral_norm",
    "nuclear_norm",
    "stable_rank",
    "svd_entropy",
    "effective_rank",
    "effective_rank_energy",
    "top10_energy",
    "q75_q25",
    "nuclear_rank",
    "sigma_min",
    "sigma_max",
    "polar_error",
    "spectral_flatness_cv",
    "ns_floor_fraction",
    "leverage_cv",
    "leverage_rank",
    "ns_row_error",
    "descent_efficiency",
}


def test_every_metric_stands_in_one_table() -> None:
    assert set(columns("metrics")) == NORMS
    assert set(columns("spectra")) == SPECTRA
    assert set(METRICS) == NORMS | SPECTRA
    assert list(METRICS) == [*columns("metrics"), *columns("spectra")]


def test_column_types_are_arrow_types() -> None:
    for table in ("metrics", "spectra"):
        for name, alias in columns(table).items():
            assert str(pa.type_for_alias(alias)) in {"double", "int64"}, name


def test_unknown_table_is_named() -> None:
    with pytest.raises(OptgeomError, match=r"metrics, spectra, not 'neurons'"):
        columns("neurons")  # type: ignore[arg-type]  # the mistake is the test


@pytest.mark.parametrize("name", METRICS)
def test_entry_is_complete(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert metric.title
    assert metric.help.endswith(".")
    assert metric.formula
    assert str(metric.accuracy)
    assert metric.accuracy.bound(1.0, double=False) >= metric.accuracy.bound(1.0, double=True) > 0
    low, high = metric.range
    assert low is None or high is None or low < high


@pytest.mark.parametrize("name", METRICS)
def test_a_bound_grows_with_what_makes_measuring_hard(name: str) -> None:
    accuracy = METRICS[name].accuracy
    for method in ("gram", "svd", "gram32"):
        kappas = (1.0, 1e3, 1e6, math.inf) if accuracy.follows != "vectors" else (1.0, 1e3, 1e6)
        bounds = [
            accuracy.bound(2.0, double=True, method=method, kappa=kappa, count=30, largest=3.0)
            for kappa in kappas
        ]
        assert bounds == sorted(bounds)
        assert bounds[0] <= 1e-3
    assert accuracy.bound(-2.0, double=True) == accuracy.bound(2.0, double=True)
    # However small, a float64 has only so many digits.
    assert accuracy.bound(0.0, double=True) > 0.0


def test_a_bound_is_the_sum_of_its_parts() -> None:
    condition = METRICS["condition_number"].accuracy
    assert condition.bound(1e3, double=True, kappa=1e3) == pytest.approx(1e3 * (2e-12 + 2e-9))
    assert condition.bound(1e9, double=True, method="svd", kappa=1e9) == pytest.approx(
        1e9 * (2e-12 + 5e-7)
    )
    nuclear = METRICS["nuclear_norm"].accuracy
    found = nuclear.bound(10.0, double=False, kappa=math.inf, count=20)
    assert found == pytest.approx(10.0 * (2e-12 + 20 * 1.5e-7))
    cosine = METRICS["cosine_previous"].accuracy
    assert cosine.bound(0.0, double=True, sketched=True) == pytest.approx(5 * 1.5 / 64)
    assert cosine.bound(1.0, double=False, sketched=True) == pytest.approx(1e-6)


def test_bounds_are_said_in_words() -> None:
    said = {name: str(metric.accuracy) for name, metric in METRICS.items()}
    assert said["second_moment_steps"] == "exact"
    assert said["frobenius_norm"] == "relative 4e-7 (float64: relative 1e-15)"
    assert "2e-15 kappa^2 by the Gram matrix, 5e-16 kappa by the SVD" in said["condition_number"]
    assert said["resolved_rank"] == "exact, but for any s_i within its error of the limit"


def test_bands_name_a_stage_of_the_metric_and_a_source() -> None:
    bands = [(metric, band) for metric in METRICS.values() for band in metric.healthy]
    assert {metric.name for metric, _ in bands} == {
        "leverage_cv",
        "polar_error",
        "sigma_max",
        "sigma_min",
        "update_rms",
    }
    for metric, band in bands:
        assert band.stage in metric.stages
        assert band.source
        assert band.low is not None or band.high is not None


def test_catalogue_imports_nothing_heavy() -> None:
    code = (
        "import sys, optgeom.geometry as g; g.METRICS; g.columns('metrics');"
        "print(sorted({'torch', 'scipy', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_summaries_import_no_torch() -> None:
    rooms = "balance, compare, conditioning, ranks, newton_schulz, reference, context"
    code = f"import sys; from optgeom.geometry import {rooms}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_docs_page_is_what_the_catalogue_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == metrics_page()
    for name in METRICS:
        assert f"### `{name}`" in metrics_page()
