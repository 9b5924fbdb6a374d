"""What was captured is in files after `flush`, and within `flush_every` without it."""

from __future__ import annotations

import math
import time

import pytest
import torch

import optgeom
from optgeom.hooks import WatchError, watch
from optgeom.traces.format.wal import WriteAhead


def test_flush_waits_until_everything_is_in_files(tmp_path, bag, watched, train) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watched(model, optimizer, flush_every=1e6)
    train(model, optimizer, range(3))
    recorder.log(loss=1.0)
    assert recorder.flush()
    trace = optgeom.open_trace(tmp_path / "trace")
    assert not trace.closed
    for table in ("metrics", "spectra", "neurons", "updates"):
        assert trace.steps(table=table).tolist() == [0, 1, 2], table
    assert trace.scalars("loss").num_rows == 1
    recorder.close()
    assert recorder.flush()  # nothing is left to do


@pytest.mark.parametrize("strict", [False, True])
def test_flush_tells_that_the_capture_has_stopped(
    tmp_path, bag, watched, train, monkeypatch, strict: bool
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watched(model, optimizer, flush_every=1e6, strict=strict)
    train(model, optimizer, range(1))
    monkeypatch.setattr(WriteAhead, "append", fail)
    recorder.log(loss=1.0)
    if strict:
        with pytest.raises(OSError, match="No space left"):
            recorder.flush()
    assert not recorder.flush()
    recorder.close()
    assert not recorder.flush()


def test_nobody_has_to_ask_for_a_flush(tmp_path, bag, watched, train) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched(model, optimizer, flush_every=0.05)
    train(model, optimizer, range(3))
    end = time.monotonic() + 60
    trace = optgeom.open_trace(tmp_path / "trace")
    while len(trace.steps()) < 3 and time.monotonic() < end:
        time.sleep(0.01)
        trace.refresh()
    assert trace.steps().tolist() == [0, 1, 2]


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_flush_every_is_a_time(tmp_path, bag, wrong: float) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(WatchError, match="flush_every must be a number of seconds"):
        watch(model, optimizer, tmp_path / "trace", flush_every=wrong)
    assert not list(tmp_path.iterdir())
