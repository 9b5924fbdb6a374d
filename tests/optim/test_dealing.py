from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optgeom.optim.dealing import buckets_of, deal
from optgeom.optim.layout import layout_of


def busiest(costs: list[int], owners: tuple[int, ...] | list[int], ranks: int) -> int:
    return max(sum(c for c, o in zip(costs, owners, strict=True) if o == r) for r in range(ranks))


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=7), st.integers(1, 3))
def test_nobody_has_more_than_four_thirds_of_the_best_deal(costs: list[int], ranks: int) -> None:
    best = min(busiest(costs, owners, ranks) for owners in product(range(ranks), repeat=len(costs)))
    assert 3 * busiest(costs, deal(costs, ranks), ranks) <= 4 * best


@given(st.integers(1, 1000), st.integers(1, 20), st.integers(1, 8))
def test_equal_work_is_dealt_equally(cost: int, pieces: int, ranks: int) -> None:
    owners = deal([cost] * pieces, ranks)
    counts = [owners.count(rank) for rank in range(ranks)]
    assert max(counts) - min(counts) <= 1


def test_matrices_of_one_shape_and_dtype_travel_together() -> None:
    shapes = [(4, 8), (8, 4), (4, 8), (4, 8), (8, 4)]
    params = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    params[3] = nn.Parameter(torch.zeros(4, 8, dtype=torch.bfloat16))
    found = buckets_of(params, [layout_of(p) for p in params])
    places = {id(p): i for i, p in enumerate(params)}
    assert [[places[id(p)] for p in bucket.params] for bucket in found] == [
        [0, 2],
        [1, 4],
        [3],
    ]


def test_a_bucket_of_large_matrices_stays_small() -> None:
    params = [nn.Parameter(torch.empty(2048, 2048, device="meta")) for _ in range(5)]  # 16 MiB
    found = buckets_of(params, [layout_of(p) for p in params])
    assert [len(bucket.params) for bucket in found] == [2, 2, 1]
