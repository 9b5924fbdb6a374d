"""A trace in an object store: what a local one shows, in few requests, and no secret with it."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from optgeom.traces.derived import write_derived
from optgeom.traces.errors import DamagedTrace, NotATrace, OptgeomError, TraceError
from optgeom.traces.files import place
from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.keeping.verify import verify
from optgeom.traces.schema import KEYS, Cell
from optgeom.traces.store import Trace, open_trace, open_traces
from optgeom.traces.writer import TraceWriter
from tests.traces.objects import BUCKET, KEY, SECRET, Environ, Objects

Record = Callable[..., None]


@pytest.fixture
def at(request: pytest.FixtureRequest) -> str:
    """A path of the bucket that is this test's alone."""
    return str(request.node.name).replace("[", "-").replace("]", "")


@pytest.fixture
def stored(objects: Objects, trace_path: Path, at: str) -> Trace:
    """The trace of trace_path, in the bucket."""
    objects.upload(trace_path, f"{at}/a")
    return open_trace(objects.uri(f"{at}/a"))


def everything(trace: Trace) -> dict[str, Any]:
    """All that a trace holds, asked in every way, to the bit."""
    found: dict[str, Any] = {
        "metrics": trace.metrics().to_pylist(),
        "scalars": trace.scalars().to_pylist(),
        "grid": trace.grid("condition_number").values.tobytes(),
        "words": trace.words("status").codes.tobytes(),
        "info": trace.info,
        "matrices": [(cell, matrix.tobytes()) for cell, matrix in trace.matrices()],
    }
    for layer in trace.layers:
        for stage in trace.stages:
            steps, norms = trace.neurons(layer.name, stage)
            found[f"neurons {layer.name} {stage}"] = steps.tolist(), norms.tobytes()
            steps, spectra = trace.spectra(layer.name, stage)
            found[f"spectra {layer.name} {stage}"] = (
                steps.tolist(),
                [one.tobytes() for one in spectra],
            )
    return found


def assert_keeps_secrets(text: str) -> None:
    for secret in (KEY, SECRET, SECRET.replace("/", "%2F"), SECRET.partition("/")[0]):
        assert secret not in text


class TestReading:
    def test_shows_what_a_local_trace_shows(self, stored: Trace, trace_path: Path) -> None:
        local = open_trace(trace_path)
        assert everything(stored) == everything(local)
        assert stored.name == local.name == "a"
        assert stored.size_bytes == local.size_bytes
        assert repr(stored) == repr(local)
        assert not stored.refresh()

    def test_a_folder_of_runs(self, objects: Objects, trace_path: Path, at: str) -> None:
        names = ["a", "b #2?", "c@d"]
        for name in names:
            objects.upload(trace_path, f"{at}/{name}")
        traces = open_traces(objects.uri(at))
        assert list(traces) == names
        table = traces.metrics(steps=10)
        assert table.num_rows == 18
        assert table.column("run").unique().to_pylist() == names
        for name in names:
            assert traces[name].path == (
                f"s3://***@{BUCKET}/{at}/{place.below('s3://', name).rpartition('/')[2]}"
                f"?endpoint_override={objects.endpoint}&scheme=http"
            )
            assert everything(open_trace(traces[name].uri)) == everything(traces[name])
        assert list(open_traces(traces.uri)) == names

    def test_the_wrong_kind_names_the_way_out(
        self, objects: Objects, stored: Trace, at: str
    ) -> None:
        with pytest.raises(NotATrace, match=r"^s3://\*\*\*@bucket.* is one trace: use open_trace$"):
            open_traces(stored.uri)
        with pytest.raises(NotATrace, match=r"is a folder of traces \(a\)"):
            open_trace(objects.uri(at))
        assert verify(stored.uri).ok

    def test_follows_a_run(
        self, objects: Objects, tmp_path: Path, info: RunInfo, record: Record, at: str
    ) -> None:
        folder = tmp_path / "live"
        with TraceWriter(folder, info, flush_every=1e6) as writer:
            objects.upload(folder, at)
            trace = open_trace(objects.uri(at))
            assert trace.last_step is None
            for step in range(3):
                record(writer, [step], raw=(step,))
                writer.flush()
                objects.upload(folder, at)
                version = trace.version
                assert trace.refresh()
                assert trace.version != version
                assert not trace.refresh()
                assert trace.steps().tolist() == [*range(step + 1)]
                assert everything(trace) == everything(open_trace(folder))
        objects.upload(folder, at)
        assert trace.refresh()
        assert trace.closed
        assert everything(trace) == everything(open_trace(folder))

    def test_a_stream_that_was_sealed_since_it_was_listed(
        self, objects: Objects, tmp_path: Path, info: RunInfo, record: Record, at: str
    ) -> None:
        folder = tmp_path / "live"
        with TraceWriter(folder, info, flush_every=1e6) as writer:
            record(writer, [0])
            writer.flush()
            objects.upload(folder, at)
            trace = open_trace(objects.uri(at))
        objects.upload(folder, at)
        assert trace.metrics().num_rows == 6


