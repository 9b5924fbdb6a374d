"""The command line as a stranger uses it wrongly: one clear line, exit code 2, nothing left."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

import optgeom
from optgeom.cli import main
from optgeom.geometry import columns
from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter

TINY = (
    "model.width=16",
    "model.heads=2",
    "model.blocks=1",
    "schedule.steps=3",
    "schedule.warmup=1",
    "data.sequence=16",
    "data.batch=2",
    "capture.every=1",
    "capture.updates_every=1",
)


class Done(NamedTuple):
    """How a call of the command line ended."""

    code: int
    out: str
    err: str


def _optgeom(*arguments: str, cwd: Path, width: int = 200) -> Done:
    """Call the entry point in this process, where torch is imported already."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["optgeom", *arguments]),
        mock.patch.dict(os.environ, {"COLUMNS": str(width)}),
        pytest.raises(SystemExit) as end,
    ):
        main()
    code = end.value.code
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def _train(out: str, *settings: str, cwd: Path) -> Done:
    flags = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    return _optgeom("train", "--out", out, *flags, cwd=cwd)


def _refused(done: Done, *words: str) -> None:
    assert done.code == 2, done.out + done.err
    assert "Traceback" not in done.err
    *logged, line = done.err.strip().splitlines()
    assert line.startswith("optgeom: ")
    assert not [other for other in logged if other.startswith("optgeom: ")]
    for word in words:
        assert word in line


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("optgeom")
    handlers, level, own_level = list(root.handlers), root.level, own.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    own.setLevel(own_level)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    done = _train("runs/tiny", cwd=folder)
    assert done.code == 0, done.err
    assert "held-out loss" in done.out
    return folder


@pytest.mark.slow
class TestRightUse:
    def test_info_names_what_the_trace_holds(self, trained: Path) -> None:
        done = _optgeom("trace", "info", "runs/tiny", cwd=trained)
        assert done.code == 0, done.err
        for words in ("normuon.NorMuon", "3 (step 0 to 2)", "closed"):
            assert words in done.out

    def test_info_as_json_is_run_json(self, trained: Path) -> None:
        done = _optgeom("trace", "info", "--json", "runs/tiny", cwd=trained)
        assert json.loads(done.out)["run"] == "tiny"

    def test_metrics_lists_the_catalogue(self, trained: Path) -> None:
        done = _optgeom("trace", "info", "--metrics", "--json", cwd=trained)
        names = {row["name"] for row in json.loads(done.out)}
        assert {"condition_number", "neuron_norm_cv", "leverage_cv"} <= names

    def test_verify_is_content_with_a_whole_trace(self, trained: Path) -> None:
        done = _optgeom("trace", "verify", "runs/tiny", cwd=trained)
        assert done.code == 0, done.out + done.err

    def test_analyze_adds_to_the_trace(self, trained: Path) -> None:
        done = _optgeom("analyze", "runs/tiny", cwd=trained)
        assert done.code == 0, done.err
        assert (trained / "runs/tiny/derived").is_dir()

    def test_analyze_takes_a_folder_of_traces_and_says_what_it_did(self, trained: Path) -> None:
        done = _optgeom("analyze", "runs", "--memory", "64MiB", cwd=trained)
        assert (done.code, done.err) == (0, "")
        assert done.out == "tiny: nothing was left to analyze\n"
        done = _optgeom("analyze", "runs", "--json", cwd=trained)
        (row,) = json.loads(done.out)
        assert (row["run"], row["cells"]) == ("tiny", 0)

    def test_an_interrupted_analysis_says_what_is_kept(self, trained: Path) -> None:
        with mock.patch.object(optgeom, "analyze", side_effect=KeyboardInterrupt):
            done = _optgeom("analyze", "runs/tiny", cwd=trained)
        assert done.code == 130
        assert done.err == "optgeom: tiny: stopped; what was measured is kept\n"

    def test_report_is_one_file(self, trained: Path) -> None:
        done = _optgeom("report", "runs", "-o", "report.html", cwd=trained)
        assert done.code == 0, done.err
        page = (trained / "report.html").read_text()
        assert "<html" in page
        assert 'src="http' not in page


