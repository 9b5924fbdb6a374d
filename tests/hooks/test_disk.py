"""Raw matrices stop before they take a tenth of the space that was free at the start."""

from __future__ import annotations

import logging
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from optgeom.hooks.disk import room_for_updates
from optgeom.traces.writing.sink import RawLog

Usage = namedtuple("Usage", "total used free")
SHAPES = {"tall": (120, 50), "wide": (60, 90)}
ONE = 4 * (120 * 50 + 60 * 90)


def folder_bytes(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def test_the_room_is_a_tenth_of_what_is_free(tmp_path: Path) -> None:
    assert room_for_updates(tmp_path) == pytest.approx(shutil.disk_usage(tmp_path).free / 10, 0.1)


@pytest.mark.parametrize("captures", [0, 3])
def test_raw_matrices_stop_and_geometry_goes_on(
    captures: int, watched, bag, train, opened, tmp_path, monkeypatch, caplog
) -> None:
    room = int((captures + 0.8) * ONE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10 * room))
    model = bag(shapes=SHAPES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        caplog.at_level(logging.WARNING, logger="optgeom"),
        watched(model, optimizer, every=2, updates_every=2) as recorder,
    ):
        train(model, optimizer, range(10))
        recorder.capture_next()  # whole, but for what there is no room for
        train(model, optimizer, range(10, 13))
        assert recorder.failure is None
        counted = recorder._writer.raw_bytes
    trace = opened()
    assert trace.steps("tall").tolist() == trace.steps("tall", table="spectra").tolist()
    assert trace.steps("tall").tolist() == [0, 2, 4, 6, 8, 10, 12]
    stored = [0, 2, 4][:captures]
    assert (trace.steps("tall", table="updates").tolist() if captures else []) == stored
    said = [one for one in caplog.messages if "raw matrices end" in one]
    assert len(said) == 1
    assert trace.scalars("updates_stopped").select(["step", "value"]).to_pylist() == [
        {"step": 2 * captures, "value": 1.0}
    ]
    assert trace.info.capture["updates_stopped"] == 2 * captures
    real = folder_bytes(tmp_path / "trace" / "updates") if captures else 0
    assert real <= 1.02 * room
    assert captures * ONE <= counted == pytest.approx(real, rel=0.1)


def test_what_is_counted_is_what_was_submitted_by_every_stage(
    watched, bag, train, tmp_path, monkeypatch
) -> None:
    sealed: list[int] = []
    end_step = RawLog.end_step

    def note(self: Any, step: int) -> None:
        end_step(self, step)
        sealed.append(self.bytes_written)

    monkeypatch.setattr(RawLog, "end_step", note)
    model = bag(shapes=SHAPES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # SGD without momentum yields no momentum: what is not stored is not counted
    with watched(model, optimizer, stages=("gradient", "momentum", "update")) as recorder:
        train(model, optimizer, range(3))
    assert recorder._writer.raw_bytes == pytest.approx(3 * 2 * ONE, rel=0.05)
    assert recorder._writer.raw_bytes == pytest.approx(max(sealed), rel=0.1)
