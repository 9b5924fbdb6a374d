"""Any rows that go in come out, whatever the flushing, the sealing and the order."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.schema import STAGES, Cell
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter

COLUMNS = {
    "metrics": {"x": "float64", "n": "int64", "flag": "bool", "word": "string"},
    "spectra": {"y": "float32"},
}
NAMES = ["w", "blocks.0.Gewöhnung", "名前[q]", 'a"b\\c']
LAYERS = tuple(LayerInfo(name, "other", None, (3, 2), "float32", "o", 0) for name in NAMES)

numbers = st.none() | st.floats(width=64)
words = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
singles = st.floats(width=32)


@dataclass(frozen=True)
class Row:
    x: float | None
    n: int | None
    flag: bool | None
    word: str | None
    y: float | None
    values: list[float] | None
    norms: list[float]


Records = dict[tuple[int, str, str], Row]

rows = st.builds(
    Row,
    numbers,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.booleans(),
    words,
    st.none() | singles,
    st.none() | st.lists(singles, max_size=4),
    st.lists(singles, min_size=3, max_size=3),
)
cells = st.tuples(st.integers(0, 2**40), st.sampled_from(NAMES), st.sampled_from(STAGES))


@settings(max_examples=25, deadline=None)
@given(
    records=st.dictionaries(cells, rows, max_size=12),
    flushes=st.sets(st.integers(0, 12)),
    closed=st.booleans(),
)
def test_round_trip(
    records: dict[tuple[int, str, str], Row], flushes: set[int], closed: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = TraceWriter(Path(folder), RunInfo("r", layers=LAYERS, columns=COLUMNS))
        for count, ((step, layer, stage), row) in enumerate(records.items()):
            key = Cell(step, "o", layer, "other", None, stage)
            writer.metrics(key, {"x": row.x, "n": row.n, "flag": row.flag, "word": row.word})
            values = None if row.values is None else np.array(row.values)
            writer.spectrum(key, values, {"y": row.y})
            writer.neurons(key, np.array(row.norms))
            writer.update(key, np.array(row.norms * 2, np.float32).reshape(3, 2))
            if count in flushes:
                writer.end_step(step)
                writer.flush()
        writer.flush()
        if closed:
            writer.close()
        check(Path(folder), records, raw=closed)
        writer.close()
        assert not writer.dropped
        assert writer.failure is None


def check(folder: Path, records: Records, *, raw: bool) -> None:
    trace = open_trace(folder)
    table = trace.metrics()
    keys = table.select(["step", "layer", "stage"]).to_pylist()
    found = [(one["step"], one["layer"], one["stage"]) for one in keys]
    rank = {name: number for number, name in enumerate(NAMES)}
    order = {stage: number for number, stage in enumerate(STAGES)}
    assert found == sorted(records, key=lambda one: (one[0], rank[one[1]], order[one[2]]))
    for key, shown in zip(found, table.to_pylist(), strict=True):
        row = records[key]
        assert all(
            same(shown[name], getattr(row, name)) for name in ("x", "n", "flag", "word", "y")
        )
        step, layer, stage = key
        assert np.array_equal(
            trace.neuron_norms(step, layer, stage), np.array(row.norms, np.float32), equal_nan=True
        )
        if row.values is not None:
            assert np.array_equal(trace.spectrum(step, layer, stage), row.values, equal_nan=True)
        if raw:
            expected = np.array(row.norms * 2, np.float32).reshape(3, 2)
            assert np.array_equal(trace.matrix(step, layer, stage), expected, equal_nan=True)


def same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(other):
        return math.isnan(one)
    return one == other and type(one) is type(other)
