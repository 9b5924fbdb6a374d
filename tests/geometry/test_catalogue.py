from __future__ import annotations

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
    assert metric.accuracy
    low, high = metric.range
    assert low is None or high is None or low < high


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