class TestRequests:
    @pytest.fixture
    def wide(self, objects: Objects, tmp_path: Path, at: str) -> tuple[Trace, Trace]:
        """Of two steps, two matrices of 4.5 MB and four of 1 MB that share a row group.

        In the bucket, and as it is here.
        """
        large = LayerInfo("large", "other", None, (1500, 750), "float32", "o", 0)
        small = LayerInfo("small", "other", None, (512, 512), "float32", "o", 0)
        draw = np.random.default_rng(0)
        with TraceWriter(tmp_path / "wide", RunInfo("wide", layers=(large, small))) as writer:
            for step in (0, 1):
                for stage in ("momentum", "update"):
                    key = Cell(step, "o", "large", "other", None, stage)
                    writer.update(key, draw.standard_normal((1500, 750), np.float32))
                for stage in ("gradient", "momentum", "ns_input", "update"):
                    key = Cell(step, "o", "small", "other", None, stage)
                    writer.update(key, draw.standard_normal((512, 512), np.float32))
                writer.end_step(step)
        objects.upload(tmp_path / "wide", at)
        return open_trace(objects.uri(at)), open_trace(tmp_path / "wide")

    def test_a_matrix_is_one_request(self, objects: Objects, wide: tuple[Trace, Trace]) -> None:
        trace, local = wide
        with objects.counted() as first:
            found = trace.matrix(0, "large", "momentum")
        assert np.array_equal(found, local.matrix(0, "large", "momentum"))
        # both files of updates are opened for their keys: a size and a footer of each
        assert sorted(method for method, _ in first) == ["GET"] * 3 + ["HEAD"] * 2
        for step in (0, 1):
            for stage in ("momentum", "update"):
                with objects.counted() as asked:
                    found = trace.matrix(step, "large", stage)
                assert np.array_equal(found, local.matrix(step, "large", stage))
                assert [method for method, _ in asked] == ["GET"]

    def test_small_matrices_share_one(self, objects: Objects, wide: tuple[Trace, Trace]) -> None:
        trace, local = wide
        trace.matrix(0, "large")
        with objects.counted() as asked:
            for stage in ("gradient", "momentum", "ns_input", "update"):
                found = trace.matrix(1, "small", stage)
                assert np.array_equal(found, local.matrix(1, "small", stage))
        assert [method for method, _ in asked] == ["GET"]

    def test_a_look_lists_each_folder_once(self, objects: Objects, stored: Trace, at: str) -> None:
        listing = ("GET", f"/{BUCKET}")
        with objects.counted() as asked:
            open_trace(stored.uri)
        assert asked.count(listing) == 7
        assert {path for _, path in asked} == {f"/{BUCKET}", f"/{BUCKET}/{at}/a/run.json"}
        assert len(asked) == 12
        with objects.counted() as asked:
            assert not stored.refresh()
        assert asked == [listing] * 7

    def test_lists_of_a_layer_are_one_request(self, objects: Objects, stored: Trace) -> None:
        for ask in (stored.neurons, stored.spectra):
            for table in ("metrics", "spectra", "neurons", "updates"):
                stored.steps(table=table)
            with objects.counted() as asked:
                ask("head.weight")
            assert [method for method, _ in asked] == ["GET"]

    def test_an_analysis_is_one_upload(self, objects: Objects, stored: Trace) -> None:
        keys = stored.metrics().select(list(KEYS))
        with objects.counted() as asked:
            write_derived(stored, "x", keys)
        assert [method for method, _ in asked] == ["GET", "PUT"]

    def test_columns_are_fetched_once(self, objects: Objects, stored: Trace) -> None:
        stored.grid("neuron_norm_cv")
        with objects.counted() as asked:
            stored.grid("lr")
            stored.words("status")
        assert asked == []


