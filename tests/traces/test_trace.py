from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.errors import DamagedTrace, NotATrace, NotCaptured, SchemaTooNew
from optgeom.traces.files import listing
from optgeom.traces.files.listing import trace_entries
from optgeom.traces.files.place import Entry, Place
from optgeom.traces.info import LayerInfo, RunInfo, dump
from optgeom.traces.schema import KEYS, Cell
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import sink

MakeCell = Callable[..., Cell]
Record = Callable[..., None]


@pytest.fixture
def trace(trace_path: Path) -> Trace:
    return open_trace(trace_path)


def test_what_it_holds(trace: Trace, info: RunInfo) -> None:
    assert trace.name == "a"
    assert trace.path.endswith("/a")
    assert trace.layers == info.layers
    assert trace.layer("head.weight").kind == "head"
    assert trace.stages == ("momentum", "update")
    assert trace.steps().tolist() == [0, 10, 20, 30]
    assert trace.steps("head.weight", "momentum", "spectra").tolist() == [0, 10, 20, 30]
    assert trace.steps(table="updates").tolist() == [0, 20]
    assert trace.steps(stage="gradient").tolist() == []
    assert trace.steps().dtype == np.int64
    assert trace.last_step == 30
    assert trace.closed
    assert not trace.is_live
    assert trace.size_bytes > 1000
    assert repr(trace) == (
        "<Trace 'a': 3 layers, 4 captured steps 0 to 30, stages momentum, update, closed>"
    )


class TestMetrics:
    def test_joined_wide_keys_first_in_order(self, trace: Trace, info: RunInfo) -> None:
        table = trace.metrics()
        assert table.schema.names[: len(KEYS)] == list(KEYS)
        assert {"neuron_norm_cv", "condition_number", "spectrum_status"} <= set(table.schema.names)
        assert "singular_values" not in table.schema.names
        names = [layer.name for layer in info.layers]
        expected = [
            (step, layer, stage)
            for step in (0, 10, 20, 30)
            for layer in names
            for stage in ("momentum", "update")
        ]
        found = table.select(["step", "layer", "stage"]).to_pylist()
        assert [(row["step"], row["layer"], row["stage"]) for row in found] == expected
        assert table.column("neuron_norm_cv").to_pylist() == [float(s) for s, _, _ in expected]
        assert set(table.column("condition_number").to_pylist()) == {2.0}
        blocks = dict(zip(names, (0, 0, None), strict=True))
        assert table.column("block").to_pylist() == [blocks[layer] for _, layer, _ in expected]

    def test_pandas_gets_categories(self, trace: Trace) -> None:
        frame = trace.metrics().to_pandas()
        assert str(frame["layer"].dtype) == "category"
        assert frame.groupby("kind", observed=True)["neuron_norm_cv"].mean()["head"] == 15.0

    @pytest.mark.parametrize(
        ("filters", "rows"),
        [
            ({"steps": 10}, 6),
            ({"steps": [10, 30]}, 12),
            ({"steps": np.array([10, 30])}, 12),
            ({"steps": np.int64(10)}, 6),
            ({"steps": range(5, 25)}, 12),
            ({"steps": slice(10, None)}, 18),
            ({"steps": slice(None, None, 3)}, 12),
            ({"steps": []}, 0),
            ({"layers": "head.weight"}, 8),
            ({"layers": ("head.weight", "blocks.0.up.weight"), "stages": "update"}, 8),
            ({"stages": ["update", "momentum"], "steps": 0}, 6),
        ],
    )
    def test_filters(self, trace: Trace, filters: dict[str, object], rows: int) -> None:
        assert trace.metrics(**filters).num_rows == rows  # type: ignore[arg-type]  # any filter

    @pytest.mark.parametrize(
        ("filters", "message"),
        [
            ({"steps": 11}, "no step 11 .*captured are 0, 10, 20, 30"),
            ({"layers": "head.wieght"}, "did you mean head.weight"),
            ({"stages": "gradient"}, "there is momentum, update"),
            ({"attempts": "old"}, "'newest' or 'all'"),
        ],
    )
    def test_what_is_not_there(
        self, trace: Trace, filters: dict[str, object], message: str
    ) -> None:
        with pytest.raises(NotCaptured, match=message):
            trace.metrics(**filters)  # type: ignore[arg-type]  # any filter

    def test_cells_of_only_one_table_are_there(
        self, tmp_path: Path, info: RunInfo, cell: MakeCell
    ) -> None:
        with TraceWriter(tmp_path, info) as writer:
            writer.metrics(cell(0), {"neuron_norm_cv": 1.0})
            writer.spectrum(cell(5), None, {"spectrum_status": "lost", "condition_number": None})
        trace = open_trace(tmp_path)
        rows = trace.metrics().to_pylist()
        assert [(r["step"], r["neuron_norm_cv"], r["spectrum_status"]) for r in rows] == [
            (0, 1.0, None),
            (5, None, "lost"),
        ]
        with pytest.raises(NotCaptured, match="is null: lost"):
            trace.spectrum(5, info.layers[0].name)
        assert trace.spectra(info.layers[0].name)[1] == []


