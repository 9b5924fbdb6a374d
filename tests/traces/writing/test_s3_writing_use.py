"""Wrong use of an object store, secrets, and uploads by hand."""

from __future__ import annotations

import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from optgeom.traces.errors import NotATrace, TraceError, TraceExists
from optgeom.traces.files import place
from optgeom.traces.info import RUN_FILE, RunInfo
from optgeom.traces.keeping.upload import upload
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import spool
from tests.traces.objects import BUCKET, KEY, SECRET, Environ, Objects
from tests.traces.stores import UNAVAILABLE, away, is_write, let_mirrors_end, same_records, spools
from tests.traces.test_s3 import assert_keeps_secrets

Record = Callable[..., None]

pytestmark = pytest.mark.usefixtures("quick")


class TestWrongUse:
    def test_raises_where_it_is_attached_and_leaves_nothing(
        self, objects: Objects, uri: str, info: RunInfo, tmp_path: Path, record: Record
    ) -> None:
        with TraceWriter(uri, info) as writer:
            record(writer, [0])
        before, running = objects.names(""), set(threading.enumerate())
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        nobody = f"s3://{KEY}:x@bucket/a?endpoint_override=127.0.0.1:{port}&scheme=http"
        other = replace(info, layers=(replace(info.layers[0], shape=(9, 9)),))
        new = uri.replace("/a?", "/new?")
        wrong: list[tuple[type[Exception], str, Callable[[], object]]] = [
            (TraceExists, "another folder.*start_step=N", lambda: TraceWriter(uri, info)),
            (TraceError, r"\(9, 9\) here", lambda: TraceWriter(uri, other, start_step=1)),
            (
                TraceError,
                "no bucket 'none'.*make it",
                lambda: TraceWriter(objects.uri("a", bucket="none"), info),
            ),
            (TraceError, "cannot be read: .*the network", lambda: TraceWriter(nobody, info)),
            (
                TraceError,
                r"run\.json cannot hold",
                lambda: TraceWriter(new, replace(info, config={"a": {(1, 2): 3}})),
            ),
            (NotATrace, "cannot be opened", lambda: TraceWriter("nope://bucket/a", info)),
            (
                TraceError,
                "attempt=",
                lambda: TraceWriter(uri, info, rank=1, start_step=20),
            ),
        ]
        for kind, says, make in wrong:
            with pytest.raises(kind, match=says) as caught:
                make()
            assert_keeps_secrets("".join(traceback.format_exception(caught.value)))
        with away(objects, "403 Forbidden"), pytest.raises(TraceError, match="credentials"):
            TraceWriter(new, info)
        assert objects.names("") == before
        assert spools(tmp_path) == []
        left = set(threading.enumerate()) - running
        assert not [one for one in left if one.name.startswith("optgeom-")]

    def test_a_store_that_may_be_read_alone(
        self, objects: Objects, uri: str, info: RunInfo, tmp_path: Path
    ) -> None:
        def read_only(environ: Environ) -> str | None:
            return "403 Forbidden" if is_write(environ) else None

        with (
            objects.answering(read_only),
            pytest.raises(TraceError, match=r"cannot be written: .*ACCESS_DENIED.*credentials"),
        ):
            TraceWriter(uri, info)
        assert spools(tmp_path) == []

    def test_a_run_that_is_written_here(self, uri: str, info: RunInfo) -> None:
        with (
            TraceWriter(uri, info),
            pytest.raises(TraceError, match=r"is being written by process \d+ on .*: end that"),
        ):
            TraceWriter(uri, info, start_step=1)

    def test_two_that_begin_at_once(self, objects: Objects, uri: str, info: RunInfo) -> None:
        """Both of them see no run.json, and neither is seen by a lock: two machines."""
        both = threading.Barrier(2, timeout=20)
        claimed: set[str] = set()

        def wait(environ: Environ) -> None:
            path = environ["PATH_INFO"]
            if environ["REQUEST_METHOD"] == "PUT" and ".claim-" in path and len(claimed) < 2:
                claimed.add(path)
                both.wait()

        from optgeom.traces.files.place import find
        from optgeom.traces.writing.attempts import begin

        found: list[object] = []
        places = [find(uri), find(uri)]

        def make(number: int) -> None:
            try:
                found.append(begin(places[number], replace(info, run=f"run-{number}"), None))
            except TraceExists as error:
                found.append(error)

        threads = [threading.Thread(target=make, args=(one,)) for one in range(2)]
        with objects.answering(wait):
            for one in threads:
                one.start()
            for one in threads:
                one.join(60)
        (won,) = [one for one in found if isinstance(one, RunInfo)]
        (lost,) = [one for one in found if isinstance(one, TraceExists)]
        assert open_trace(uri).info == won
        assert lost is not won
        assert not [one for one in objects.names("") if ".claim-" in one]


