"""A store that takes requests and answers none: what somebody who waits for it is told."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optgeom.traces.errors import TraceError
from optgeom.traces.files import place
from optgeom.traces.info import RunInfo
from optgeom.traces.keeping.upload import upload
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import mirror
from tests.traces.objects import Environ, Objects
from tests.traces.stores import let_mirrors_end, same_records, spools

Record = Callable[..., None]

pytestmark = pytest.mark.usefixtures("quick")


@contextmanager
def silent(objects: Objects) -> Iterator[None]:
    """No request is answered before the end of the block."""
    answers = threading.Event()

    def hang(_: Environ) -> None:
        answers.wait(60)

    with objects.answering(hang):
        try:
            yield
        finally:
            answers.set()


class Interrupts(logging.Handler):
    """Somebody who presses Ctrl-C a moment after the message that the end waits."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("waiting up to"):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()


@pytest.fixture
def interrupts() -> Iterator[None]:
    handler = Interrupts()
    logging.getLogger("optgeom").addHandler(handler)
    # a job that a shell has put behind ignores Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    logging.getLogger("optgeom").removeHandler(handler)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_ends_the_wait_and_says_where_the_records_lie(
    objects: Objects,
    uri: str,
    tmp_path: Path,
    trace_path: Path,
    info: RunInfo,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mirror, "_QUIET_SECONDS", 0.05)
    writer = TraceWriter(uri, info, flush_every=0.01)
    assert writer.catch_up(20)
    with silent(objects):
        record(writer, [0, 10, 20, 30], raw=(0, 20))
        with pytest.raises(KeyboardInterrupt):
            writer.close()
        (left,) = spools(tmp_path)
        waits, last = [one.getMessage() for one in caplog.records if "kB" in one.getMessage()]
        assert waits.startswith(f"waiting up to 60 s for {writer.place.shown} (")
        assert waits.endswith(f"records are safe in {left}, Ctrl-C leaves them there")
        assert "(the wait was broken off; a request under way may hold the process" in last
        assert f"optgeom trace upload {left} '{writer.place.shown}'" in last
        # as the interpreter does at its exit
        said = len(caplog.records)
        writer.close()
        assert len(caplog.records) == said
    let_mirrors_end()
    assert len(caplog.records) == said
    upload(left, uri)
    same_records(open_trace(uri), open_trace(trace_path))


def test_one_that_answers_soon_is_waited_for_without_a_word(
    uri: str, info: RunInfo, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    with TraceWriter(uri, info) as writer:
        record(writer, [0])
    assert "waiting" not in caplog.text


def test_where_a_run_begins_it_is_asked_one_question(
    objects: Objects, uri: str, info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_SILENT_SECONDS", 1.0)
    no_answer = pytest.raises(TraceError, match=r"run\.json cannot be read: .*the network")
    with silent(objects), objects.counted() as asked, no_answer:
        TraceWriter(uri, info)
    assert [method for method, _ in asked] == ["HEAD"]
    assert asked[0][1].endswith("/run.json")
