from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from optgeom.geometry import METRICS, by_algorithm, by_kind, columns
from optgeom.traces import Cell, LayerInfo, RunInfo, Trace, TraceWriter, open_traces
from optgeom.traces.errors import NotCaptured, OptgeomError

LAYERS = (
    *(
        LayerInfo(f"blocks.{block}.{kind}", kind, block, (4, 4), "float32", "opt", 0, "muon")
        for block in (0, 1)
        for kind in ("mlp.up", "attention.o")
    ),
    LayerInfo("head", "head", None, (4, 4), "float32", "opt", 1, "adamw"),
)
STEPS = (0, 10, 20)


@pytest.fixture
def values(rng: np.random.Generator) -> Mapping[tuple[str, int, str], float]:
    return {
        (run, step, layer.name): float(rng.random())
        for run in ("muon", "adamw")
        for step in STEPS
        for layer in LAYERS
    }


@pytest.fixture
def traces(tmp_path: Path, values: Mapping[tuple[str, int, str], float]) -> Mapping[str, Trace]:
    for run in ("muon", "adamw"):
        declared = {table: columns(table) for table in ("metrics", "spectra")}
        info = RunInfo(run, layers=LAYERS, columns=declared)
        with TraceWriter(tmp_path / run, info) as writer:
            for step in STEPS:
                for layer in LAYERS:
                    key = Cell(step, "opt", layer.name, layer.kind, layer.block, "update")
                    value = values[run, step, layer.name]
                    norms = {"neuron_norm_cv": value if step else None, "update_rms": value / 5}
                    writer.metrics(key, norms | {"status": "ok"})
                    status = "at_floor" if step == 20 else "ok"
                    number = {"condition_number": 1 + value, "spectrum_status": status}
                    writer.spectrum(key, None, number)
                    if run == "muon":
                        key = Cell(step, "opt", layer.name, layer.kind, layer.block, "ns_input")
                        writer.metrics(key, {"neuron_norm_cv": value, "status": "ok"})
        assert writer.failure is None
    return open_traces(tmp_path)


def test_medians_and_quartiles(
    traces: Mapping[str, Trace], values: Mapping[tuple[str, int, str], float]
) -> None:
    found = by_kind(traces, metrics=("condition_number", "neuron_norm_cv")).to_pylist()
    kinds = ["mlp.up", "attention.o", "head"]
    assert [(row["kind"], row["metric"], row["run"]) for row in found] == [
        (kind, metric, run)
        for kind in kinds
        for metric in ("condition_number", "neuron_norm_cv")
        for run in traces
    ]
    for row in found:
        names = [layer.name for layer in LAYERS if layer.kind == row["kind"]]
        of_spectrum = row["metric"] == "condition_number"
        # The first step's CV was not measured.
        steps = STEPS if of_spectrum else STEPS[1:]
        chosen = np.array([values[row["run"], step, name] for step in steps for name in names])
        chosen = chosen + 1 if of_spectrum else chosen
        assert row["count"] == len(chosen)
        assert row["bounds"] == (len(names) if of_spectrum else 0)
        assert row["median"] == pytest.approx(np.median(chosen))
        assert row["q25"] == pytest.approx(np.quantile(chosen, 0.25))
        assert row["q75"] == pytest.approx(np.quantile(chosen, 0.75))


def test_steps_and_stages(
    traces: Mapping[str, Trace], values: Mapping[tuple[str, int, str], float]
) -> None:
    last = by_kind(traces, metrics="neuron_norm_cv", steps=20).to_pylist()
    head = {row["run"]: row["median"] for row in last if row["kind"] == "head"}
    assert head == pytest.approx({run: values[run, 20, "head"] for run in traces})
    # A range takes what lies in it; a list, or any other iterable, names steps that must be there.
    late = by_kind(traces, metrics="update_rms", steps=range(5, 100)).to_pylist()
    assert {row["count"] for row in late if row["kind"] == "head"} == {2}
    assert late == by_kind(traces, metrics="update_rms", steps=iter([10, 20])).to_pylist()
    entered = by_kind(traces, metrics="neuron_norm_cv", stage="ns_input")
    assert set(entered["run"].to_pylist()) == {"muon"}


def test_by_algorithm_sets_muon_against_its_adamw_part(traces: Mapping[str, Trace]) -> None:
    found = by_algorithm(traces)
    assert found.schema.names[:3] == ["algorithm", "metric", "run"]
    counts = {(row["algorithm"], row["run"]): row["count"] for row in found.to_pylist()}
    assert counts == {
        (rule, run): count for rule, count in (("muon", 12), ("adamw", 3)) for run in traces
    }


def test_what_is_not_there_is_named(traces: Mapping[str, Trace]) -> None:
    with pytest.raises(NotCaptured, match="momentum"):
        by_kind(traces, stage="momentum")
    with pytest.raises(NotCaptured, match="no step 5"):
        by_kind(traces, steps=5)
    with pytest.raises(OptgeomError, match=r"'condition'.*condition_number"):
        by_kind(traces, metrics=("condition",))


def test_a_metric_without_values_has_no_rows(traces: Mapping[str, Trace]) -> None:
    found = by_kind(traces, metrics=("svd_entropy",))
    assert found.num_rows == 0
    assert found.schema.names == by_kind(traces).schema.names


def test_defaults_are_metrics(traces: Mapping[str, Trace]) -> None:
    assert set(by_kind(traces)["metric"].to_pylist()) <= set(METRICS)
