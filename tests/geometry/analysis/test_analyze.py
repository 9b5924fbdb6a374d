"""`optgeom.analyze` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import optgeom
from optgeom.geometry import Context, measure_norms, measure_spectrum
from optgeom.geometry import analyze as module
from optgeom.traces import Cell, open_trace
from optgeom.traces.errors import NotCaptured, OptgeomError
from tests.geometry.analysis.cases import GATE, STEPS, UP, Matrices, row_of, write


def test_what_was_not_computed_is_filled_in(tmp_path: Path, matrices: Matrices) -> None:
    trace = write(tmp_path / "run", matrices)
    added = optgeom.analyze(trace)
    assert added.num_rows == len(matrices)
    for step in STEPS:
        row = row_of(trace, step, UP.name, "update")
        update, gradient, weight = (
            matrices[step, UP.name, stage] for stage in ("update", "gradient", "weight")
        )
        expected = optgeom.measure(update, gradient=gradient, weight=weight, lr=0.1)
        for name, value in expected.items():
            if name not in ("cosine_previous", "steps_since_previous"):
                same = value if isinstance(value, str | None) else pytest.approx(value, rel=1e-12)
                assert row[name] == same, name
        assert row["descent_efficiency"] is not None
        if step:
            before = matrices[step - 100, UP.name, "update"]
            cosine = np.vdot(update, before) / np.linalg.norm(update) / np.linalg.norm(before)
            assert row["cosine_previous"] == pytest.approx(cosine, abs=1e-6)
            assert row["steps_since_previous"] == 100
        else:
            assert row["cosine_previous"] is None
    assert row_of(trace, 0, UP.name, "orthogonalized")["ns_row_error"] is not None
    assert row_of(trace, 0, UP.name, "ns_input")["leverage_rank"] == 5


def test_the_floor_is_that_of_the_stored_dtype(tmp_path: Path, matrices: Matrices) -> None:
    trace = write(tmp_path / "run", matrices)
    optgeom.analyze(trace)
    row = row_of(trace, 0, GATE.name, "update")
    assert row["noise_floor"] == pytest.approx(row["spectral_norm"] * 2.0**-7)


def test_records_are_never_overruled(tmp_path: Path, matrices: Matrices) -> None:
    def recorded(key: Cell, matrix: np.ndarray) -> tuple[dict, dict]:
        return (
            {"neuron_norm_cv": 7.0, "status": "unverified", "cosine_previous": 0.5},
            {"condition_number": 3.0, "spectrum_status": "at_floor"},
        )

    trace = write(tmp_path / "run", matrices, recorded)
    added = optgeom.analyze(trace)
    row = row_of(trace, 100, UP.name, "update")
    assert (row["neuron_norm_cv"], row["status"]) == (7.0, "unverified")
    assert (row["condition_number"], row["spectrum_status"]) == (3.0, "at_floor")
    # The cosine was recorded without its distance: another's distance must not stand beside it.
    assert (row["cosine_previous"], row["steps_since_previous"]) == (0.5, None)
    assert row["descent_efficiency"] is not None
    assert not {"neuron_norm_cv", "condition_number", "status"} & set(added.schema.names)


def test_what_is_measured_is_not_measured_again(
    tmp_path: Path, matrices: Matrices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(key: Cell, matrix: np.ndarray) -> tuple[dict, dict]:
        tensor = torch.from_numpy(matrix)
        facts = Context(
            stage=key.stage, gradient=tensor, weight=tensor, gradient_nuclear_norm=1.0, lr=0.1
        )
        extra = {"ns_row_error": 0.0} if key.stage == "orthogonalized" else {}
        more = {"cosine_previous": 0.5, "steps_since_previous": 1}
        return (
            dict(measure_norms(tensor, facts).values) | more,
            dict(measure_spectrum(tensor, facts).values) | extra,
        )

    def never(*_: object, **__: object) -> object:
        raise AssertionError("measured again")

    trace = write(tmp_path / "run", matrices, everything)
    monkeypatch.setattr("optgeom.geometry.analysis.measuring.measure_spectrum", never)
    monkeypatch.setattr("optgeom.geometry.analysis.measuring.norms_pass", never)
    assert optgeom.analyze(trace).num_rows == len(matrices)


def test_a_second_call_finds_nothing_to_do(tmp_path: Path, matrices: Matrices) -> None:
    trace = write(tmp_path / "run", matrices)
    first = optgeom.analyze(trace)
    told: list[tuple[int, int]] = []
    again = optgeom.analyze(trace, progress=lambda done, total: told.append((done, total)))
    assert (first.num_rows, again.num_rows) == (len(matrices), 0)
    assert told == [(0, 0)]
    assert optgeom.analyze(open_trace(trace.path)).num_rows == 0


@pytest.mark.usefixtures("several_units")
def test_goes_on_where_it_was_stopped(tmp_path: Path, matrices: Matrices) -> None:
    trace = write(tmp_path / "run", matrices)
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optgeom.analyze(trace, progress=stop)
    assert told == [(0, 30), (5, 30), (10, 30)]
    trace = open_trace(trace.path)
    rest = optgeom.analyze(trace)
    assert rest.num_rows == 20
    measured = trace.metrics()["condition_number"]
    assert measured.null_count == 0
    once = write(tmp_path / "once", matrices)
    optgeom.analyze(once)
    assert _numbers(trace.metrics()) == _numbers(once.metrics())


def _numbers(table: pa.Table) -> list[dict]:
    return table.drop_columns(["run"]).to_pylist()


@pytest.mark.parametrize("status", ["lost", "zero", "non_finite"])
def test_a_spectrum_that_was_refused_stays_refused(
    tmp_path: Path, matrices: Matrices, status: str
) -> None:
    trace = write(
        tmp_path / "run",
        matrices,
        lambda key, matrix: ({"status": status}, {"spectrum_status": status}),
    )
    optgeom.analyze(trace)
    row = row_of(trace, 0, UP.name, "update")
    assert row["spectrum_status"] == status
    assert row["condition_number"] is None


def test_a_difference_without_a_floor_has_no_spectrum(tmp_path: Path, matrices: Matrices) -> None:
    matrices = {key: matrix for key, matrix in matrices.items() if key[2] != "weight"}
    trace = write(tmp_path / "run", matrices, lambda key, matrix: ({"source": "difference"}, None))
    optgeom.analyze(trace)
    row = row_of(trace, 0, UP.name, "update")
    assert row["spectrum_status"] == "floor_unknown"
    assert row["condition_number"] is None
    assert row["neuron_norm_cv"] is not None


def test_a_difference_has_the_floor_of_its_weights(tmp_path: Path, matrices: Matrices) -> None:
    trace = write(tmp_path / "run", matrices, lambda key, matrix: ({"source": "difference"}, None))
    optgeom.analyze(trace)
    row = row_of(trace, 0, UP.name, "update")
    weight = matrices[0, UP.name, "weight"]
    ulp = np.sqrt(np.mean(np.spacing(np.abs(weight)).astype(np.float64) ** 2))
    floor = (np.sqrt(12) + np.sqrt(5)) * ulp / (np.sqrt(12) * 0.1)
    assert row["noise_floor"] == pytest.approx(max(floor, 1.5e-7 * row["spectral_norm"]))


def test_without_raw_matrices_it_says_so(tmp_path: Path, matrices: Matrices) -> None:
    trace = write(tmp_path / "run", matrices, raw=False)
    with pytest.raises(NotCaptured, match="updates_every"):
        optgeom.analyze(trace)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, "workers=0"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "one of workers"),
        ({"device": "cpu", "workers": 2}, "one of workers"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"scheduler": "bla"}, "'bla' is no address of a Dask scheduler"),
    ],
)
def test_wrong_use_is_named(tmp_path: Path, matrices: Matrices, given: dict, message: str) -> None:
    with pytest.raises(OptgeomError, match=message):
        optgeom.analyze(write(tmp_path / "run", matrices), **given)


@pytest.mark.usefixtures("several_units")
def test_a_damaged_matrix_costs_its_own_cells_alone(tmp_path: Path, matrices: Matrices) -> None:
    trace = write(tmp_path / "run", matrices)
    files = sorted((tmp_path / "run" / "updates").glob("*.parquet"))
    data = bytearray(files[0].read_bytes())
    first = matrices[0, UP.name, "gradient"].tobytes()
    data[data.index(first)] ^= 1
    files[0].write_bytes(data)
    trace = open_trace(trace.path)
    with pytest.raises(OptgeomError, match=r"of 30 cells could not be measured.*damaged"):
        optgeom.analyze(trace)
    done = trace.metrics()["analysis_version"].is_valid().to_pylist()
    assert 15 <= sum(done) < 30
    with pytest.raises(OptgeomError, match="damaged"):
        optgeom.analyze(trace)


def test_torch_on_a_device_gives_the_same(tmp_path: Path, matrices: Matrices) -> None:
    here, there = (write(tmp_path / name, matrices) for name in ("here", "there"))
    optgeom.analyze(here)
    optgeom.analyze(there, device="cpu")
    for one, other in zip(_numbers(here.metrics()), _numbers(there.metrics()), strict=True):
        for name, value in one.items():
            number = isinstance(value, float)
            assert other[name] == (pytest.approx(value, rel=1e-9, abs=1e-12) if number else value)


def test_results_are_written_now_and_then(
    tmp_path: Path, matrices: Matrices, monkeypatch: pytest.MonkeyPatch, several_units: None
) -> None:
    trace = write(tmp_path / "run", matrices)
    monkeypatch.setattr(module, "SECONDS_PER_WRITE", -1.0)
    added = optgeom.analyze(trace)
    assert len(list((tmp_path / "run" / "derived" / "analysis").glob("*.parquet"))) == 6
    assert added.num_rows == 30
