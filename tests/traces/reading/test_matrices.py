"""Raw matrices, from the blocks that ranks wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.errors import NotCaptured
from optgeom.traces.info import RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import sink

MakeCell = Callable[..., Cell]
Record = Callable[..., None]


@pytest.fixture
def trace(trace_path: Path) -> Trace:
    return open_trace(trace_path)


class TestMatrices:
    def test_in_order(self, trace: Trace) -> None:
        found = [(key.step, key.layer, key.stage) for key, _ in trace.matrices()]
        names = [layer.name for layer in trace.layers]
        assert found == [
            (step, name, stage)
            for step in (0, 20)
            for name in names
            for stage in ("momentum", "update")
        ]
        only = list(trace.matrices(stages="update", layers=["head.weight"], steps=20))
        assert [key for key, _ in only] == [Cell(20, "adam", "head.weight", "head", None, "update")]
        assert np.array_equal(only[0][1], np.full((6, 4), 20, np.float32))
        assert only[0][1].flags.writeable

    @pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
    def test_element_types(self, tmp_path: Path, info: RunInfo, cell: MakeCell, dtype: str) -> None:
        matrix = np.random.default_rng(0).standard_normal((8, 4)).astype(dtype)
        with TraceWriter(tmp_path, info) as writer:
            writer.update(cell(0), matrix, dtype=dtype)
            writer.update(cell(1), matrix.T.copy().T, dtype=dtype)
            writer.update(cell(2), matrix.tobytes(), dtype=dtype, rows=8)
        trace = open_trace(tmp_path)
        for step in (0, 1, 2):
            assert np.array_equal(
                trace.matrix(step, info.layers[0].name), matrix.astype(np.float32)
            )

    def test_bfloat16_comes_as_uint16(self, tmp_path: Path, info: RunInfo, cell: MakeCell) -> None:
        exact = np.array([[1.5, -2.0, 0.0, 96.0]] * 8, np.float32)
        halves = (exact.view(np.uint32) >> 16).astype(np.uint16)
        with TraceWriter(tmp_path, info) as writer:
            writer.update(cell(0), halves, dtype="bfloat16")
        assert np.array_equal(open_trace(tmp_path).matrix(0, info.layers[0].name), exact)

    def test_blocks_are_assembled(
        self, tmp_path: Path, info: RunInfo, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sink, "BLOCK_BYTES", 40)
        monkeypatch.setattr(sink, "GROUP_BYTES", 64)
        whole = np.arange(32, dtype=np.float32).reshape(8, 4)
        with TraceWriter(tmp_path, info) as writer:
            writer.update(cell(0), whole)
            writer.update(cell(1), whole[:, :1].copy())
            writer.update(cell(1), whole[:5, 1:].copy(), col_start=1)
            writer.update(cell(1), whole[5:, 1:].copy(), row_start=5, col_start=1)
        trace = open_trace(tmp_path)
        assert np.array_equal(trace.matrix(0, info.layers[0].name), whole)
        assert np.array_equal(trace.matrix(1, info.layers[0].name), whole)

    def test_an_incomplete_matrix_is_not_there(
        self, tmp_path: Path, info: RunInfo, cell: MakeCell
    ) -> None:
        with TraceWriter(tmp_path, info) as writer:
            writer.update(cell(0), np.zeros((3, 4), np.float32), row_start=5)
            for start in (0, 1, 6):  # as many entries as 8 rows have, twice one and not another
                rows = 2 if start == 6 else 3
                writer.update(cell(1), np.zeros((rows, 4), np.float32), row_start=start)
        for step in (0, 1):
            with pytest.raises(NotCaptured, match="incomplete"):
                open_trace(tmp_path).matrix(step, info.layers[0].name)

    @pytest.mark.parametrize("rows", [1, 5])
    def test_the_last_blocks_are_missed_too(
        self, tmp_path: Path, info: RunInfo, cell: MakeCell, rows: int
    ) -> None:
        """The blocks that are there do not know of them; the layer's shape does."""
        second = cell(2, info.layers[0], "second_moment")
        with TraceWriter(tmp_path, info) as writer:
            writer.update(cell(0), np.zeros((rows, 4), np.float32))
            writer.update(cell(1), np.zeros((8, 2), np.float32))
            writer.update(second, np.zeros((rows, 1), np.float32))
        trace = open_trace(tmp_path)
        name = info.layers[0].name
        for step, stage in ((0, "update"), (1, "update"), (2, "second_moment")):
            said = f"{name} {stage} at step {step} is incomplete: 1 of its blocks"
            with pytest.raises(NotCaptured, match=said):
                trace.matrix(step, name, stage)
            with pytest.raises(NotCaptured, match=said):
                list(trace.matrices(stages=stage, steps=step))

    @pytest.mark.parametrize("shape", [(8, 1), (1, 4), (8, 4)])
    def test_a_second_moment_has_one_number_per_neuron_or_entry(
        self, tmp_path: Path, info: RunInfo, cell: MakeCell, shape: tuple[int, int]
    ) -> None:
        key = cell(0, info.layers[0], "second_moment")
        with TraceWriter(tmp_path, info) as writer:
            writer.update(key, np.ones(shape, np.float32))
        assert open_trace(tmp_path).matrix(0, key.layer, "second_moment").shape == shape
