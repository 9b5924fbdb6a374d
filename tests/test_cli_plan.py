"""`optgeom plan`: what it prints, its JSON, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from unittest import mock

import pytest
from click.testing import CliRunner, Result

from optgeom.cli import cli, main


def asked(*words: str) -> Result:
    return CliRunner().invoke(cli, ["plan", *words], env={"COLUMNS": "160"})


def test_a_preset_is_planned_on_one_screen() -> None:
    found = asked("1.1b", "--gpus", "64")
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0].startswith("1.1b on 64 GPUs: 1.1 B weights, 113 captured matrices")
    assert len(lines) < 50
    for title in ("Disk", "Time", "Memory of a GPU", "Sent by a GPU in a step", "Analysis"):
        assert title in lines or any(line.strip() == title for line in lines)


@pytest.mark.parametrize("columns", ["80", "72"])
def test_numbers_are_whole_in_a_narrow_terminal(columns: str) -> None:
    words = ["plan", "1.1b", "--gpus", "64"]
    found = CliRunner().invoke(cli, words, env={"COLUMNS": columns})
    wide = asked(*words[1:])
    for line in (line for line in wide.output.splitlines()[1:] if line.startswith("  ")):
        title, value, *_ = re.split(r"\s{2,}", line.strip())
        assert any(title in one and value in one for one in found.output.splitlines()), line


def test_what_does_not_fit_is_said_at_the_end() -> None:
    words = ("1.1b", "--gpus", "64", "--memory")
    small, large = asked(*words, "40"), asked(*words, "141")
    for found, room in ((small, "40"), (large, "141")):
        assert found.exit_code == 0, found.output
        assert f"all, of {room} GB" in found.output
        assert "an H100 but for --memory" in found.output
    assert small.output.splitlines()[-1].startswith("Does not fit: 78.")
    assert "Does not fit" not in large.output


def test_json_is_for_programs() -> None:
    words = ("--step-seconds", "0.5", "--set", "capture.updates_every=0")
    found = asked("demo", "--gpus", "2", "--json", *words)
    assert found.exit_code == 0, found.output
    tree = json.loads(found.output)
    assert tree["gpus"] == 2
    assert tree["machine"]["step_seconds"] == 0.5
    figures = tree["figures"]
    assert figures["time.step"]["basis"] == "given"
    assert {"value", "unit", "basis", "rests_on"} == figures["wire.gathers"].keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demo", "--gpus", "3"), "multiple of the number of ranks (3)"),
        (("demo", "--gpus", "0"), "gpus must lie between 1"),
        (("nothing", "--gpus", "2"), "a TOML file or a preset"),
        (("demo", "--gpus", "2", "--mfu", "2"), "mfu is a share of the peak"),
        (("demo", "--gpus", "2", "--step-seconds", "1e308"), "step_seconds must lie between"),
        (("demo", "--gpus", "2", "--set", "model.width=8000000000"), "weights is not planned"),
        (("demo", "--gpus", "2", "--memory", "0"), "memory must lie between"),
        (("demo", "--gpus", "2", "--set", "model.widht=3"), "did you mean 'model.width'"),
    ],
)
def test_wrong_use_is_one_line(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        mock.patch.object(sys, "argv", ["optgeom", "plan", *words]),
        pytest.raises(SystemExit) as end,
    ):
        main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("optgeom: ")
    assert said in line
