"""`optgeom trace verify`, `info` and `export` of traces that are damaged, and of folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from optgeom.cli import cli
from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter, open_trace
from optgeom.traces.errors import TraceError
from optgeom.traces.info import RUN_COPY, RUN_FILE

LAYER = LayerInfo("blocks.0.up.weight", "mlp.up", 0, (4, 4), "float32", "muon", 0)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/a and runs/m in the current folder."""
    for name in ("a", "m"):
        columns = {"metrics": {"update_rms": "float64"}}
        with TraceWriter(
            tmp_path / "runs" / name, RunInfo(name, layers=(LAYER,), columns=columns)
        ) as writer:
            for step in range(3):
                cell = Cell(step, "muon", LAYER.name, LAYER.kind, LAYER.block, "update")
                writer.metrics(cell, {"update_rms": 1.0})
                writer.neurons(cell, np.ones(4, np.float32))
                writer.scalar(step, "loss", 1.0)
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def trace(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["trace", *map(str, words)])


def error_of(done: Result) -> str:
    """What `main` prints of an error of ours."""
    assert isinstance(done.exception, TraceError)
    return str(done.exception)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def segment(run: Path, table: str) -> Path:
    (found,) = (run / table).glob("*.parquet")
    return found


class TestFolders:
    def test_a_refused_run_does_not_stop_the_others(self, runs: Path) -> None:
        shutil.copytree(runs / "a", runs / "newer")
        (runs / "newer" / RUN_FILE).write_text('{"schema": 99}')
        shutil.rmtree(runs / "a" / "scalars")
        (runs / "a" / "scalars").symlink_to(Path("runs/m/scalars").resolve())
        done = trace("verify", runs)
        assert done.exit_code == 2
        assert done.stdout.startswith("runs/m: 4 files")
        assert "leads out of" in done.stderr
        assert "has schema 99" in done.stderr
        told = json.loads(trace("verify", runs, "--json").stdout)
        assert list(told) == ["runs/a", "runs/m", "runs/newer"]
        assert [one["ok"] for one in told.values()] == [False, True, False]
        assert "has schema 99" in told["runs/newer"]["error"]

    def test_damage_beside_a_refused_run_is_exit_code_1(self, runs: Path) -> None:
        (runs / "a" / RUN_FILE).write_text('{"schema": 99}')
        flip(segment(runs / "m", "metrics"))
        assert trace("verify", runs).exit_code == 1

    def test_a_run_without_run_json_is_one_that_is_damaged(self, runs: Path) -> None:
        for name in (RUN_FILE, RUN_COPY):
            (runs / "a" / name).unlink()
        done = trace("verify", runs)
        assert done.exit_code == 1
        assert "runs/a/run.json is missing: no copy of it is there either" in done.stdout
        for repair in ((), ("--repair",)):
            one = trace("verify", runs / "a", *repair)
            assert one.exit_code == 1
            assert (
                "1 file is damaged, and --repair cannot mend that: restore it from a backup"
                in one.stdout
            )
            assert "3 files, 9 rows" in one.stdout
        assert "is a run whose run.json is missing" in error_of(trace("export", "runs/a", "--to=-"))

    def test_info_lists_a_folder(self, runs: Path) -> None:
        done = trace("info", runs)
        assert done.exit_code == 0
        head, *rows = (line.split() for line in done.stdout.splitlines())
        assert head == ["run", "layers", "captures", "size", "state"]
        assert [row[:3] for row in rows] == [["runs/a", "1", "3"], ["runs/m", "1", "3"]]
        assert set(json.loads(trace("info", runs, "--json").stdout)) == {"runs/a", "runs/m"}
        (runs / "a" / RUN_FILE).write_text("{")
        again = trace("info", runs)
        assert again.exit_code == 1
        assert "runs/m" in again.stdout
        assert "optgeom trace verify runs/a" in again.stderr

    def test_export_names_the_runs_of_a_folder(self, runs: Path) -> None:
        said = error_of(trace("export", runs, "--to", "x.csv"))
        assert said == (
            "runs is a folder of traces (runs/a, runs/m): name one of them, "
            "as in optgeom trace export runs/a"
        )


class TestRepair:
    def test_what_was_set_aside_stays_in_sight(self, runs: Path) -> None:
        run = runs / "a"
        flip(segment(run, "metrics"))
        before = trace("verify", run).stdout
        assert "Restore it" not in before
        assert before.endswith(
            "1 file is damaged. optgeom trace verify runs/a --repair sets it aside, "
            "and keeps what is whole of it\n"
        )
        mended = trace("verify", run, "--repair")
        said = (
            "what is there reads back as it was written; 1 file is set aside in damaged/ "
            "(README.txt there says what and why)\n"
        )
        assert (mended.exit_code, mended.stdout.endswith(said)) == (1, True)
        again = trace("verify", run)
        assert (again.exit_code, again.stdout.endswith(said)) == (0, True)
        assert json.loads(trace("verify", run, "--json").stdout)["set_aside"] == 1
        about = trace("info", run).stdout
        assert "3 (step 0 to 2)" in about
        assert "1 file, in damaged/" in about
        assert "3 captured steps 0 to 2" in repr(open_trace(run))

    def test_a_repair_is_offered_where_it_can_act(self, runs: Path) -> None:
        (runs / "a" / RUN_FILE).write_text("{")
        assert "--repair sets it aside" in trace("verify", runs / "a").stdout
        (runs / "a" / RUN_COPY).unlink()
        said = trace("verify", runs / "a").stdout
        assert "1 file is damaged, and --repair cannot mend that: restore it from a backup" in said
        assert "restore it from a copy" in said
        flip(segment(runs / "a", "metrics"))
        assert (
            "--repair sets 1 of them aside, and keeps what is whole of it"
            in trace("verify", runs / "a").stdout
        )

    def test_damage_met_elsewhere_names_verify(self, runs: Path) -> None:
        flip(segment(runs / "a", "metrics"))
        for words in (("info", "runs/a"), ("export", "runs/a", "--to=-")):
            said = error_of(trace(*words))
            assert "Where there is none: optgeom trace verify runs/a says what is lost" in said


class TestExport:
    def test_a_file_that_is_there(self, runs: Path) -> None:
        assert trace("export", "runs/a", "--to", "x.csv").exit_code == 0
        said = error_of(trace("export", "runs/a", "--to", "x.csv"))
        assert said == "x.csv is there already: choose another name, or pass --overwrite"

    @pytest.mark.parametrize("table", ["joined", "scalars", "neurons"])
    def test_no_row_is_said(self, runs: Path, table: str) -> None:
        words = ("runs/a", "--to", "x.csv", "--steps", "5000:", "--table", table)
        done = trace("export", *words)
        assert done.exit_code == 0
        assert "No row was chosen: " in done.stderr
        assert "has steps 0 to 2." in done.stderr

    def test_layers_that_are_not_alike(self, runs: Path) -> None:
        said = error_of(trace("export", "runs/a", "--to", "x.csv", "--layer", "nosuch"))
        assert said == "no layer 'nosuch' in runs/a: there are blocks.0.up.weight"
