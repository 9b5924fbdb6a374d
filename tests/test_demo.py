"""The demo's traces show the paper's picture; thresholds from the paper's Figure 1 and theory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import optgeom
from optgeom.geometry.compare import by_kind

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def traces(demo_runs: Path) -> optgeom.Traces:
    return optgeom.open_traces(str(demo_runs))


def _column(trace: optgeom.Trace, name: str, stage: str, kind: str | None = None) -> list[float]:
    rows = trace.metrics(steps=[60], stages=[stage]).to_pylist()
    return [row[name] for row in rows if kind in (None, row["kind"])]


def test_three_complete_traces(traces: optgeom.Traces) -> None:
    assert sorted(traces) == ["adamw", "muon", "normuon"]
    for trace in traces.values():
        assert trace.closed
        for stage in ("gradient", "momentum", "update"):
            for layer in trace.layers:
                assert trace.steps(layer.name, stage).tolist() == [0, 10, 20, 30, 40, 50, 60]
                assert trace.steps(layer.name, stage, "spectra").tolist()[-1] == 60
                assert trace.steps(layer.name, stage, "updates").tolist() == [0, 60]
                assert trace.matrix(60, layer.name, stage).shape == layer.shape


def test_every_update_was_read_from_the_operations(traces: optgeom.Traces) -> None:
    for trace in traces.values():
        rows = trace.metrics(stages=["update"]).to_pylist()
        assert {row["source"] for row in rows} <= {"dispatch", "tap"}
        moved = [row for row in rows if row["step"] > 0]
        assert {row["status"] for row in moved} == {"ok"}
        assert {row["decay_form"] for row in rows if row["kind"] == "mlp.up"} == {"decoupled"}


def test_muon_leaves_neurons_uneven_and_normuon_evens_them_out(traces: optgeom.Traces) -> None:
    muon = _column(traces["muon"], "neuron_norm_cv", "update", "mlp.up")
    normuon = _column(traces["normuon"], "neuron_norm_cv", "update", "mlp.up")
    assert min(muon) > 0.3
    assert max(normuon) < 0.15


def test_both_are_well_conditioned_where_the_momentum_is_not(traces: optgeom.Traces) -> None:
    for run in ("muon", "normuon"):
        assert max(_column(traces[run], "condition_number", "update", "mlp.up")) < 5
        assert min(_column(traces[run], "condition_number", "momentum", "mlp.up")) > 100


def test_the_comparison_is_fair(traces: optgeom.Traces) -> None:
    """By kind of layer: single square matrices of a nearly rank-deficient momentum fall below."""
    table = by_kind(traces, metrics=("update_rms",), stage="update", steps=range(60, 61))
    medians = {
        (row["kind"], row["run"]): row["median"]
        for row in table.to_pylist()
        if row["run"] != "adamw" and row["kind"] != "head"
    }
    assert len(medians) == 12
    muon = np.median([value for (_, run), value in medians.items() if run == "muon"])
    normuon = [value for (_, run), value in medians.items() if run == "normuon"]
    np.testing.assert_allclose(muon, 0.2, rtol=0.2)
    np.testing.assert_allclose(normuon, 0.2, rtol=1e-5)


def test_what_was_stored_is_what_was_measured(traces: optgeom.Traces) -> None:
    trace = traces["normuon"]
    layer = "blocks.2.mlp.up"
    matrix = trace.matrix(60, layer).astype(np.float64)
    norms = np.linalg.norm(matrix, axis=1)
    np.testing.assert_allclose(trace.neuron_norms(60, layer), norms, rtol=1e-5)
    spectrum = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(trace.spectrum(60, layer), spectrum, rtol=1e-5)
