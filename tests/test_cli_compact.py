"""`optgeom trace compact`, as it is typed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optgeom.cli import cli
from optgeom.traces.files.lock import COMPACT_LOCK, Lock

KEPT = Path(__file__).parent / "traces" / "versions" / "schema1"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two traces that were left long ago."""
    for name in ("a", "b"):
        shutil.copytree(KEPT, tmp_path / "runs" / name)
    for one in tmp_path.rglob("*"):
        os.utime(one, (1e9, 1e9))
    return tmp_path / "runs"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["trace", "compact", *map(str, words)])


def test_a_folder_of_traces(runs: Path) -> None:
    said = run(runs, "--dry-run").output
    assert said == "".join(
        f"{runs / name}: 27 files would become 16: 10 segments into 4, "
        "5 streams of ended processes sealed\n"
        for name in ("a", "b")
    )
    done = run(runs)
    assert done.exit_code == 0
    assert done.output.count("27 files became 16") == 2
    assert run(runs / "a").output == f"{runs / 'a'}: 16 files, nothing to compact\n"


def test_json(runs: Path) -> None:
    (row,) = json.loads(run(runs / "a", "--json").output)
    assert (row["run"], row["files_before"], row["files_after"]) == ("a", 27, 16)
    assert {one["table"] for one in row["merged"]} == {"updates"}


def test_what_is_damaged_or_busy_is_said_and_the_rest_is_done(runs: Path) -> None:
    victim = next((runs / "a" / "updates").glob("a0000-r00000-s000001-*"))
    data = bytearray(victim.read_bytes())
    data[-20] ^= 1
    victim.write_bytes(data)
    os.utime(victim, (1e9, 1e9))
    lock = Lock.take(runs / "b", COMPACT_LOCK)
    assert lock is not None
    done = run(runs)
    lock.release()
    assert done.exit_code == 1
    assert f"{runs / 'a'}: left where it is: {victim} is damaged" in done.output
    assert f"{runs / 'a'}: 27 files became 18" in done.output
    assert f"b is being compacted by process {os.getpid()}" in done.stderr


def test_a_run_without_run_json_and_one_of_a_newer_schema_are_said(runs: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(runs / name, runs / f"{name}{name}")
    for hidden in ("run.json", ".run-copy.json"):
        (runs / "aa" / hidden).unlink(missing_ok=True)
    (runs / "bb" / "run.json").write_text('{"schema": 99}')
    done = run(runs, "--json")
    rows = {row["run"]: row for row in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert "run.json is missing" in rows["aa"]["error"]
    assert "has schema 99" in rows["bb"]["error"]
    assert [rows[name]["files_after"] for name in ("a", "b")] == [16, 16]


def test_a_dry_run_says_that_it_compares_no_bytes() -> None:
    assert "Bytes are not compared" in " ".join(run("--help").output.split())
