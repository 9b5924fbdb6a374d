"""Grids against the rows of Trace.metrics, walked through one by one: statuses and values."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from optgeom.figures.cells import CellValue, cells, value_at, values_at
from optgeom.figures.statuses import nothing_in, status_at, statuses
from optgeom.geometry.catalogue import METRICS
from optgeom.traces.errors import OptgeomError
from optgeom.traces.store import Trace, Traces, open_trace, open_traces

FINE = ("", "ok", "at_floor", "floor_unknown")
METRICS_TRIED = ("neuron_norm_cv", "neuron_norm_max_min", "column_norm_cv", "condition_number")
STATUSES = ("ok", "lr_zero", "lr_absent", "non_finite", "unverified", None)
SPECTRUM_STATUSES = ("ok", "at_floor", "floor_unknown", "not_converged", "lost", None)


def _slow_status(row: dict[str, object], of: str) -> str:
    general = str(row["status"] or "")
    if general in ("lr_zero", "lr_absent"):
        general = "zero" if row["frobenius_norm"] is None else "ok"
    if of == "metrics":
        return general
    own = str(row["spectrum_status"] or "")
    if own not in FINE:
        return own
    return ("unverified" if general == "unverified" else "ok") if own else ""


def _slow_value(
    trace: Trace, layer: str, metric: str, stage: str, step: int | None
) -> CellValue | None:
    """Walk back from the step to the first row that answers."""
    rows = trace.metrics(layers=[layer], stages=[stage]).to_pylist()
    entry = METRICS[metric]
    for row in reversed([one for one in rows if step is None or one["step"] <= step]):
        value = row.get(metric)
        finite = value is not None and np.isfinite(value)
        status = _slow_status(row, entry.table)
        due = bool(status) and (not entry.by_turns or status not in FINE)
        if not finite and not due:
            continue
        status = status or "ok"
        if not finite:
            return CellValue(None, row["step"], False, "undefined" if status == "ok" else status)
        floor = metric == "condition_number" and row["spectrum_status"] == "at_floor"
        return CellValue(value, row["step"], floor, status)
    return None


@pytest.fixture(scope="module")
def odd(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A run whose rows are everything that rows can be, at random."""
    out = tmp_path_factory.mktemp("cells") / "odd"
    columns = {
        "metrics": fake.COLUMNS["metrics"] | {"column_norm_cv": "float64"},
        "spectra": fake.COLUMNS["spectra"],
    }
    fake.COLUMNS, before = columns, fake.COLUMNS
    writer = fake.write_run(out, "muon", steps=(0,), blocks=1, width=4, close=False)
    fake.COLUMNS = before
    rng = np.random.default_rng(4)
    for step in range(5, 200, 5):
        for layer in writer.info.layers:
            key = fake.Cell(step, "optimizer", layer.name, layer.kind, layer.block, "update")
            if rng.random() < 0.7:
                names = ("neuron_norm_cv", "neuron_norm_max_min", "column_norm_cv")
                numbers = {name: rng.random() for name in names if rng.random() < 0.6}
                if rng.random() < 0.6:
                    numbers["frobenius_norm"] = 1.0
                status = STATUSES[rng.integers(len(STATUSES))]
                writer.metrics(key, numbers | ({"status": status} if status else {}))
            if rng.random() < 0.4:
                held = {"condition_number": 1 + rng.random()} if rng.random() < 0.7 else {}
                status = SPECTRUM_STATUSES[rng.integers(len(SPECTRUM_STATUSES))]
                writer.spectrum(key, None, held | ({"spectrum_status": status} if status else {}))
        writer.end_step(step)
    writer.close()
    return open_trace(out)