class TestArrays:
    def test_spectra(self, trace: Trace) -> None:
        one = trace.spectrum(10, "head.weight")
        assert one.tolist() == [14.0, 13.0, 12.0, 11.0]
        assert one.dtype == np.float64
        steps, arrays = trace.spectra("head.weight", "momentum", steps=slice(10, None))
        assert steps.tolist() == [10, 20, 30]
        assert [array[0] for array in arrays] == [14.0, 24.0, 34.0]

    def test_neurons(self, trace: Trace, norms: Callable[..., np.ndarray]) -> None:
        for layer in trace.layers:
            steps, array = trace.neurons(layer.name)
            assert steps.tolist() == [0, 10, 20, 30]
            assert array.dtype == np.float32
            expected = np.stack([norms(step, layer) for step in steps])
            assert np.array_equal(array, expected)
            assert np.array_equal(trace.neuron_norms(20, layer.name), expected[2])

    def test_what_is_handed_out_may_be_changed(self, trace: Trace) -> None:
        trace.neuron_norms(10, "head.weight")[:] = -1
        trace.spectrum(10, "head.weight")[:] = -1
        assert trace.neuron_norms(10, "head.weight").min() > 0
        assert trace.spectrum(10, "head.weight").min() > 0

    def test_column_blocks_add_up_as_squares_and_missing_rows_are_nan(
        self, tmp_path: Path, info: RunInfo, cell: MakeCell
    ) -> None:
        with TraceWriter(tmp_path, info) as writer:
            writer.neurons(cell(0), np.array([3.0] * 5 + [np.nan]), cols=2)
            writer.neurons(cell(0), np.full(6, 4.0), col_start=2, cols=2)
        found = open_trace(tmp_path).neuron_norms(0, info.layers[0].name)
        assert found[:5].tolist() == [5.0] * 5
        assert np.isnan(found[5:]).all()  # one was measured so, the others were not

    def test_no_such_step(self, trace: Trace) -> None:
        with pytest.raises(NotCaptured, match="captured are 0, 20"):
            trace.matrix(10, "head.weight")
        with pytest.raises(NotCaptured, match=r"no layer 'x'"):
            trace.neuron_norms(10, "x")
        with pytest.raises(NotCaptured, match="no table 'updtes'"):
            trace.steps(table="updtes")

    def test_scalars(self, trace: Trace) -> None:
        table = trace.scalars("loss")
        assert table.schema.names == ["step", "name", "value"]
        assert table.column("value").to_pylist() == [1 / (1 + s) for s in (0, 10, 20, 30)]
        assert trace.scalars("nothing").num_rows == 0
        assert trace.scalars().equals(table)


