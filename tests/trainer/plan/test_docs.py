"""docs/plan.md: its settings are settings, and what it prints is what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from optgeom.cli import cli
from tests.docs.blocks import blocks

PAGE = [block for block in blocks("docs/plan.md") if block.language in ("toml", "text")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "config", "gpus"),
    [(0, "1.1b", "64"), (1, "my_70b.toml", "1024"), (2, "my_1t.toml", "16384")],
)
def test_the_page_prints_what_the_command_prints(
    place: int, config: str, gpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = [block.code for block in PAGE if block.language == "text"]
    tomls = [block.code for block in PAGE if block.language == "toml"]
    assert (len(printed), len(tomls)) == (3, 2)
    if place:
        Path(config).write_text(tomls[place - 1])
    found = CliRunner().invoke(cli, ["plan", config, "--gpus", gpus], env={"COLUMNS": "140"})
    assert found.exit_code == 0, found.output
    lines = [line.rstrip() for line in found.output.splitlines()]
    assert lines == printed[place].splitlines()