@pytest.mark.parametrize("of", ["metrics", "spectra"])
def test_statuses_are_those_of_the_rows(odd: Trace, of: str) -> None:
    found = statuses(odd, stage="update", of=of)
    expected = {
        (row["step"], row["layer"]): _slow_status(row, of)
        for row in odd.metrics(stages=["update"]).to_pylist()
    }
    for row, step in enumerate(found.steps.tolist()):
        for column, layer in enumerate(found.layers):
            status = expected.get((step, layer), "")
            assert found.at(row, column) == status, (step, layer)
            assert found.captured[row, column] == bool(status)
            assert found.explained[row, column] == (status not in FINE)
            assert status_at(odd, layer, stage="update", step=step, of=of) == (status or "ok")


@pytest.mark.parametrize("metric", METRICS_TRIED)
def test_values_are_those_of_the_nearest_answering_row(odd: Trace, metric: str) -> None:
    for step in (0, 4, 5, 63, 100, 155, 199, None):
        every = values_at(odd, metric, stage="update", step=step)
        assert every.layers == tuple(layer.name for layer in odd.layers)
        for place, layer in enumerate(every.layers):
            expected = _slow_value(odd, layer, metric, "update", step)
            found = value_at(odd, layer, metric, stage="update", step=step)
            assert found == expected, (layer, step)
            if expected is None:
                assert every.steps[place] == -1
                assert every.statuses[place] == ""
            else:
                value = every.values[place]
                assert (None if np.isnan(value) else value) == expected.value
                assert (every.steps[place], every.bounds[place]) == expected[1:3]
                assert every.statuses[place] == expected.status


def test_some_cells_of_every_sort_were_tried(odd: Trace) -> None:
    found = cells(odd, "condition_number", stage="update")
    assert found.bounds.any()
    assert (found.captured & np.isnan(found.values)).any()
    turns = cells(odd, "column_norm_cv", stage="update")
    assert (~turns.captured & turns.said.captured).any()


def test_before_the_first_capture_there_is_nothing(odd: Trace, traces: Traces) -> None:
    layer = odd.layers[0].name
    assert value_at(odd, layer, "neuron_norm_cv", stage="update", step=-1) is None
    assert value_at(odd, "no such layer", "neuron_norm_cv", stage="update") is None
    assert value_at(traces["muon"], layer, "neuron_norm_cv", stage="weight") is None
    assert values_at(odd, "neuron_norm_cv", stage="weight").steps.tolist() == [-1] * 6
    with pytest.raises(OptgeomError, match="no metric"):
        value_at(odd, layer, "neuron_norm_vc", stage="update")


def test_some_layers_are_as_all_layers(odd: Trace) -> None:
    names = [odd.layers[4].name, odd.layers[1].name]
    every = values_at(odd, "condition_number", stage="update", step=90)
    some = values_at(odd, "condition_number", stage="update", step=90, layers=names)
    assert some.layers == tuple(names)
    np.testing.assert_array_equal(some.values, every.values[[4, 1]])
    assert some.statuses == (every.statuses[4], every.statuses[1])


def test_nothing_in_tells_of_the_newest_row_that_says_why(odd: Trace) -> None:
    rows = odd.metrics(stages=["update"]).to_pylist()
    told = [(row["step"], _slow_status(row, "spectra")) for row in rows]
    step, status = [one for one in told if one[1] not in FINE][-1]
    found = nothing_in(odd, title="any layer", stage="update", table="spectra")
    assert f"step {step}" in found.brief
    assert {"not_converged": "converged", "lost": "rounding"}.get(status, "") in found.brief


def test_a_broken_run_answers_as_its_rows_do(broken: ModuleType, tmp_path: Path) -> None:
    for fault in ("non_finite", "zero", "lr_zero"):
        broken.train(tmp_path / fault, fault)
    for trace in open_traces(tmp_path).values():
        for metric in ("neuron_norm_cv", "condition_number", "stable_rank"):
            for step in range(6):
                assert value_at(trace, broken.LAYER, metric, stage="update", step=step) == (
                    _slow_value(trace, broken.LAYER, metric, "update", step)
                )
