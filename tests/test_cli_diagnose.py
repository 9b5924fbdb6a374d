"""`optgeom diagnose`: what it prints, at which width, and how it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from optgeom.cli import cli
from optgeom.traces.errors import OptgeomError
from tests.geometry.diagnosis.faults import Muon
from tests.geometry.diagnosis.loops import hidden, train


class Bare(Muon):
    """Plain momentum."""

    def direction(self, p: object, buffer: torch.Tensor, *known: object) -> torch.Tensor:
        return buffer


Bare.__name__ = Bare.__qualname__ = "Muon"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a fault, and one without."""
    folder = tmp_path_factory.mktemp("cli") / "runs"
    train(folder / "sgd", lambda net: Bare(hidden(net)), steps=26)
    train(folder / "fine", lambda net: torch.optim.Muon(hidden(net), lr=0.02), steps=26)
    return folder


Call = Callable[..., Result]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: object, width: int = 120) -> Result:
        monkeypatch.setenv("COLUMNS", str(width))
        return CliRunner().invoke(cli, ["diagnose", *map(str, words)])

    return run


@pytest.mark.parametrize("width", [80, 120])
def test_a_finding_is_told_whole(width: int, runs: Path, call: Call) -> None:
    done = call(runs, width=width)
    assert done.exit_code == 1
    assert max(map(len, done.output.splitlines())) <= width
    told = " ".join(done.output.split())
    for words in (
        "sgd 1 severe; ",
        "severe The updates of ",
        "not orthogonal, although the optimizer is called Muon",
        "expected above 0.6",
        "cause These parameters are moved by another rule",
        "try Check that these parameters are in the group",
        "fine nothing was found; ",
        "Not judged:",
        "ranks_disagree: one rank trained",
    ):
        assert words in told


def test_one_run_of_a_folder_and_a_trace_by_itself(runs: Path, call: Call) -> None:
    for asked in ((runs, "--run", "fine"), (runs / "fine",)):
        done = call(*asked)
        assert done.exit_code == 0, done.output
        assert "nothing was found" in done.output
        assert "sgd" not in done.output


def test_json_has_everything(runs: Path, call: Call) -> None:
    done = call(runs, "--json", "--steps", "5:")
    assert done.exit_code == 1
    found = {one["run"]: one for one in json.loads(done.stdout)}
    assert set(found) == {"sgd", "fine"}
    (finding,) = found["sgd"]["findings"]
    assert finding["rule"] == "not_orthogonal"
    assert finding["severity"] == "severe"
    assert min(finding["steps"]) == 5
    assert found["fine"]["findings"] == []
    assert found["fine"]["not_judged"]["ranks_disagree"] == "one rank trained"


def test_notes_alone_are_no_failure(tmp_path: Path, call: Call) -> None:
    def unused(net: object) -> None:
        net.blocks[0].mlp.up.weight.grad[:3] = 0.0  # type: ignore[attr-defined]

    train(tmp_path / "run", lambda net: torch.optim.SGD(hidden(net), lr=0.1), before_step=unused)
    done = call(tmp_path / "run")
    assert "1 note" in done.output
    assert done.exit_code == 0


def test_wrong_use_is_refused(runs: Path, call: Call) -> None:
    for words, message in (
        ((runs, "--run", "nobody"), "no run 'nobody'"),
        ((runs / "fine", "--steps", "7"), "no step 7"),
        ((runs / "nowhere",), "nowhere"),
    ):
        error = call(*words).exception
        assert isinstance(error, OptgeomError)
        assert message in str(error)
    assert call(runs, "--steps", "a:b").exit_code == 2


def test_a_damaged_run_is_said_and_the_others_are_judged(
    runs: Path, tmp_path: Path, call: Call
) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    (folder / "sgd" / "run.json").write_text("{")
    done = call(folder)
    assert done.exit_code == 1
    assert "optgeom: sgd:" in done.output
    assert "nothing was found" in done.output
    rows = json.loads(call(folder, "--json").stdout)
    assert {row["run"]: "error" in row for row in rows} == {"fine": False, "sgd": True}


def test_diagnosing_imports_no_torch(runs: Path) -> None:
    code = (
        "import sys\nfrom optgeom.cli import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    words = ["diagnose", str(runs / "fine")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was found" in done.stdout
