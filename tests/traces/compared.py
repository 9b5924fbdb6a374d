"""Whether two readers show the same of a trace: optgeom's own, and the plain one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from optgeom.traces import Trace
from optgeom.traces.errors import NotCaptured
from tests.traces.plain_reader import PlainTrace


def assert_same(trace: Trace, plain: PlainTrace, *, nan_is_null: bool = False) -> dict[str, int]:
    """Compare all that both readers show.

    Args:
        trace: optgeom's.
        plain: the other's.
        nan_is_null: the other tells neither NaN from null nor an integer from a float.

    Returns:
        How many rows of each table were compared.
    """
    shown = trace.metrics().to_pylist()
    found = plain.metrics()
    assert len(shown) == len(found)
    for row in shown:
        there = {name: value for name, value in row.items() if not empty(value, nan_is_null)}
        ours = found[row["step"], row["layer"], row["stage"], row["optimizer"]]
        assert there.keys() == ours.keys()
        assert all(same(value, ours[name], nan_is_null) for name, value in there.items()), (
            there,
            ours,
        )
    scalars = trace.scalars().to_pylist()
    assert {(row["step"], row["name"]): row["value"] for row in scalars} == plain.scalars()
    compared = {"metrics": len(found), "scalars": len(scalars)}
    for table in ("spectra", "neurons", "updates"):
        cells = plain.cells[table]
        assert {cell[:3] for cell in cells} == {*all_cells(trace, table)}
        compared[table] = len(cells)
        for cell in cells:
            assert_same_cell(trace, plain, table, cell)
    return compared


def all_cells(trace: Trace, table: str) -> Iterator[tuple[int, str, str]]:
    for layer, stage in trace.cell_names(table):
        for step in trace.steps(layer, stage, table).tolist():
            yield step, layer, stage


def assert_same_cell(trace: Trace, plain: PlainTrace, table: str, cell: tuple[Any, ...]) -> None:
    ours, theirs = {
        "spectra": (plain.spectrum, trace.spectrum),
        "neurons": (plain.neuron_norms, trace.neuron_norms),
        "updates": (plain.matrix, trace.matrix),
    }[table]
    expected = ours(cell)
    if expected is None:
        with pytest.raises(NotCaptured):
            theirs(*cell[:3])
        return
    values = theirs(*cell[:3])
    assert values.shape == np.shape(expected)
    assert np.array_equal(values, np.asarray(expected), equal_nan=True)


def empty(value: object, nan_is_null: bool) -> bool:
    return value is None or (nan_is_null and isinstance(value, float) and math.isnan(value))


def same(one: Any, other: Any, nan_is_null: bool) -> bool:
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return bool(one == other) and (nan_is_null or type(one) is type(other))
