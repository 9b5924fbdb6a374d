"""What was captured is in files after `flush`, and within `flush_every` without it."""

from __future__ import annotations

import math
import time

import pytest
import torch

import optgeom
from optgeom.hooks import WatchError, watch


def test_flush_waits_until_everything_is_in_files(tmp_path, bag, watched, train) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watched(model, optimizer, flush_every=1e6)
    train(model, optimizer, range(3))
    recorder.log(loss=1.0)
    recorder.flush()
    trace = optgeom.open_trace(tmp_path / "trace")
    assert not trace.closed
    for table in ("metrics", "spectra", "neurons", "updates"):
        assert trace.steps(table=table).tolist() == [0, 1, 2], table
    assert trace.scalars("loss").num_rows == 1
    recorder.close()
    recorder.flush()  # nothing is left to do


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
