"""`optgeom trace upload` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optgeom.traces.info import RunInfo
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from tests.test_cli import _optgeom
from tests.traces.objects import Objects
from tests.traces.test_s3 import assert_keeps_secrets


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        with TraceWriter(tmp_path / name, RunInfo(name)) as writer:
            writer.scalar(0, "loss", 1.0)
    return tmp_path


def test_a_trace_is_uploaded_once(objects: Objects, runs: Path) -> None:
    uri = objects.uri("cli/upload/a")
    shown = open_trace_path(uri)
    done = _optgeom("trace", "upload", "a", uri, cwd=runs)
    assert done.code == 0, done.err
    assert done.out == f"2 files, 2 kB, uploaded to {shown}\n"
    assert open_trace(uri).closed
    again = _optgeom("trace", "upload", "a", uri, cwd=runs)
    assert again.out == f"{shown} has everything; 2 files were there already\n"
    told = json.loads(_optgeom("trace", "upload", "a", uri, "--json", cwd=runs).out)
    assert told == {"uri": shown, "files": 0, "bytes": 0, "same": 2, "removed": False}


def test_what_is_wrong_is_one_line_without_keys(objects: Objects, runs: Path) -> None:
    uri = objects.uri("cli/wrong/a")
    assert _optgeom("trace", "upload", "a", uri, cwd=runs).code == 0
    for arguments, says in (
        (("b", uri), "holds another run (a, made "),
        (("none", uri), "is neither a trace nor a spool"),
        (("a", "elsewhere"), "is a local folder"),
        (("a", open_trace_path(uri)), "was shown without its keys"),
    ):
        done = _optgeom("trace", "upload", *arguments, cwd=runs)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert says in done.err
        assert_keeps_secrets(done.out + done.err)


def open_trace_path(uri: str) -> str:
    from optgeom.traces.files.place import find

    return find(uri).shown


def test_addresses_without_a_bucket_or_a_folder(objects: Objects, runs: Path) -> None:
    root = objects.uri("").replace("/?", "?")
    for uri, says in (("s3://", "names no bucket: pass one"), (root, "is a bucket, whose own")):
        done = _optgeom("trace", "upload", "a", uri, cwd=runs)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert says in done.err
        assert_keeps_secrets(done.err)


def test_the_run_is_looked_for_before_the_store_is_asked(runs: Path) -> None:
    nobody = "s3://b/c?region=x&scheme=http&endpoint_override=127.0.0.1:1"
    done = _optgeom("trace", "upload", "nothere", nobody, cwd=runs)
    assert done.code == 2
    assert "nothere is neither a trace nor a spool" in done.err
