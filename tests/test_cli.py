"""The command line as a stranger uses it wrongly: one clear line, exit code 2, nothing left."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

import optgeom
from optgeom.cli import main

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


def _optgeom(*arguments: str, cwd: Path) -> Done:
    """Call the entry point in this process, where torch is imported already."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["optgeom", *arguments]),
        mock.patch.dict(os.environ, {"COLUMNS": "200"}),
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

    @pytest.mark.parametrize("command", [("report",), ("dashboard",), ("trace", "info")])
    def test_a_folder_that_does_not_exist(self, command: tuple[str, ...], tmp_path: Path) -> None:
        _refused(_optgeom(*command, "nowhere", cwd=tmp_path), "nowhere")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("command", [("trace", "info"), ("trace", "verify"), ("analyze",)])
    def test_a_folder_that_is_no_trace(self, command: tuple[str, ...], tmp_path: Path) -> None:
        _refused(_optgeom(*command, ".", cwd=tmp_path))

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


def test_version() -> None:
    done = _optgeom("--version", cwd=Path.cwd())
    assert done.out.strip().endswith(optgeom.__version__)