class TestLive:
    def test_follows_a_run(self, tmp_path: Path, info: RunInfo, record: Record) -> None:
        writer = TraceWriter(tmp_path, info, flush_every=1e6)
        trace = open_trace(tmp_path)
        assert trace.is_live
        assert trace.last_step is None
        assert trace.metrics().num_rows == 0
        assert "empty" in repr(trace)
        for step in range(4):
            record(writer, [step], raw=(step,))
            writer.flush()
            before = trace.version
            assert trace.refresh()
            assert trace.version != before
            assert not trace.refresh()
            assert trace.steps().tolist() == [*range(step + 1)]
            assert len(list(trace.matrices())) == 6 * (step + 1)
        writer.close()
        assert trace.refresh()
        assert trace.closed
        assert trace.metrics().num_rows == 24
        assert len(trace.scalars()) == 4

    def test_reads_only_what_is_new(self, tmp_path: Path, info: RunInfo, record: Record) -> None:
        with TraceWriter(tmp_path, info) as writer:
            record(writer, [0])
        trace = open_trace(tmp_path)
        assert trace.last_step == 0
        sealed = set(tmp_path.rglob("*.parquet"))
        with TraceWriter(tmp_path, info, start_step=1) as writer:
            record(writer, [1])
            writer.flush()
            for path in sealed:
                path.write_bytes(path.read_bytes()[:-1] + b"x")
            trace.refresh()
            assert trace.steps().tolist() == [0, 1]

    def test_no_row_is_missed_or_doubled_while_streams_are_sealed(
        self, tmp_path: Path, info: RunInfo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sink, "SEAL_ROWS", 7)
        writer = TraceWriter(tmp_path, info, flush_every=0.0)
        trace, seen = open_trace(tmp_path), 0
        for step in range(600):
            writer.scalar(step, "loss", float(step))
            if step % 50 == 0:
                writer.flush()
            if step % 5 == 0:
                trace.refresh()
                steps = trace.scalars("loss").column("step").to_pylist()
                assert steps == [*range(len(steps))]
                assert len(steps) >= seen
                seen = len(steps)
        writer.close()
        assert writer.failure is None
        trace.refresh()
        assert trace.scalars("loss").num_rows == 600
        assert len(list((tmp_path / "scalars").iterdir())) > 10

    def test_a_listing_that_was_made_while_a_stream_was_sealed(
        self, tmp_path: Path, info: RunInfo, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such a listing may show neither the stream nor its segment."""
        calls: list[int] = []

        def sometimes_blind(place: Place) -> dict[str, Entry]:
            calls.append(1)
            entries = trace_entries(place)
            blind = len(calls) == 2
            return {path: one for path, one in entries.items() if "/" not in path or not blind}

        with TraceWriter(tmp_path, info) as writer:
            record(writer, [0])
            writer.flush()
            monkeypatch.setattr(listing, "trace_entries", sometimes_blind)
            assert open_trace(tmp_path).metrics().num_rows == 6

    def test_a_batch_counts_once_its_checksum_is_there(self, tmp_path: Path, info: RunInfo) -> None:
        with TraceWriter(tmp_path, info) as writer:
            for step in (0, 1):
                writer.scalar(step, "loss", 0.5)
                writer.flush()
            (sums,) = (tmp_path / "scalars").glob("*.sums")
            whole = sums.read_bytes()
            sums.write_bytes(whole[:-1])
            trace = open_trace(tmp_path)
            assert trace.last_step == 0
            sums.write_bytes(whole)
            assert trace.refresh()
            assert trace.last_step == 1

    def test_a_run_that_has_been_still_for_long_is_not_live(
        self, tmp_path: Path, info: RunInfo
    ) -> None:
        with TraceWriter(tmp_path, info):
            trace = open_trace(tmp_path)
            assert trace.is_live
            os.utime(tmp_path / "run.json", (1e9, 1e9))
            trace.refresh()
            assert not trace.is_live
            assert not trace.closed

    def test_other_files_beside_a_trace_are_not_its_own(self, trace_path: Path) -> None:
        trace = open_trace(trace_path)
        size = trace.size_bytes
        (trace_path / "checkpoints").mkdir()
        (trace_path / "checkpoints" / "a0000-r00000-s000000.parquet").write_text("not ours")
        (trace_path / "model.pt").write_text("weights")
        assert not trace.refresh()
        assert trace.size_bytes == size

    def test_a_stream_that_was_sealed_is_not_read_twice(
        self, tmp_path: Path, info: RunInfo, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after a death between the rename of a segment and the removal of its stream."""
        monkeypatch.setattr(sink.WriteAhead, "remove", sink.WriteAhead.close)
        with TraceWriter(tmp_path, info) as writer:
            record(writer, [0, 1])
        assert len(list((tmp_path / "metrics").iterdir())) == 3
        trace = open_trace(tmp_path)
        assert trace.metrics(attempts="all").num_rows == 12
        assert len(trace.scalars()) == 2

    def test_a_file_that_goes_while_it_is_read(
        self, tmp_path: Path, info: RunInfo, record: Record
    ) -> None:
        writer = TraceWriter(tmp_path, info)
        record(writer, [0, 1])
        writer.flush()
        trace = open_trace(tmp_path)
        writer.close()
        assert trace.metrics().num_rows == 12


class TestDamage:
    @pytest.mark.parametrize("table", ["metrics", "spectra", "neurons", "scalars", "updates"])
    @pytest.mark.parametrize("change", ["cut", "flip"])
    def test_names_the_file(self, trace_path: Path, table: str, change: str) -> None:
        victim = min((trace_path / table).iterdir())
        data = bytearray(victim.read_bytes())
        if change == "cut":
            del data[-20:]
        else:
            data[len(data) // 3] ^= 4
        victim.write_bytes(data)
        trace = open_trace(trace_path)
        ask = {
            "metrics": trace.metrics,
            "spectra": lambda: trace.spectra("head.weight"),
            "neurons": lambda: trace.neurons("head.weight"),
            "scalars": trace.scalars,
            "updates": lambda: list(trace.matrices()),
        }
        with pytest.raises(DamagedTrace, match=victim.name):
            ask[table]()

    def test_run_json(self, trace_path: Path, info: RunInfo) -> None:
        (trace_path / "run.json").write_bytes(dump(info)[:-10])
        with pytest.raises(DamagedTrace, match=r"run\.json"):
            open_trace(trace_path)
        (trace_path / "run.json").write_bytes(dump(replace(info, schema=3)))
        with pytest.raises(SchemaTooNew, match="newer optgeom"):
            open_trace(trace_path)

    def test_a_stream_without_its_sums(self, tmp_path: Path, info: RunInfo, cell: MakeCell) -> None:
        with TraceWriter(tmp_path, info) as writer:
            writer.metrics(cell(0), {})
            writer.flush()
            (sums,) = (tmp_path / "metrics").glob(".*.sums")
            data = sums.read_bytes()
            sums.unlink()
            with pytest.raises(DamagedTrace, match="sums file beside it is missing"):
                open_trace(tmp_path).metrics()
            sums.write_bytes(data)


class TestOpen:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(NotATrace, match="is no folder"):
            open_trace(tmp_path / "nope")

    def test_no_trace(self, tmp_path: Path) -> None:
        with pytest.raises(NotATrace, match=r"holds no run\.json"):
            open_trace(tmp_path)

    def test_several(self, trace_path: Path) -> None:
        with pytest.raises(NotATrace, match=r"folder of traces \(a\): open one of them, or all"):
            open_trace(trace_path.parent)

    def test_unknown_scheme(self) -> None:
        with pytest.raises(NotATrace, match="nope://"):
            open_trace("nope://x/y")

    def test_by_uri(self, trace_path: Path) -> None:
        trace = open_trace(trace_path.as_uri())
        assert trace.metrics().equals(open_trace(trace_path).metrics())
        assert trace.matrix(0, "head.weight").shape == (6, 4)

    def test_layers_beyond_run_json_come_last(
        self, tmp_path: Path, info: RunInfo, cell: MakeCell, layers: tuple[LayerInfo, ...]
    ) -> None:
        extra = replace(layers[0], name="another.weight")
        with TraceWriter(tmp_path, info) as writer:
            for layer in (extra, *reversed(layers)):
                writer.metrics(cell(0, layer), {})
        found = open_trace(tmp_path).metrics().column("layer").to_pylist()
        assert found == [*(layer.name for layer in layers), "another.weight"]
