"""What each promise about imports costs: one subprocess per promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import optgeom


def _imported_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import optgeom", {"torch", "dash", "plotly", "pyarrow", "numpy"}),
        ("import optgeom.traces; optgeom.open_trace", {"torch", "dash", "plotly", "pandas"}),
        ("import optgeom.traces; optgeom.open_trace", {"pyarrow.dataset"}),
        ("import optgeom.figures; optgeom.figures.spectrum", {"torch", "dash"}),
        ("import optgeom.dashboard.app", {"torch"}),
        ("import optgeom.geometry.catalogue", {"torch", "scipy", "dash", "plotly"}),
        ("import optgeom; optgeom.diagnose", {"torch", "scipy", "dash", "plotly"}),
        ("import optgeom.hooks", {"dash", "plotly"}),
        ("import optgeom.optim", {"pyarrow", "dash", "optgeom.traces", "optgeom.geometry"}),
    ],
)
def test_an_import_brings_no_more_than_it_needs(code: str, absent: set[str]) -> None:
    assert not _imported_by(code) & absent


def test_help_imports_nothing_heavy() -> None:
    code = (
        "from click.testing import CliRunner\n"
        "from optgeom.cli import cli\n"
        "result = CliRunner().invoke(cli, ['--help'])\n"
        "assert result.exit_code == 0, result.output"
    )
    assert not _imported_by(code) & {"torch", "pyarrow.dataset", "dash", "plotly", "numpy"}


def test_all_is_what_is_public_and_everything_resolves() -> None:
    assert optgeom.__all__ == sorted(optgeom.__all__)
    for name in optgeom.__all__:
        assert getattr(optgeom, name) is not None
    assert set(optgeom.__all__) < set(dir(optgeom))
    with pytest.raises(AttributeError, match="no attribute 'wach'"):
        optgeom.wach  # noqa: B018


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    root = Path(__file__).parents[1]
    rooms = (root / "src" / "optgeom").iterdir()
    files = [file for room in rooms for file in room.glob("**/*.py")]
    assert len(files) > 50
    long = {file.name: n for file in files if (n := len(file.read_text().splitlines())) > 450}
    assert not long
