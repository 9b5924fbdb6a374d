"""Rows in several places: the same row of the norms clock as the whole matrix gives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optgeom.geometry.context import Context
from optgeom.geometry.finish import finish_norms
from optgeom.geometry.floor import difference_floor
from optgeom.geometry.measure import measure_norms
from optgeom.geometry.shards import joined, read_shard, shard_size
from optgeom.geometry.sketch import sketch

MATRICES = ("weight", "weight_after", "gradient")


def from_shards(matrix: Tensor, cuts: list[int], **context: Any) -> Any:
    """The row of a matrix that is cut before the given rows; and the mean square of the ulps."""
    rows, cols = matrix.shape
    ends = [0, *cuts, rows]
    shards = []
    for start, stop in pairwise(ends):
        local = {k: v[start:stop] if k in MATRICES else v for k, v in context.items()}
        if context.get("weight_norm") is not None:
            local["weight_norm"] = float(context["whole_weight"][start:stop].norm())
        local.pop("whole_weight", None)
        own = Context(**local)
        numbers = read_shard(matrix[start:stop], own, row_start=start, rows=rows)
        assert len(numbers) == shard_size(stop - start, cols, own)
        shards.append((numbers, stop - start))
    rest = {k: v for k, v in context.items() if k not in (*MATRICES, "whole_weight")}
    partial, ulps = joined(shards, cols, Context(**rest))
    return finish_norms([partial])[0], float(ulps)


def assert_same(found: Any, expected: Any) -> None:
    for name, value in expected.values.items():
        if name == "operand_dtype":
            continue  # numbers do not tell what they were made of: the context of a run does
        if isinstance(value, float):
            assert found.values[name] == pytest.approx(value, rel=2e-6, abs=2e-6), name
        else:
            assert found.values[name] == value, name
    np.testing.assert_allclose(found.neuron_norms, expected.neuron_norms, rtol=1e-6)
    assert (found.sketch is None) == (expected.sketch is None)
    if expected.sketch is not None:
        scale = float(expected.sketch.norm())
        np.testing.assert_allclose(found.sketch, expected.sketch, atol=1e-6 * scale)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.sampled_from([1, 3, 40, 4093, 2000]),
    st.lists(st.integers(0, 70), max_size=3),
    st.integers(0, 2**31),
    st.sampled_from(["weight", "weight_after", "rows_only"]),
    st.sampled_from([1.0, 1e-18, 1e15]),
)
def test_any_cut_gives_the_row_of_the_whole(
    rows: int, cols: int, cuts: list[int], seed: int, how: str, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    update, weight, gradient, previous = (
        torch.randn(rows, cols, generator=generator) for _ in range(4)
    )
    update *= scale
    common = {"stage": "update", "lr": 0.01, "decay": 0.001, "source": "dispatch"}
    if how == "rows_only":
        size = float(weight.norm())
        context: dict[str, Any] = {**common, "rows_only": True, "weight_norm": size}
        shards = {**context, "whole_weight": weight}
    else:
        after = (1 - 0.001) * weight - 0.01 * update
        known = {"weight": weight} if how == "weight" else {"weight_after": after}
        context = {**common, **known, "gradient": gradient, "steps_since_previous": 3}
        context["previous_sketch"] = sketch(previous)
        shards = context
    found, _ = from_shards(update, sorted(min(cut, rows) for cut in cuts), **shards)
    assert_same(found, measure_norms(update, Context(**context)))


@pytest.mark.parametrize("stage", ["gradient", "momentum", "ns_input", "weight"])
def test_other_stages(stage: str) -> None:
    matrix, gradient = torch.randn(2, 33, 20, generator=torch.Generator().manual_seed(1))
    known = {} if stage == "gradient" else {"gradient": gradient}
    found, _ = from_shards(matrix, [11, 22], stage=stage, **known)
    assert_same(found, measure_norms(matrix, Context(stage=stage, **known)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen_whoever_holds_it(bad: float) -> None:
    matrix = torch.ones(6, 4)
    matrix[4, 1] = bad
    found, _ = from_shards(matrix, [3], stage="update", lr=0.1, weight=torch.ones(6, 4))
    assert found.values["status"] == "non_finite"


def test_zero_rows_zero_weights_and_a_zero_matrix() -> None:
    update, weight = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2))
    weight[:3], update[3:] = 0.0, 0.0
    context = {"stage": "update", "lr": 0.1, "weight": weight, "gradient": torch.zeros(6, 4)}
    found, _ = from_shards(update, [3], **context)
    assert_same(found, measure_norms(update, Context(**context)))
    found, _ = from_shards(torch.zeros(6, 4), [3], **context)
    assert_same(found, measure_norms(torch.zeros(6, 4), Context(**context)))


def test_the_floor_of_a_difference_follows_from_the_shards() -> None:
    after = torch.randn(30, 8, generator=torch.Generator().manual_seed(3)).bfloat16()
    update = torch.randn(30, 8, generator=torch.Generator().manual_seed(4))
    context = {"stage": "update", "lr": 0.1, "weight_after": after, "source": "difference"}
    _, ulps = from_shards(update, [7, 7, 20], **context)
    floor = (30**0.5 + 8**0.5) * (ulps / 12) ** 0.5 / 0.1
    assert floor == pytest.approx(difference_floor(after, 0.1), rel=1e-6)
