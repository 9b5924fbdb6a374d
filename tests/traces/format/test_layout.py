"""How rows with lists lie in a segment."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.traces.columns import one_chunk
from optgeom.traces.format import layout
from optgeom.traces.format.layout import group_ends, row_groups
from optgeom.traces.schema import FLOATS, TEXT

SCHEMA = pa.schema(
    [("step", pa.int64()), ("layer", TEXT), ("stage", TEXT), ("row", pa.int64()), ("x", FLOATS)]
)


def lists(size: int | None) -> list[float] | None:
    return None if size is None else [0.5] * size


def made(cells: list[tuple[int, str, str, int | None]]) -> pa.Table:
    rows = [
        {"step": step, "layer": layer, "stage": stage, "row": row, "x": lists(size)}
        for row, (step, layer, stage, size) in enumerate(cells)
    ]
    return one_chunk(pa.Table.from_pylist(rows, SCHEMA))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from("zab"),
            st.sampled_from(["update", "momentum"]),
            st.none() | st.integers(0, 12),
        ),
        max_size=30,
    )
)
def test_groups_hold_every_row_once_by_layer_stage_and_step(
    cells: list[tuple[int, str, str, int | None]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "GROUP_BYTES", 64)
        groups = list(row_groups(made(cells)))
    found = [row for group in groups for row in group.column("row").to_pylist()]
    layers = list(dict.fromkeys(layer for _, layer, _, _ in cells))
    stages = list(dict.fromkeys(stage for _, _, stage, _ in cells))
    expected = sorted(
        range(len(cells)),
        key=lambda row: (layers.index(cells[row][1]), stages.index(cells[row][2]), cells[row][0]),
    )
    assert found == expected
    for group in groups:
        items = sum(cells[row][3] or 0 for row in group.column("row").to_pylist())
        assert group.num_rows == 1 or 4 * items <= 64


def test_a_stage_of_a_layer_is_cut_only_where_it_is_too_large() -> None:
    quarter = layout.GROUP_BYTES // 4
    sizes = np.full(10, quarter)
    assert group_ends(sizes, np.array([3, 6])) == [3, 6, 10]
    assert group_ends(sizes, np.array([1, 2, 3, 4])) == [4, 8, 10]
    assert group_ends(np.full(3, 9 * quarter), np.array([0])) == [1, 2, 3]
    assert group_ends(np.zeros(5, int), np.array([2])) == [5]


def test_a_table_without_lists_stays_as_it_is() -> None:
    table = made([(3, "a", "update", None), (1, "b", "update", None)]).drop_columns(["x"])
    assert list(row_groups(table)) == [table]
