"""A store that is away, and processes that die: every record arrives, and once."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.errors import NotATrace, TraceError
from optgeom.traces.info import RunInfo
from optgeom.traces.keeping.upload import upload
from optgeom.traces.keeping.verify import verify
from optgeom.traces.schema import Cell
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from tests.traces.objects import Environ, Objects
from tests.traces.stores import UNAVAILABLE, away, is_write, let_mirrors_end, same_records, spools

Record = Callable[..., None]
MakeCell = Callable[..., Cell]

pytestmark = pytest.mark.usefixtures("quick")


class TestAStoreThatIsAway:
    @pytest.mark.parametrize("answer", [UNAVAILABLE, "403 Forbidden"])
    def test_everything_arrives_once_when_it_is_back(
        self,
        objects: Objects,
        uri: str,
        trace_path: Path,
        info: RunInfo,
        record: Record,
        caplog: pytest.LogCaptureFixture,
        answer: str,
    ) -> None:
        with TraceWriter(uri, info, flush_every=0.01) as writer:
            record(writer, [0], raw=(0,))
            writer.flush()
            with away(objects, answer) as refused:
                record(writer, [10, 20], raw=(20,))
                writer.flush()
                assert refused.wait(20)
                assert not writer.catch_up(0.2)
                assert writer.behind > 0
                assert writer.failure is None
            assert writer.catch_up(20)
            record(writer, [30])
        same_records(open_trace(uri), open_trace(trace_path))
        assert verify(uri).ok
        said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert len(said) == 2
        assert "records wait in" in said[0]
        assert str(writer.path) in said[0]
        assert "answers again" in said[1]

    def test_the_run_does_not_wait_for_it(
        self, objects: Objects, uri: str, trace_path: Path, info: RunInfo, record: Record
    ) -> None:
        asked, answers = threading.Event(), threading.Event()

        def hang(_: Environ) -> None:
            asked.set()
            assert answers.wait(60)

        writer = TraceWriter(uri, info, flush_every=0.01, wait=True)
        with objects.answering(hang), writer:
            assert asked.wait(20)
            # all of this returns although no request does
            record(writer, [0, 10, 20, 30], raw=(0, 20))
            writer.flush()
            assert writer.behind > 0
            answers.set()
        same_records(open_trace(uri), open_trace(trace_path))

    def test_a_connection_that_is_cut_in_the_middle_of_an_upload(
        self, objects: Objects, uri: str, trace_path: Path, info: RunInfo, record: Record
    ) -> None:
        counts: dict[str, int] = {}

        def cut(environ: Environ) -> str | None:
            """Each request that changes something fails twice: once before it, once after."""
            if not is_write(environ):
                return None
            name = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            counts[name] = counts.get(name, 0) + 1
            if counts[name] == 1:
                raise ConnectionResetError
            return UNAVAILABLE if counts[name] == 2 else None

        writer = TraceWriter(uri, info, flush_every=0.01)
        with objects.answering(cut):
            record(writer, [0, 10, 20, 30], raw=(0, 20))
            writer.flush()
            assert writer.catch_up(30)
            writer.close()
        assert writer.behind == 0
        same_records(open_trace(uri), open_trace(trace_path))
        assert max(counts.values()) > 2

    def test_until_after_the_end(
        self,
        objects: Objects,
        uri: str,
        tmp_path: Path,
        trace_path: Path,
        info: RunInfo,
        record: Record,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        writer = TraceWriter(uri, info, flush_every=0.01, close_within=0.2)
        record(writer, [0, 10], raw=(0,))
        writer.flush()
        assert writer.catch_up(20)
        with away(objects):
            record(writer, [20, 30], raw=(20,))
            writer.close()
        assert writer.failure is None
        (left,) = spools(tmp_path)
        assert left == writer.path
        last = caplog.records[-1].getMessage()
        assert f"optgeom trace upload {left} '{writer.place.shown}'" in last
        trace = open_trace(uri)
        assert trace.steps().tolist() == [0, 10]
        assert not trace.closed
        let_mirrors_end()
        with pytest.raises(NotATrace, match="without its keys"):
            upload(left, writer.place.shown)
        with pytest.raises(TraceError, match=r"holds no trace, and .* is only what"):
            upload(left, f"{uri.partition('?')[0]}-other?{uri.partition('?')[2]}")
        done = upload(left, uri)
        assert done.removed
        assert done.files > 0
        assert not left.exists()
        trace.refresh()
        assert trace.closed
        same_records(open_trace(uri), open_trace(trace_path))
        assert verify(uri).ok

    def test_raw_matrices_are_left_out_before_they_fill_the_disk(
        self,
        objects: Objects,
        uri: str,
        info: RunInfo,
        cell: MakeCell,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        usage = shutil.disk_usage("/")._replace(free=600_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        one = np.zeros((100, 50), np.float32)
        layers = (replace(info.layers[0], name="wide", shape=(100, 50)),)
        with TraceWriter(uri, replace(info, layers=layers), flush_every=0.01) as writer:
            key = cell(0, layers[0])
            with away(objects):
                for step in range(8):
                    writer.update(replace(key, step=step), one)
                    writer.metrics(replace(key, step=step), {"status": "ok"})
                    writer.end_step(step)
                    writer.flush()
                waiting = [one.stat().st_size for one in writer.path.glob("updates/*")]
                assert sum(waiting) < 60_000
            assert writer.catch_up(20)
            writer.update(replace(key, step=8), one)
            writer.end_step(8)
        trace = open_trace(uri)
        assert trace.steps().tolist() == [*range(8)]
        assert trace.steps(table="updates").tolist() == [0, 1, 8]
        assert writer.dropped == {"updates": 6}
        said = [one for one in caplog.messages if "tenth of what was free" in one]
        assert len(said) == 1


class TestDeath:
    RUN = """
