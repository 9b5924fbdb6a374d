"""Keys as a reader keeps them, and where it finds a layer's rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.traces.columns import one_chunk
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.reading.keys import Keys, Vocabulary
from optgeom.traces.reading.order import Order
from optgeom.traces.schema import KEYS

SCHEMA = pa.schema(
    [(name, KEYS[name]) for name in ("step", "layer", "stage", "attempt", "optimizer")]
)
cells = st.tuples(
    st.integers(0, 2**40) | st.integers(0, 3),
    st.sampled_from([f"layer {i}" for i in range(4)]),
    st.sampled_from(["update", "momentum"]),
    st.integers(0, 1),
    st.just("o"),
)


def table(rows: list[tuple[object, ...]]) -> pa.Table:
    made = [dict(zip(SCHEMA.names, row, strict=True)) for row in rows]
    return one_chunk(pa.Table.from_pylist(made, SCHEMA))


@given(rows=st.lists(cells, max_size=40), sort=st.booleans(), mask=st.lists(st.booleans()))
def test_rows_of_a_layers_stage_by_step(
    rows: list[tuple[int, str, str, int, str]], sort: bool, mask: list[bool]
) -> None:
    if sort:
        rows = sorted(rows, key=lambda row: (row[1], row[2], row[0]))
    words = Vocabulary()
    words.code("a word of another table")
    keys = Keys.of(table(rows), words, "x")
    order = Order(keys)
    for name, place in zip(SCHEMA.names, range(5), strict=True):
        codes = [
            words.find(row[place]) if isinstance(row[place], str) else row[place] for row in rows
        ]
        assert keys[name][:].tolist() == codes
    everything = {(row[1], row[2]) for row in rows}
    for layer, stage in everything | {("layer 9", "update")}:
        expected = [i for i, row in enumerate(rows) if (row[1], row[2]) == (layer, stage)]
        expected.sort(key=lambda i: rows[i][0])
        found = order.rows(words.find(layer), words.find(stage))
        assert found.tolist() == expected
    named = {(words.words[layer], words.words[stage]) for layer, stage in order.pairs()}
    assert named == everything
    kept = np.resize(np.array([*mask, True]), len(rows))
    named = {(words.words[layer], words.words[stage]) for layer, stage in order.pairs(kept)}
    assert named == {(row[1], row[2]) for row, keep in zip(rows, kept, strict=True) if keep}


def test_keys_take_few_bytes() -> None:
    rows = [(step, f"layer {i}", "update", 0, "o") for step in range(300) for i in range(20)]
    keys = Keys.of(table(rows), Vocabulary(), "x")
    assert sum(keys[name].places.itemsize for name in ("step", "layer")) == 3
    for name in ("stage", "attempt", "optimizer"):
        assert keys[name].places.strides == (0,)


def test_a_null_key_is_damage() -> None:
    rows = table([(0, "a", "update", 0, "o")])
    nulls = rows.set_column(1, "layer", pa.nulls(1, KEYS["layer"]))
    with pytest.raises(DamagedTrace, match="x has rows without layer"):
        Keys.of(nulls, Vocabulary(), "x")