class TestWriting:
    @pytest.fixture
    def made(self, stored: Trace) -> pa.Table:
        keys = stored.metrics(steps=[0, 10]).select(list(KEYS))
        return keys.append_column("late", pa.array(np.arange(12.0)))

    def test_an_analysis_is_joined(
        self, objects: Objects, stored: Trace, made: pa.Table, at: str
    ) -> None:
        path = write_derived(stored, "analysis", made)
        (name,) = objects.names(f"{at}/a/derived")
        assert path == f"s3://***@{name}"
        assert stored.refresh()
        for trace in (stored, open_trace(stored.uri)):
            assert trace.metrics(steps=[0, 10]).column("late").to_pylist() == [*range(12)]
            assert trace.metrics(steps=20).column("late").null_count == 6
        assert verify(stored.uri).ok

    def test_the_last_written_counts(self, stored: Trace, made: pa.Table) -> None:
        place = made.schema.get_field_index("late")
        for number in (1.0, 2.0):
            write_derived(stored, "x", made.set_column(place, "late", pa.array([number] * 12)))
        stored.refresh()
        assert stored.metrics(steps=0).column("late").to_pylist() == [2.0] * 6

    def test_writers_at_once_hide_nothing_of_each_other(
        self, objects: Objects, stored: Trace, made: pa.Table, at: str
    ) -> None:
        # a writer that has listed waits for all others to have listed too
        barrier = threading.Barrier(4, timeout=60)
        # opened before: a client that is made waits for the requests of all others
        traces = [open_trace(stored.uri) for _ in range(4)]

        def wait(environ: Environ) -> None:
            if environ["REQUEST_METHOD"] == "PUT":
                barrier.wait()

        def write(number: int) -> str:
            own = made.rename_columns([*KEYS, f"late_{number}"])
            return write_derived(traces[number], "analysis", own)

        with objects.answering(wait), ThreadPoolExecutor(4) as pool:
            written = list(pool.map(write, range(4)))
        assert len({*written}) == len(objects.names(f"{at}/a/derived")) == 4
        assert {path.rpartition("/")[2][:20] for path in written} == {"a0000-r00000-s000000"}
        stored.refresh()
        for number in range(4):
            column = stored.metrics(steps=[0, 10]).column(f"late_{number}")
            assert column.to_pylist() == [*range(12)]

    def test_an_upload_that_fails_leaves_nothing(
        self, objects: Objects, stored: Trace, made: pa.Table, at: str
    ) -> None:
        refused: list[str] = []

        def refuse(environ: Environ) -> str | None:
            # once: the stream that is collected must not try again
            if environ["REQUEST_METHOD"] != "PUT" or refused:
                return None
            refused.append(environ["PATH_INFO"])
            return "403 Forbidden"

        with (
            objects.answering(refuse),
            pytest.raises(TraceError, match=r"cannot be written: .*ACCESS_DENIED") as caught,
        ):
            write_derived(stored, "analysis", made)
        message = str(caught.value)
        del caught
        gc.collect()
        assert message.startswith(f"s3://***@{BUCKET}/{at}/a/derived/analysis/a0000-r00000-s000000")
        assert message.endswith("check the address, the credentials and the network")
        assert "\n" not in message
        assert_keeps_secrets(message)
        assert objects.names(f"{at}/a/derived") == []
        assert not stored.refresh()
        assert "late" not in stored.metrics().schema.names