@pytest.mark.slow
class TestWrongUse:
    def test_existing_trace_as_out(self, trained: Path) -> None:
        before = sorted((trained / "runs/tiny").rglob("*"))
        _refused(_train("runs/tiny", cwd=trained), "another folder", "start_step")
        assert sorted((trained / "runs/tiny").rglob("*")) == before

    def test_unknown_layer_pattern(self, tmp_path: Path) -> None:
        done = _train("runs/x", "capture.layers=nowhere", cwd=tmp_path)
        _refused(done, "nowhere", "blocks.0.mlp.up")
        assert not (tmp_path / "runs").exists()

    def test_corpus_too_short(self, tmp_path: Path) -> None:
        (tmp_path / "short.txt").write_text("too short")
        done = _train("runs/x", "data.corpus=short.txt", cwd=tmp_path)
        _refused(done, "9")
        assert not (tmp_path / "runs").exists()

    def test_unwritable_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        _refused(_train("file/x", cwd=tmp_path), "file/x")
        assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]

    def test_a_report_of_a_folder_without_traces(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        _refused(_optgeom("report", "empty", cwd=tmp_path), "empty")
        assert list(tmp_path.iterdir()) == [tmp_path / "empty"]

    @pytest.mark.parametrize(
        "command", [("report",), ("dashboard",), ("compare",), ("trace", "info")]
    )
    def test_a_folder_that_does_not_exist(self, command: tuple[str, ...], tmp_path: Path) -> None:
        _refused(_optgeom(*command, "nowhere", cwd=tmp_path), "nowhere")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("command", [("trace", "info"), ("trace", "verify"), ("analyze",)])
    def test_a_folder_that_is_no_trace(self, command: tuple[str, ...], tmp_path: Path) -> None:
        _refused(_optgeom(*command, ".", cwd=tmp_path))

    @pytest.mark.parametrize("size", ["1..2", ".", "0", "12x"])
    def test_no_number_of_bytes(self, trained: Path, size: str) -> None:
        done = _optgeom("analyze", "runs/tiny", "--memory", size, cwd=trained)
        assert done.code == 2
        assert f"{size!r} is no number of bytes" in done.err

    def test_damaged_traces_of_a_folder_are_named(self, trained: Path, tmp_path: Path) -> None:
        for name in ("whole", "odd"):
            shutil.copytree(trained / "runs/tiny", tmp_path / "runs" / name)
        (tmp_path / "runs/odd/run.json").write_text("{")
        done = _optgeom("analyze", "runs", "--json", cwd=tmp_path)
        assert done.code == 1
        odd, whole = sorted(json.loads(done.out), key=lambda row: row["run"])
        assert "odd" in odd["error"]
        assert whole["run"] == "whole"

    def test_a_newer_schema(self, trained: Path, tmp_path: Path) -> None:
        about = json.loads((trained / "runs/tiny/run.json").read_text())
        del about["digest"]
        newer = about | {"schema": 99}
        (tmp_path / "newer").mkdir()
        (tmp_path / "newer/run.json").write_text(json.dumps(newer))
        _refused(_optgeom("trace", "info", "newer", cwd=tmp_path), "99")

    def test_a_truncated_file(self, trained: Path, tmp_path: Path) -> None:
        done = _train("runs/cut", cwd=tmp_path)
        assert done.code == 0, done.err
        (part,) = (tmp_path / "runs/cut/metrics").glob("*.parquet")
        part.write_bytes(part.read_bytes()[:-100])
        _refused(_optgeom("trace", "info", "runs/cut", cwd=tmp_path), part.name)
        found = _optgeom("trace", "verify", "runs/cut", cwd=tmp_path)
        assert found.code == 1
        assert part.name in found.out

    def test_an_unknown_setting(self, tmp_path: Path) -> None:
        _refused(_train("runs/x", "model.widht=16", cwd=tmp_path), "model.width")

    def test_a_setting_without_a_value(self, tmp_path: Path) -> None:
        done = _optgeom("train", "--out", "x", "--set", "model.width", cwd=tmp_path)
        assert done.code == 2
        assert "KEY=VALUE" in done.err


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one layer: b moves it a quarter as unevenly as a, at an lr of its own."""
    folder = tmp_path_factory.mktemp("compared")
    declared = {"metrics": columns("metrics"), "spectra": columns("spectra")}
    for run, cv, rule in (("a", 0.4, "muon"), ("b", 0.1, "adamw")):
        layer = LayerInfo("mlp.up", "mlp.up", 0, (8, 4), "float32", "o", 0, rule)
        info = RunInfo(run, layers=(layer,), columns=declared)
        with TraceWriter(folder / "runs" / run, info) as writer:
            for step in (0, 10, 20):
                key = Cell(step, "o", layer.name, layer.kind, layer.block, "update")
                values = {"neuron_norm_cv": cv, "update_rms": 1.0, "lr": cv, "status": "ok"}
                writer.metrics(key, values)
        assert writer.failure is None
    return folder


class TestCompare:
    def test_a_ratio_and_what_has_none(self, pair: Path) -> None:
        asked = ("--metric", "neuron_norm_cv", "--metric", "update_rms")
        done = _optgeom("compare", "runs", *asked, cwd=pair)
        assert done.code == 0, done.err
        lines = done.out.splitlines()
        assert lines[0].rstrip().endswith("ratio to the median of a")
        shown = [line.split() for line in lines if line.startswith("mlp.up")]
        assert [words[-2:] for words in shown] == [
            ["0.25", "\N{MULTIPLICATION SIGN}"],
            ["1\N{EN DASH}1", "\N{EN DASH}"],
        ]
        assert "- a and b have the same 3 captures, steps 0 to 20." in done.out
        assert "- Not comparable: update_rms of mlp.up in b: both the lr" in done.out

    @pytest.mark.parametrize("width", [40, 80, 120])
    def test_no_line_is_wider_than_the_terminal(self, pair: Path, width: int) -> None:
        done = _optgeom("compare", "runs", "--metric", "neuron_norm_cv", cwd=pair, width=width)
        lines = done.out.splitlines()
        assert max(map(len, lines)) <= width
        beside = [line for line in lines if line.split() == ["a", "b"]]
        assert len(beside) == (width > 40)
        assert done.out.count("0.1\N{EN DASH}0.1") == done.out.count("0.4\N{EN DASH}0.4") == 1

    def test_what_is_asked_for(self, pair: Path) -> None:
        asked = ("--reference", "b", "--steps", "5:", "--run", "b", "--run", "a", "--json")
        done = _optgeom("compare", "runs", "--metric", "neuron_norm_cv", *asked, cwd=pair)
        told = json.loads(done.out)
        assert (told["reference"], told["runs"], told["steps"]) == ("b", ["b", "a"], [10, 20])
        assert [row["ratio"] for row in told["table"]] == pytest.approx([1.0, 4.0])
        assert done.code == 0

    @pytest.mark.parametrize(
        ("steps", "expected"), [("10", [10]), ("0:20:2", [0]), (":", [0, 10, 20])]
    )
    def test_steps(self, pair: Path, steps: str, expected: list[int]) -> None:
        done = _optgeom("compare", "runs", "--steps", steps, "--json", cwd=pair)
        assert json.loads(done.out)["steps"] == expected

    def test_nothing_comparable_is_a_finding(self, pair: Path) -> None:
        done = _optgeom("compare", "runs", "--metric", "update_rms", cwd=pair)
        assert done.code == 1
        assert "Not comparable" in done.out

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (("--metric", "neuron_norm"), ("neuron_norm_cv",)),
            (("--stage", "momentum"), ("momentum", "a has update")),
            (("--reference", "c"), ("'c'", "a, b")),
            (("--run", "c"), ("'c'", "a, b")),
            (("--run", "a"), ("two runs or more",)),
            (("--steps", "15"), ("step 15", "3 captures")),
        ],
    )
    def test_wrong_use(self, pair: Path, wrong: tuple[str, ...], words: tuple[str, ...]) -> None:
        _refused(_optgeom("compare", "runs", *wrong, cwd=pair), *words)

    def test_steps_that_are_none(self, pair: Path) -> None:
        done = _optgeom("compare", "runs", "--steps", "1:2:3:4", cwd=pair)
        assert done.code == 2
        assert "FROM:TO" in done.err

    def test_one_trace(self, pair: Path) -> None:
        _refused(_optgeom("compare", "runs/a", cwd=pair), "is one trace")


def test_version() -> None:
    done = _optgeom("--version", cwd=Path.cwd())
    assert done.out.strip().endswith(optgeom.__version__)
