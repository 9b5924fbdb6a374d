"""A trace written to an object store: what a local one holds, at every request."""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from optgeom.traces.errors import TraceError
from optgeom.traces.files import place
from optgeom.traces.info import RUN_COPY, RUN_FILE, RunInfo
from optgeom.traces.keeping.verify import verify
from optgeom.traces.schema import Cell
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import manifest, mirror, uploading
from tests.traces.objects import Environ, Objects
from tests.traces.stores import UNAVAILABLE, away, is_write, same_records, spools
from tests.traces.test_s3 import assert_keeps_secrets

Record = Callable[..., None]
MakeCell = Callable[..., Cell]

pytestmark = pytest.mark.usefixtures("quick")


class TestRoundTrip:
    def test_a_closed_run_is_what_a_local_one_is(
        self, objects: Objects, uri: str, trace_path: Path, info: RunInfo, record: Record
    ) -> None:
        with TraceWriter(uri, info) as writer:
            assert writer.place.uri == uri
            record(writer, [0, 10, 20, 30], raw=(0, 20))
        assert writer.failure is None
        assert not writer.dropped
        assert writer.behind == 0
        trace = open_trace(uri)
        assert trace.closed
        same_records(trace, open_trace(trace_path))
        assert verify(uri).ok
        names = objects.names(f"{writer.place.root.partition('/')[2]}")
        assert len(names) == len([one for one in trace_path.rglob("*") if one.is_file()])
        assert writer.size == sum(
            one.stat().st_size for one in trace_path.rglob("*.parquet") if one.is_file()
        )
        assert not writer.path.exists()

    def test_each_flush_is_seen(
        self, uri: str, tmp_path: Path, info: RunInfo, record: Record
    ) -> None:
        local = TraceWriter(tmp_path / "local", info, flush_every=1e6)
        with TraceWriter(uri, info, flush_every=1e6) as writer, local:
            trace = open_trace(uri)
            assert trace.is_live
            for step in range(3):
                for one in (writer, local):
                    record(one, [step], raw=(step,))
                    one.flush()
                assert writer.behind > 0
                assert writer.catch_up(20)
                assert local.catch_up(0)
                assert writer.behind == 0
                assert trace.refresh()
                assert trace.steps().tolist() == [*range(step + 1)]
                same_records(trace, open_trace(tmp_path / "local"))
        assert trace.refresh()
        assert trace.closed
        same_records(trace, open_trace(tmp_path / "local"))

    def test_the_store_follows_without_being_asked(
        self, uri: str, info: RunInfo, record: Record
    ) -> None:
        with TraceWriter(uri, info, flush_every=0.01) as writer:
            trace = open_trace(uri)
            record(writer, [0], raw=(0,))
            seen = threading.Event()
            for _ in range(500):
                trace.refresh()
                if trace.metrics().num_rows == 6 and trace.steps(table="updates").tolist() == [0]:
                    seen.set()
                    break
                seen.wait(0.02)
            assert seen.is_set()

    def test_no_record_goes_or_is_doubled_at_any_request(
        self, objects: Objects, uri: str, info: RunInfo, record: Record
    ) -> None:
        """A reader looks before each request that changes something."""
        writer = TraceWriter(uri, info, flush_every=1e6)
        trace = open_trace(uri)
        seen: list[tuple[int, int, int]] = []
        wrong: list[BaseException] = []

        def look(environ: Environ) -> None:
            if not is_write(environ) or environ["PATH_INFO"].endswith("/"):
                return
            try:
                trace.refresh()
                rows = [trace.metrics(attempts="all"), trace.scalars()]
                matrices = len(list(trace.matrices()))
                assert not trace.closed or matrices == 18
                seen.append((*(one.num_rows for one in rows), matrices))
            except BaseException as error:  # noqa: BLE001 -- the server would swallow it
                wrong.append(error)

        with objects.answering(look):
            for step in range(3):
                record(writer, [step], raw=(step,))
                writer.flush()
                assert writer.catch_up(20)
            writer.close()
        assert not wrong
        assert seen == sorted(seen)
        for column in zip(*seen, strict=True):
            assert [*column] == sorted(column)
        assert seen[-1] == (18, 3, 18)
        assert len(seen) > 30

    def test_streams_take_a_bounded_share_of_the_time(
        self,
        objects: Objects,
        uri: str,
        info: RunInfo,
        record: Record,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        clock, turns, uploaded = [1000.0], threading.Semaphore(0), threading.Event()
        for module in (mirror, uploading):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        turn = mirror.Mirror._turn

        def count(self: mirror.Mirror, *, streams: bool) -> None:
            turn(self, streams=streams)
            turns.release()

        def slow(environ: Environ) -> None:
            if environ["REQUEST_METHOD"] == "PUT" and ".wal-" in environ["PATH_INFO"]:
                clock[0] += 1.0
                uploaded.set()

        monkeypatch.setattr(mirror.Mirror, "_turn", count)
        with objects.answering(slow), TraceWriter(uri, info, flush_every=0.01) as writer:
            record(writer, [0])
            writer.flush()
            assert writer.catch_up(20)
            took = clock[0] - 1000.0
            assert took == 8.0  # four streams, each with its sums
            uploaded.clear()
            record(writer, [1])
            writer.flush()
            for _ in range(5):
                assert turns.acquire(timeout=20)
            assert not uploaded.is_set()
            assert writer.behind > 0
            clock[0] += 10 * took
            assert uploaded.wait(20)

    def test_ranks_write_their_own_parts(
        self, uri: str, info: RunInfo, cell: MakeCell, tmp_path: Path
    ) -> None:
        whole = np.arange(32, dtype=np.float32).reshape(8, 4)
        other = TraceWriter(uri, info, rank=1)
        first = TraceWriter(uri, info, rank=0)
        assert len(spools(tmp_path)) == 2
        for rank, writer in enumerate((first, other)):
            rows = slice(5 * rank, 5 + 3 * rank)
            writer.neurons(cell(0), np.arange(8)[rows], row_start=5 * rank)
            writer.update(cell(0), whole[rows], row_start=5 * rank)
            writer.scalar(0, "loss", float(rank))
        first.metrics(cell(0), {"status": "ok"})
        other.close()
        assert not open_trace(uri).closed
        first.close()
        trace = open_trace(uri)
        assert trace.closed
        assert np.array_equal(trace.matrix(0, info.layers[0].name), whole)
        assert trace.neuron_norms(0, info.layers[0].name).tolist() == [*map(float, range(8))]
        assert trace.scalars("loss").column("value").to_pylist() == [0.0]
        resumed = TraceWriter(uri, info, start_step=1)
        with TraceWriter(uri, info, rank=1, start_step=1, attempt=resumed.attempt) as second:
            second.metrics(cell(1), {"status": "from rank 1"})
        resumed.close()
        trace.refresh()
        assert trace.metrics(steps=1).column("attempt").to_pylist() == [1]
        assert spools(tmp_path) == []

    def test_a_heartbeat_comes_through(
        self, objects: Objects, uri: str, info: RunInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(manifest, "_HEARTBEAT", 0.0)
        with TraceWriter(uri, info, flush_every=1e6) as writer:
            path = f"/{writer.place.root}/{RUN_FILE}"
            for _ in range(2):
                writer.flush()
                with objects.counted() as asked:
                    assert writer.catch_up(20)
                # nothing in it has changed, so that its copy stays as it is
                assert [name for method, name in asked if method == "PUT"] == [path]

    def test_what_is_amended_is_there(self, uri: str, info: RunInfo) -> None:
        with TraceWriter(uri, info) as writer:
            writer.amend(capture={"every": 20})
            writer.flush()
            writer.catch_up(20)
            assert open_trace(uri).info.capture == {"every": 20}
            found = writer.place
            assert found.read(RUN_FILE) == found.read(RUN_COPY)


class TestPlace:
    def test_a_large_file_is_put_and_removed(
        self, objects: Objects, uri: str, tmp_path: Path
    ) -> None:
        there = place.find(uri)
        for size in (0, 3, (9 << 20) + 1):
            (tmp_path / "file").write_bytes(b"ab" * size)
            there.put("x/file", tmp_path / "file")
            assert there.read("x/file") == b"ab" * size
            assert not tmp_path.joinpath("x").exists()
        there.remove("x/file")
        there.remove("x/file")
        assert not there.has("x/file")
        with away(objects), pytest.raises(TraceError, match=r"x/file cannot be removed: .*503"):
            there.remove("x/file")
        with pytest.raises(FileNotFoundError):
            there.put("x/file", tmp_path / "none")

    @pytest.mark.parametrize("size", [3, 9 << 20])
    @pytest.mark.parametrize("fails", ["POST", "PUT", "DELETE POST", "DELETE PUT"])
    def test_one_that_cannot_be_replaced_stays(
        self, objects: Objects, uri: str, tmp_path: Path, size: int, fails: str
    ) -> None:
        there = place.find(uri)
        there.write("file", b"old")
        (tmp_path / "file").write_bytes(b"ab" * size)
        is_in_parts = size > 3

        def refuse(environ: Environ) -> str | None:
            return UNAVAILABLE if environ["REQUEST_METHOD"] in fails.split() else None

        with objects.answering(refuse):
            if is_in_parts or "PUT" in fails:
                with pytest.raises(TraceError, match=r"file cannot be written: .*503"):
                    there.put("file", tmp_path / "file")
                gc.collect()
                assert there.read("file") == b"old"
            else:
                there.put("file", tmp_path / "file")


def test_a_watched_run_writes_to_the_store(
    objects: Objects,
    uri: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    import optgeom

    monkeypatch.setattr(sys, "argv", ["train.py", uri])
    caplog.set_level(logging.DEBUG)
    model = torch.nn.Linear(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    told: list[Any] = []
    with optgeom.watch(
        model, optimizer, uri, every=1, updates_every=2, on_finding=told.append
    ) as recorder:
        for step in range(4):
            model(torch.ones(2, 6)).sum().backward()
            optimizer.step()
            recorder.log(loss=float(step))
    assert recorder.failure is None
    trace = open_trace(uri)
    assert trace.closed
    assert trace.info.run == "a"
    assert trace.steps().tolist() == [0, 1, 2, 3]
    assert trace.steps(table="updates").tolist() == [0, 2]
    assert trace.scalars("loss").num_rows == 4
    assert trace.info.command == ("train.py", trace.path)
    assert any(f"{trace.path}: 4 captures of 1 layer" in one for one in caplog.messages)
    for text in (*caplog.messages, json.dumps(trace.info.to_json())):
        assert_keeps_secrets(text)