class TestFailing:
    @pytest.mark.parametrize("table", ["metrics", "spectra", "neurons", "scalars", "updates"])
    @pytest.mark.parametrize("change", ["flip", "cut", "gone"])
    def test_a_damaged_object_is_named(
        self, objects: Objects, stored: Trace, at: str, table: str, change: str
    ) -> None:
        victim = objects.names(f"{at}/a/{table}")[0]
        data = bytearray(objects.filesystem.open_input_file(victim).readall())
        if change == "cut":
            del data[-20:]
        else:
            data[len(data) // 3] ^= 4
        if change == "gone":
            # after it was listed, and opened for its keys
            assert stored.last_step == 30
            stored.cache.limit = 0
            stored.cache.put("all", "goes", 0)
            objects.filesystem.delete_file(victim)
        else:
            objects.put(victim, bytes(data))
        ask = {
            "metrics": stored.metrics,
            "spectra": lambda: stored.spectra("head.weight"),
            "neurons": lambda: stored.neurons("head.weight"),
            "scalars": stored.scalars,
            "updates": lambda: list(stored.matrices()),
        }
        with pytest.raises(DamagedTrace, match=rf"^s3://\*\*\*@{victim} is ") as caught:
            ask[table]()
        assert_keeps_secrets(str(caught.value))

    def test_a_store_that_stops_answering_is_no_damage(
        self, objects: Objects, stored: Trace
    ) -> None:
        stored.steps(table="neurons")
        with objects.answering(lambda _: "403 Forbidden"):
            with pytest.raises(TraceError, match=r"cannot be read: .*ACCESS_DENIED") as caught:
                stored.matrix(0, "head.weight")
            assert not isinstance(caught.value, DamagedTrace)
            with pytest.raises(TraceError, match="cannot be read"):
                stored.refresh()
        assert stored.matrix(0, "head.weight").shape == (6, 4)
        assert not stored.refresh()

    def test_no_such_bucket(self, objects: Objects) -> None:
        uri = objects.uri("runs/a", bucket="no-such-bucket")
        for opens in (open_trace, open_traces):
            with pytest.raises(NotATrace, match="no bucket 'no-such-bucket'") as caught:
                opens(uri)
            assert_keeps_secrets(str(caught.value))
        with pytest.raises(NotATrace, match="its bucket holds nothing under that name"):
            open_trace(objects.uri("no/such/run"))

    def test_credentials_that_are_refused(self, objects: Objects, stored: Trace) -> None:
        with objects.answering(lambda _: "403 Forbidden"):
            for opens in (open_trace, open_traces):
                with pytest.raises(TraceError, match=r"run\.json cannot be read: .*credentials"):
                    opens(stored.uri)

    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(TraceError, match=r"run\.json cannot be read: .*the network$"):
            open_trace(f"s3://{KEY}:x@bucket/a?endpoint_override=127.0.0.1:{port}&scheme=http")

    def test_a_server_that_never_answers_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(place, "_SILENT_SECONDS", 1.0)
        monkeypatch.setattr(place, "_ATTEMPTS", 2)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with pytest.raises(TraceError, match=r"run\.json cannot be read: .*Timeout"):
                open_trace(f"s3://{KEY}:x@bucket/a?endpoint_override=127.0.0.1:{port}&scheme=http")
            server.settimeout(0)
            for _ in range(2):
                server.accept()[0].close()
            with pytest.raises(BlockingIOError):
                server.accept()


class TestSecrets:
    def test_stand_in_nothing_that_is_shown(self, objects: Objects, stored: Trace, at: str) -> None:
        traces = open_traces(objects.uri(at))
        for shown in (stored.path, repr(stored), repr(traces), traces.path, repr(stored.place)):
            assert_keeps_secrets(shown)
        assert stored.path == (
            f"s3://***@{BUCKET}/{at}/a?endpoint_override={objects.endpoint}&scheme=http"
        )
        wrong: list[Callable[[], object]] = [
            lambda: stored.matrix(11, "head.weight"),
            lambda: stored.metrics(steps=11),
            lambda: stored.layer("x"),
            lambda: stored.folder(),
            lambda: traces["x"],
            lambda: open_trace(objects.uri(f"{at}/a/metrics")),
            lambda: TraceWriter(stored.uri, stored.info),
            lambda: open_trace(f"{objects.uri(at)}&colour=red"),
            lambda: open_trace(f"s3://{KEY}:{SECRET}@bucket/with blank"),
            lambda: open_trace(f"nope://{KEY}:{SECRET}@bucket/a"),
        ]
        for ask in wrong:
            with pytest.raises((OptgeomError, KeyError)) as caught:
                ask()
            assert_keeps_secrets("".join(traceback.format_exception(caught.value)))

    def test_what_was_shown_is_no_way_in(self, stored: Trace) -> None:
        with pytest.raises(NotATrace, match="was shown without its keys"):
            open_trace(stored.path)

    @pytest.mark.parametrize("user", ["", KEY])
    def test_keys_come_from_the_address_or_from_the_environment(
        self, objects: Objects, stored: Trace, at: str, user: str
    ) -> None:
        asked: list[str] = []
        uri = objects.uri(f"{at}/a")
        if not user:
            uri = f"s3://{uri.partition('@')[2]}"
        with objects.answering(lambda environ: asked.append(environ["HTTP_AUTHORIZATION"])):
            assert open_trace(uri).last_step == 30
        keys = {one.partition("Credential=")[2].partition("/")[0] for one in asked}
        assert keys == {user or "environment"}

    def test_another_process_opens_the_uri(self, stored: Trace) -> None:
        code = (
            "import sys; from optgeom.traces import open_trace; t = open_trace(sys.stdin.read());"
            "print(t.last_step, t.matrix(20, 'head.weight').sum())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=stored.uri,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert done.stdout.split() == ["30", "480.0"]
