"""`optgeom audit`: what is printed, what a program reads, exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optgeom.cli import cli

PLANTED = "tests.hooks.auditing.planted"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["audit", *arguments], env={"COLUMNS": "100"})


def test_a_table_for_a_reader() -> None:
    result = run("torch.optim:Muon", "--lr", "0.02", "--no-ranks")
    assert result.exit_code == 0, result.output
    for said in ("orthogonalizes", "jordan", "sqrt(max(1, m/n))", "Nothing was found"):
        assert said in result.output


def test_settings_are_python_values() -> None:
    result = run(
        *("torch.optim:Muon", "--lr=0.02", "--momentum", "0.9", "--nesterov", "false"),
        *("--adjust-lr-fn", "match_rms_adamw", "--no-ranks", "--json"),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["momentum"] == 0.9
    assert told["nesterov"] is False
    assert told["shape_factor"] == "match_rms"


def test_what_is_found_is_exit_code_1() -> None:
    result = run(f"{PLANTED}:ScaledTwice", "--no-ranks")
    assert result.exit_code == 1
    assert "applied twice" in result.output


@pytest.mark.parametrize(("wanted", "code"), [("neuron_axis=rows", 0), ("nesterov=true", 1)])
def test_expectations(wanted: str, code: int) -> None:
    result = run(f"{PLANTED}:NorMuon", "--no-ranks", "--expect", wanted)
    assert result.exit_code == code, result.output
    assert ("expected True, found False" in result.output) == bool(code)


def test_a_group_with_a_mark() -> None:
    result = run(
        *("pytorch_optimizer:Muon", "--group", "use_muon=true", "--lr", "0.02"),
        *("--no-ranks", "--json"),
    )
    assert json.loads(result.output)["polynomial"] == "jordan"


def test_modules_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_optimizer.py").write_text(
        "import torch\n\ndef make(params, lr):\n    return torch.optim.SGD(params, lr=lr)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    result = run("own_optimizer:make", "--lr", "0.1", "--no-ranks", "--json")
    assert json.loads(result.output)["optimizer"] == "SGD"


def test_what_a_module_prints_is_not_in_the_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud.py").write_text(
        "import torch\nprint('hello')\n\ndef make(params):\n    print('made')\n"
        "    return torch.optim.SGD(params, lr=0.1, weight_decay=float('1e-3'))\n"
    )
    (tmp_path / "broken.py").write_text("raise SystemExit(5)\n")
    monkeypatch.chdir(tmp_path)
    result = run("loud:make", "--no-ranks", "--json")
    assert json.loads(result.stdout)["optimizer"] == "SGD"
    broken = run("broken:make")
    assert broken.exit_code == 2
    assert "cannot be imported: SystemExit" in broken.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("torch.optim",), "such as torch.optim:Muon"),
        (("torch.optim:Moun",), "try Muon"),
        (("no_such_module:Muon",), "cannot be imported"),
        (("torch:pi",), "no class or function"),
        (("torch.optim:Muon", "--moment", "3"), "takes no 'moment': try momentum"),
        (("torch.optim:Muon", "0.02"), "belongs to no setting"),
        (("torch.optim:Muon", "--expect", "rows"), "takes NAME=VALUE"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.output
