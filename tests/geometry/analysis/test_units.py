"""What is pending, and how it is cut."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import optgeom
from optgeom.geometry.analysis import units as module
from optgeom.geometry.analysis.units import Unit, pending
from tests.geometry.analysis.cases import GATE, STAGES, STEPS, UP, Matrices, write


def _cells(units: list[Unit]) -> list[tuple[int, str, str]]:
    return [
        (task.step, task.layer.name, stage)
        for unit in units
        for tasks in unit.captures
        for task in tasks
        for stage in task.pending
    ]


def test_small_layers_are_measured_together(tmp_path: Path, matrices: Matrices) -> None:
    (unit,) = pending(write(tmp_path / "run", matrices))
    assert unit.cells == len(matrices)
    assert sorted(_cells([unit])) == sorted(matrices)
    assert [[task.layer for task in tasks] for tasks in unit.captures] == [[UP, GATE]] * 3
    assert [tasks[0].previous_step for tasks in unit.captures] == [None, *STEPS[:-1]]


@pytest.mark.usefixtures("several_units")
def test_every_cell_is_in_one_unit(tmp_path: Path, matrices: Matrices) -> None:
    units = pending(write(tmp_path / "run", matrices))
    assert len(units) == 6
    assert sorted(_cells(units)) == sorted(matrices)


def test_units_are_cut_at_the_same_places_whatever_is_done(
    tmp_path: Path, matrices: Matrices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_UNIT", 2)
    trace = write(tmp_path / "run", matrices)
    before = pending(trace)
    assert [[tasks[0].step for tasks in unit.captures] for unit in before] == [[0, 100], [200]]

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optgeom.analyze(trace, progress=stop)
    (left,) = pending(optgeom.open_trace(trace.path))
    assert [tasks[0].step for tasks in left.captures] in ([0, 100], [200])


def test_a_unit_goes_to_other_processes(tmp_path: Path, matrices: Matrices) -> None:
    (unit,) = pending(write(tmp_path / "run", matrices))
    assert pickle.loads(pickle.dumps(unit)) == unit
    assert len(pickle.dumps(unit)) < 600 * len(matrices)


def test_companions_are_read_with_what_needs_them(tmp_path: Path, matrices: Matrices) -> None:
    trace = write(tmp_path / "run", matrices)
    (unit,) = pending(trace)
    assert set(unit.captures[0][0].needed) == set(STAGES)
    known = {"update_to_weight": 0.1, "radial_fraction": 0.1, "cosine_gradient": 0.1}
    trace = write(
        tmp_path / "known",
        matrices,
        lambda key, matrix: (known, {"descent_efficiency": 0.5}),
    )
    (unit,) = pending(trace)
    assert unit.captures[0][0].needs("update") == {"update"}
    recorded = {"condition_number": 2.0, "spectrum_status": "ok", "ns_row_error": 0.1}
    trace = write(
        tmp_path / "recorded",
        {key: one for key, one in matrices.items() if key[2] != "ns_input"},
        lambda key, matrix: ({}, recorded),
    )
    (unit,) = pending(trace)
    task = unit.captures[0][0]
    assert not task.lacks_spectrum("gradient")
    assert task.needs("update") == {"update", "gradient", "weight"}
    assert task.lacks_spectrum("update")  # for the descent efficiency alone
    assert "ns_input" not in task.needed
