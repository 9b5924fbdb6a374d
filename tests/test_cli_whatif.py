"""`optgeom whatif` from the outside: exit codes, tables, JSON, and who opens its trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import optgeom
from tests.geometry.counterfactual.training import train
from tests.test_cli import _optgeom


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "runs"
    train(folder / "muon", "muon", 64)
    train(folder / "sparse", "muon", 21, every=10, updates_every=10)
    return folder


def test_the_answer_and_the_trace(runs: Path) -> None:
    done = _optgeom("whatif", "muon", "--rule", "normuon, polar", cwd=runs, width=100)
    assert done.code == 0, done.err
    assert "NorMuon, computed from muon: applied → computed, medians" in done.out
    assert "mlp.up" in done.out
    assert "would spread mlp.up over its neurons" in done.out
    assert max(map(len, done.out.splitlines())) <= 100
    assert {"muon+normuon", "muon+polar"} <= set(optgeom.open_traces(runs))
    again = _optgeom("whatif", "muon", cwd=runs)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "--overwrite" in again.err
    replaced = _optgeom("whatif", "muon", "--overwrite", "--steps", "60:", "--json", cwd=runs)
    assert replaced.code == 0
    found = json.loads(replaced.out)
    assert found["run"] == "muon"
    assert found["rules"][0]["computed"]["from"] == "muon"
    assert {row["cells"] for row in found["summary"]} == {4}
    assert {row["young"] for row in found["summary"]} == {0}


def test_without_a_second_moment_the_exit_code_is_one(runs: Path) -> None:
    done = _optgeom("whatif", "sparse", cwd=runs)
    assert done.code == 1
    assert "burst=60" in done.out.replace("\n", "")
    assert _optgeom("whatif", "sparse", "--rule", "muon", cwd=runs).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("whatif", "muon", "--rule", "normon"), "did you mean normuon"),
        (("whatif", "muon", "--rule", ","), "names no rule"),
        (("whatif", "muon", "--steps", "x"), "--steps takes FROM:TO"),
        (("whatif", "muon", "--layer", "mlp"), "no layer 'mlp'"),
        (("whatif", "nowhere"), "nowhere"),
        (("whatif", "muon", "--out", "s3://bucket/x"), "local folders"),
    ],
)
def test_wrong_use_is_one_line(runs: Path, arguments: tuple[str, ...], said: str) -> None:
    done = _optgeom(*arguments, cwd=runs)
    assert done.code == 2
    assert said in done.err


def test_other_commands_open_it(runs: Path) -> None:
    optgeom.whatif(optgeom.open_trace(runs / "muon"), "aurora")
    report = _optgeom("report", ".", "-o", "report.html", cwd=runs)
    assert report.code == 0, report.err
    assert "(computed)" in (runs / "report.html").read_text()
    (runs / "report.html").unlink()
    assert "muon+aurora" in _optgeom("trace", "info", "muon+aurora", cwd=runs).out
    assert _optgeom("trace", "verify", "muon+aurora", cwd=runs).code == 0
    compared = _optgeom(
        "compare", ".", "--run", "muon", "--run", "muon+aurora", "--metric", "update_rms", cwd=runs
    )
    assert compared.code == 0  # the same lr is divided by, so that the scale is one
