from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from optgeom.geometry import Context, columns, measure_norms, measure_spectrum
from optgeom.geometry import analyze as analysis
from optgeom.geometry.measure import measure
from optgeom.traces import Cell, LayerInfo, RunInfo, Trace, TraceWriter, open_trace
from optgeom.traces.errors import NotCaptured

analyze = analysis.analyze
UP = LayerInfo("blocks.0.up", "mlp.up", 0, (12, 5), "float32", "opt", 0, "muon")
GATE = LayerInfo("gate", "other", None, (1, 6), "bfloat16", "opt", 0, "muon")
STEPS = (0, 100, 200)
Matrices = dict[tuple[int, str, str], np.ndarray]


@pytest.fixture
def matrices(rng: np.random.Generator) -> Matrices:
    return {
        (step, layer.name, stage): rng.standard_normal(layer.shape).astype(np.float32)
        for step in STEPS
        for layer in (UP, GATE)
        for stage in ("gradient", "ns_input", "orthogonalized", "update")
    }


@pytest.fixture
def write(tmp_path: Path, matrices: Matrices) -> Callable[..., Trace]:
    """A trace of these raw matrices, with what `recorded` says of each cell."""

    def make(
        recorded: Callable[[Cell, np.ndarray], tuple[dict | None, dict | None]],
        name: str = "run",
        raw: bool = True,
    ) -> Trace:
        declared = {table: columns(table) for table in ("metrics", "spectra")}
        info = RunInfo(name, layers=(UP, GATE), columns=declared)
        with TraceWriter(tmp_path / name, info) as writer:
            for (step, layer_name, stage), matrix in matrices.items():
                layer = UP if layer_name == UP.name else GATE
                key = Cell(step, "opt", layer.name, layer.kind, layer.block, stage)
                norms, spectrum = recorded(key, matrix)
                if norms is not None:
                    writer.metrics(key, {"lr": 0.1, "source": "dispatch"} | norms)
                if spectrum is not None:
                    writer.spectrum(key, None, spectrum)
                if raw:
                    writer.update(key, matrix)
                writer.end_step(step)
        assert writer.failure is None
        return open_trace(tmp_path / name)

    return make


def _nothing(key: Cell, matrix: np.ndarray) -> tuple[dict | None, dict | None]:
    return {}, None


def _row(trace: Trace, step: int, layer: str, stage: str) -> dict:
    (row,) = trace.metrics(steps=step, layers=layer, stages=stage).to_pylist()
    return row


def test_what_was_not_computed_is_filled_in(
    write: Callable[..., Trace], matrices: Matrices
) -> None:
    trace = write(_nothing)
    added = analyze(trace)
    assert added.num_rows == len(matrices)
    for step in STEPS:
        row = _row(trace, step, UP.name, "update")
        gradient = matrices[step, UP.name, "gradient"]
        update = matrices[step, UP.name, "update"]
        expected = measure(update, gradient=gradient, lr=0.1)
        for name, value in expected.items():
            if name not in ("cosine_previous", "steps_since_previous"):
                assert row[name] == value, name
        if step:
            before = matrices[step - 100, UP.name, "update"]
            cosine = np.vdot(update, before) / np.linalg.norm(update) / np.linalg.norm(before)
            assert row["cosine_previous"] == pytest.approx(cosine, abs=1e-6)
            assert row["steps_since_previous"] == 100
        else:
            assert row["cosine_previous"] is None
    assert _row(trace, 0, UP.name, "orthogonalized")["ns_row_error"] is not None
    assert _row(trace, 0, UP.name, "ns_input")["leverage_rank"] == 5


def test_the_floor_is_that_of_the_stored_dtype(write: Callable[..., Trace]) -> None:
    trace = write(_nothing)
    analyze(trace)
    row = _row(trace, 0, GATE.name, "update")
    assert row["noise_floor"] == pytest.approx(row["spectral_norm"] * 2.0**-7)


def test_records_are_never_overruled(write: Callable[..., Trace]) -> None:
    trace = write(
        lambda key, matrix: (
            {"neuron_norm_cv": 7.0, "status": "unverified", "cosine_previous": 0.5},
            {"condition_number": 3.0, "spectrum_status": "at_floor"},
        )
    )
    added = analyze(trace)
    row = _row(trace, 100, UP.name, "update")
    assert (row["neuron_norm_cv"], row["status"]) == (7.0, "unverified")
    assert (row["condition_number"], row["spectrum_status"]) == (3.0, "at_floor")
    # The cosine was recorded without its distance: another's distance must not stand beside it.
    assert (row["cosine_previous"], row["steps_since_previous"]) == (0.5, None)
    assert row["descent_efficiency"] is not None
    assert not {"neuron_norm_cv", "condition_number", "status"} & set(added.schema.names)


def test_cells_that_are_measured_are_not_measured_again(
    write: Callable[..., Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(key: Cell, matrix: np.ndarray) -> tuple[dict, dict]:
        facts = Context(
            stage=key.stage, gradient=torch.from_numpy(matrix), gradient_nuclear_norm=1.0, lr=0.1
        )
        tensor = torch.from_numpy(matrix)
        extra = {"ns_row_error": 0.0} if key.stage == "orthogonalized" else {}
        return (
            dict(measure_norms(tensor, facts).values),
            dict(measure_spectrum(tensor, facts).values) | extra,
        )

    trace = write(everything)
    seen = []
    original = analysis.measure_spectrum

    def counted(matrix: torch.Tensor, context: Context) -> object:
        seen.append(context.stage)
        return original(matrix, context)

    monkeypatch.setattr(analysis, "measure_spectrum", counted)
    analyze(trace)
    # Only the polar factor of ns_input, which the row error needs and no table holds.
    assert set(seen) == {"ns_input"}


def test_a_second_call_finds_nothing_to_do(write: Callable[..., Trace]) -> None:
    trace = write(_nothing)
    first = analyze(trace)
    again = analyze(trace)
    assert again.num_rows == 0
    assert analyze(open_trace(trace.path)).num_rows == 0
    assert first.num_rows == 24


def test_resumes_where_it_was_stopped(
    write: Callable[..., Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = write(_nothing)
    monkeypatch.setattr(analysis, "_SECONDS_PER_WRITE", -1.0)
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(trace, progress=stop)
    assert calls == [(done, 24) for done in range(1, 10)]
    trace = open_trace(trace.path)
    rest = analyze(trace)
    # Whole steps of a layer are written: two of four cells each were done.
    assert rest.num_rows == 16
    assert _row(trace, 0, UP.name, "update")["condition_number"] is not None


@pytest.mark.parametrize("status", ["lost", "zero", "non_finite"])
def test_a_spectrum_that_was_refused_stays_refused(
    write: Callable[..., Trace], status: str
) -> None:
    trace = write(lambda key, matrix: ({"status": status}, {"spectrum_status": status}))
    analyze(trace)
    row = _row(trace, 0, UP.name, "update")
    assert row["spectrum_status"] == status
    assert row["condition_number"] is None


def test_a_difference_without_a_floor_has_no_spectrum(write: Callable[..., Trace]) -> None:
    trace = write(lambda key, matrix: ({"source": "difference"}, None))
    analyze(trace)
    row = _row(trace, 0, UP.name, "update")
    assert row["spectrum_status"] == "floor_unknown"
    assert row["condition_number"] is None
    assert row["neuron_norm_cv"] is not None


def test_without_raw_matrices_it_says_so(write: Callable[..., Trace]) -> None:
    trace = write(_nothing, raw=False)
    with pytest.raises(NotCaptured, match="updates_every"):
        analyze(trace)