import sys, time
import numpy as np
from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter
layer = LayerInfo("w", "other", None, (8, 4), "float32", "o", 0)
info = RunInfo("run", layers=(layer,), columns={"metrics": {"x": "float64"}})
writer = TraceWriter(sys.stdin.readline().strip(), info, flush_every=1e6)
for step in range(20):
    key = Cell(step, "o", "w", "other", None, "update")
    writer.metrics(key, {"x": float(step), "status": "ok"})
    writer.update(key, np.full((8, 4), step, np.float32))
    writer.end_step(step)
    if step == 9:
        writer.flush()
        assert writer.catch_up(30)
writer.flush()
print(writer.path, flush=True)
time.sleep(600)
"""

    @pytest.fixture
    def killed(self, uri: str, tmp_path: Path) -> Path:
        """The spool of a run of 20 steps, of which the store had 10 when it was killed."""
        environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
        with subprocess.Popen(
            [sys.executable, "-c", self.RUN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{uri}\n")
            process.stdin.flush()
            path = Path(process.stdout.readline().strip())
            with pytest.raises(TraceError, match=r"is being uploaded by process \d+ on"):
                upload(path, uri)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        return path

    def whole(self, uri: str, raw: int = 20) -> None:
        trace = open_trace(uri)
        assert trace.metrics(attempts="all").column("x").to_pylist() == [*map(float, range(20))]
        assert [key.step for key, _ in trace.matrices()] == [*range(raw)]
        assert verify(uri).ok

    def test_a_killed_run_is_uploaded_by_hand(self, killed: Path, uri: str) -> None:
        before = open_trace(uri).steps().tolist()
        assert before == [*range(10)]
        done = upload(killed, uri)
        assert done.removed
        assert [one.name for one in killed.parents[1].iterdir()] == []
        self.whole(uri)
        assert not open_trace(uri).closed
        with pytest.raises(NotATrace, match="neither a trace nor a spool"):
            upload(killed, uri)

    def test_or_by_the_process_that_resumes_it(
        self, killed: Path, uri: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        info = open_trace(uri).info
        with TraceWriter(uri, info, start_step=20) as writer:
            assert writer.attempt == 1
        assert not killed.exists()
        self.whole(uri)
        assert open_trace(uri).closed
        # it died on this machine, however fresh its heartbeat is
        assert "touched" not in caplog.text


class TestResuming:
    def test_a_resumed_run_is_a_new_attempt(
        self, uri: str, info: RunInfo, record: Record, tmp_path: Path
    ) -> None:
        for where in (uri, tmp_path / "local"):
            with TraceWriter(where, info) as writer:
                record(writer, [0, 10, 20], raw=(0,))
            with TraceWriter(where, replace(info, run="other"), start_step=20) as writer:
                assert writer.attempt == 1
                record(writer, [20, 30], plus=0.5, raw=(20,))
        trace = open_trace(uri)
        same_records(trace, open_trace(tmp_path / "local"))
        attempts = [(one.attempt, one.start_step) for one in trace.info.attempts]
        assert attempts == [(0, 0), (1, 20)]
        assert all(one.closed for one in trace.info.attempts)

    def test_what_the_store_had_not_taken_comes_first(
        self,
        objects: Objects,
        uri: str,
        info: RunInfo,
        record: Record,
        tmp_path: Path,
    ) -> None:
        first = TraceWriter(uri, info, close_within=0.1)
        with away(objects):
            record(first, [0, 10], raw=(0,))
            first.close()
        let_mirrors_end()
        assert spools(tmp_path) == [first.path]
        with TraceWriter(uri, info, start_step=20) as writer:
            record(writer, [20])
        trace = open_trace(uri)
        assert trace.steps().tolist() == [0, 10, 20]
        assert [bool(one.closed) for one in trace.info.attempts] == [True, True]
        assert spools(tmp_path) == []

    def test_another_run_at_the_same_address_is_left_alone(
        self,
        objects: Objects,
        uri: str,
        info: RunInfo,
        record: Record,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        first = TraceWriter(uri, replace(info, created="2020-01-01"), close_within=0.1)
        with away(objects):
            record(first, [0])
            first.close()
        let_mirrors_end()
        for name in objects.names(first.place.root.partition("/")[2]):
            objects.filesystem.delete_file(name)
        TraceWriter(uri, info).close()
        with TraceWriter(uri, info, start_step=5) as writer:
            record(writer, [5])
        assert f"{first.path} holds records of an earlier run" in caplog.text
        assert spools(tmp_path) == [first.path]
        assert open_trace(uri).steps().tolist() == [5]
        with pytest.raises(TraceError, match="holds another run"):
            upload(first.path, uri)