class TestSecrets:
    def test_stand_nowhere(
        self,
        objects: Objects,
        uri: str,
        info: RunInfo,
        record: Record,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        elsewhere = f"s3://{KEY}:{SECRET}@bucket/data"
        told = replace(
            info,
            run=uri,
            command=("train.py", "--out", uri, f"--data={elsewhere}", SECRET),
            capture={"out": uri},
            config={"out": [uri], "where": {uri: Path("x")}, "object": SimpleNamespace(uri=uri)},
        )
        shown: list[str] = []
        writer = TraceWriter(uri, told, flush_every=0.01, close_within=0.1)
        record(writer, [0], raw=(0,))
        writer.amend(config={"resumed_from": uri})
        writer.flush()
        writer.catch_up(20)
        with away(objects, "403 Forbidden") as refused:
            record(writer, [10], raw=(10,))
            writer.flush()
            assert refused.wait(20)
            writer.close(RuntimeError(f"cannot load {uri}: {SECRET}"))
        shown += [repr(writer), repr(writer.place), str(writer.path)]
        servers = ("moto", "botocore", "werkzeug")  # they run in this process
        shown += [repr(one.__dict__) for one in caplog.records if not one.name.startswith(servers)]
        let_mirrors_end()
        files = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
        assert len(files) > 5
        shown += [repr(upload(writer.path, uri))]
        for name in objects.names(writer.place.root.partition("/")[2]):
            with objects.filesystem.open_input_file(name) as opened:
                files[Path(name)] = opened.readall()
        trace = open_trace(uri)
        assert trace.info.config == {"resumed_from": trace.path}
        assert (trace.failed or "").startswith("RuntimeError: cannot load s3://***@bucket/")
        for path, data in files.items():
            assert_keeps_secrets(str(path))
            for secret in (KEY, SECRET, SECRET.replace("/", "%2F")):
                assert secret.encode() not in data, path
        for text in shown:
            assert_keeps_secrets(text)

    def test_of_the_environment_neither(
        self, tmp_path: Path, info: RunInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with TraceWriter(tmp_path / "a", replace(info, config={"environ": [SECRET]})) as writer:
            assert writer.info.config == {"environ": ["***"]}
        assert SECRET not in (tmp_path / "a" / RUN_FILE).read_text()


class TestUpload:
    def test_a_local_trace(
        self, objects: Objects, uri: str, trace_path: Path, info: RunInfo, record: Record
    ) -> None:
        done = upload(trace_path, uri)
        assert (done.files, done.same, done.removed) == (7, 0, False)
        same_records(open_trace(uri), open_trace(trace_path))
        assert open_trace(uri).info == open_trace(trace_path).info
        with objects.counted() as asked:
            again = upload(trace_path, uri)
        assert (again.files, again.bytes, again.same) == (0, 0, 7)
        assert not [one for one in asked if one[0] == "PUT"]
        with TraceWriter(trace_path, info, start_step=40, flush_every=1e6) as writer:
            record(writer, [40], raw=(40,))
            writer.flush()
            live = upload(trace_path, uri)
            assert live.files > 4
            trace = open_trace(uri)
            assert trace.steps().tolist() == [0, 10, 20, 30, 40]
            assert not trace.closed
            assert upload(trace_path, uri).same == live.files + live.same
        assert upload(trace_path, uri).files > 0
        assert trace.refresh()
        assert trace.closed
        same_records(trace, open_trace(trace_path))
        assert not [one for one in objects.names("test_a_local_trace") if "/.wal-" in one]

    def test_goes_on_after_a_failure(self, objects: Objects, uri: str, trace_path: Path) -> None:
        puts: list[str] = []

        def fail(environ: Environ) -> str | None:
            if environ["REQUEST_METHOD"] == "PUT":
                puts.append(environ["PATH_INFO"])
            return UNAVAILABLE if len(puts) == 5 else None

        with objects.answering(fail), pytest.raises(TraceError, match="cannot be written"):
            upload(trace_path, uri)
        trace = open_trace(uri)
        assert not trace.closed
        done = upload(trace_path, uri)
        assert done.same == 2
        same_records(open_trace(uri), open_trace(trace_path))

    def test_two_runs_are_not_mixed(
        self, uri: str, trace_path: Path, tmp_path: Path, info: RunInfo
    ) -> None:
        upload(trace_path, uri)
        TraceWriter(tmp_path / "b", replace(info, run="b")).close()
        with pytest.raises(TraceError, match=r"holds another run \(a, made .*\), not b, made"):
            upload(tmp_path / "b", uri)
        with pytest.raises(TraceError, match="is a local folder"):
            upload(trace_path, str(tmp_path / "x"))
        with pytest.raises(NotATrace, match="neither a trace nor a spool"):
            upload(tmp_path, uri)


def test_a_spool_in_a_folder_of_others_is_refused(uri: str, info: RunInfo, tmp_path: Path) -> None:
    (tmp_path / "temporary" / f"optgeom-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / "temporary" / f"optgeom-{os.getuid()}").chmod(0o777)
    with pytest.raises(TraceError, match=r"may be written by others.*TMPDIR"):
        TraceWriter(uri, info)


def test_the_place_of_a_spool_has_no_keys(uri: str) -> None:
    first = spool.home_of(place.find(uri))
    assert_keeps_secrets(str(first))
    elsewhere = spool.home_of(place.find(uri.replace("/a?", "/b/a?")))
    assert first.name != elsewhere.name
    assert first.parent == elsewhere.parent
    assert BUCKET not in first.name
