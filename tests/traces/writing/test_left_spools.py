"""What earlier processes left on this machine, brought by the one that resumes their run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optgeom.traces.info import RunInfo
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import mirror
from optgeom.traces.writing.uploading import Uploading
from tests.traces.objects import Environ, Objects
from tests.traces.stores import away, is_write, let_mirrors_end, spools

Record = Callable[..., None]

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def left(objects: Objects, uri: str, info: RunInfo, record: Record, tmp_path: Path) -> list[Path]:
    """Spools of two attempts with a step each, of which the store has nothing."""
    for attempt in range(2):
        start = None if attempt == 0 else 10
        writer = TraceWriter(uri, info, start_step=start, close_within=0.05)
        with away(objects):
            record(writer, [10 * attempt])
            writer.close()
        let_mirrors_end()
    found = spools(tmp_path)
    assert len(found) == 2
    return found


def test_all_of_them_arrive_by_the_end(
    uri: str, info: RunInfo, record: Record, left: list[Path], tmp_path: Path
) -> None:
    with TraceWriter(uri, info, start_step=20, flush_every=1e6) as writer:
        record(writer, [20])
    assert open_trace(uri).steps().tolist() == [0, 10, 20]
    assert spools(tmp_path) == []


def test_the_records_of_the_run_come_between_them(
    objects: Objects, uri: str, info: RunInfo, record: Record, left: list[Path]
) -> None:
    asked, answers = threading.Event(), threading.Event()
    written: list[str] = []

    def hold(environ: Environ) -> None:
        if is_write(environ):
            written.append(environ["PATH_INFO"])
            if "-r00000-s" in environ["PATH_INFO"]:
                asked.set()
                assert answers.wait(60)

    with objects.answering(hold):
        writer = TraceWriter(uri, info, start_step=20, flush_every=1e6)
        assert asked.wait(20)  # the first of them is being brought
        record(writer, [20])
        assert writer.flush()
        answers.set()
        writer.close()

    def first(attempt: int) -> int:
        return next(at for at, one in enumerate(written) if f"a000{attempt}-r" in one)

    assert first(2) < max(first(0), first(1))
    assert open_trace(uri).steps().tolist() == [0, 10, 20]


def test_one_that_is_not_all_there_stays(
    uri: str,
    info: RunInfo,
    record: Record,
    left: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    turn = Uploading.turn

    def partly(self: Uploading, **settings: Any) -> int:
        return 12_000 if self._folder == left[0] else turn(self, **settings)

    monkeypatch.setattr(Uploading, "turn", partly)
    with TraceWriter(uri, info, start_step=20, flush_every=0.01) as writer:
        record(writer, [20])
    assert spools(tmp_path) == [left[0]]
    assert open_trace(uri).steps().tolist() == [10, 20]
    said = [one for one in caplog.messages if "stays where it is" in one]
    assert said == [f"{left[0]} stays where it is: 12 kB of it are not in the store"]


def test_whatever_one_raises_is_said_and_costs_nothing_else(
    uri: str,
    info: RunInfo,
    record: Record,
    left: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    begin = mirror.begin_upload

    def broken(folder: Path, *rest: Any) -> Uploading:
        if folder == left[1]:
            raise RuntimeError("something that nobody thought of")
        return begin(folder, *rest)

    monkeypatch.setattr(mirror, "begin_upload", broken)
    with TraceWriter(uri, info, start_step=20, flush_every=0.01) as writer:
        record(writer, [20])
        assert writer.flush()
        assert writer.catch_up(20)
    assert spools(tmp_path) == [left[1]]
    assert open_trace(uri).steps().tolist() == [0, 20]
    assert f"{left[1]} stays where it is: something that nobody thought of" in caplog.messages
