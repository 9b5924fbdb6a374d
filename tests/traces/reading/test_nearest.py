"""One matrix of a long trace costs few segments, whatever the order that steps were written in."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optgeom.traces.errors import NotCaptured
from optgeom.traces.info import RunInfo
from optgeom.traces.reading import parts
from optgeom.traces.reading.sealed import SealedPart
from optgeom.traces.schema import Cell
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter

MakeCell = Callable[..., Cell]
COUNT = 66


def written(folder: Path, info: RunInfo, cell: MakeCell, steps: list[int], ranks: int = 1) -> Path:
    """One segment per rank and step; every entry of a matrix is its step."""
    writers = [TraceWriter(folder, info, rank=rank) for rank in range(ranks)]
    for step in steps:
        for rank, writer in enumerate(writers):
            half = np.full((8 // ranks, 4), step, np.float32)
            writer.update(cell(step), half, row_start=rank * len(half))
            writer.end_step(step)
    for writer in reversed(writers):
        writer.close()
    assert len(list((folder / "updates").glob("*.parquet"))) == len(steps) * ranks
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The segments that were opened, as they come."""
    names: list[str] = []

    class Counted(SealedPart):
        def __init__(self, source: Any, name: Any, path: str, *more: Any) -> None:
            names.append(path)
            super().__init__(source, name, path, *more)

    monkeypatch.setattr(parts, "SealedPart", Counted)
    return names


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_first_matrix_opens_few_segments(
    tmp_path: Path, info: RunInfo, cell: MakeCell, opened: list[str], ranks: int
) -> None:
    steps = [*range(0, 20 * COUNT, 20)]
    folder = written(tmp_path / "a", info, cell, steps, ranks)
    layer = info.layers[0].name
    for step in (0, steps[-1], steps[37]):
        opened.clear()
        matrix = open_trace(folder).matrix(step, layer)
        assert np.array_equal(matrix, np.full((8, 4), step, np.float32))
        assert 1 <= len(opened) <= 8 * ranks  # 2 ** 7 > 66
    trace = open_trace(folder)
    opened.clear()
    for step in random.Random(0).sample(steps, len(steps)):
        assert trace.matrix(step, layer)[0, 0] == step
    assert [key.step for key, _ in trace.matrices(stages="update", layers=[layer])] == steps
    assert sorted(opened) == sorted(set(opened))  # none twice, whatever was asked before


def test_what_is_not_there_is_said_as_ever(tmp_path: Path, info: RunInfo, cell: MakeCell) -> None:
    trace = open_trace(written(tmp_path / "a", info, cell, [0, 20, 40]))
    with pytest.raises(NotCaptured, match=r"at step 21: .*20.*40"):
        trace.matrix(21, info.layers[0].name)
    with pytest.raises(NotCaptured, match="no layer 'nothing'"):
        trace.matrix(20, "nothing")


def test_steps_may_come_in_any_order(tmp_path: Path, info: RunInfo, cell: MakeCell) -> None:
    steps = random.Random(1).sample(range(COUNT), 12)
    folder = written(tmp_path / "a", info, cell, steps)
    for step in steps:
        assert open_trace(folder).matrix(step, info.layers[0].name)[0, 0] == step
