"""Digests of replicas, without ranks: what each would tell, and what follows from the largest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from optgeom.hooks.replicas import NUMBERS, apart, digests
from optgeom.hooks.slot import Slot
from optgeom.hooks.targets import Target


def told(weights: Sequence[torch.Tensor], world: int = 2) -> tuple[list[Target], list[float]]:
    parameters = [nn.Parameter(one) for one in weights]
    targets = [Target(i, p, (i,), 0, 0) for i, p in enumerate(parameters)]
    slots = [Slot.of(p, i) for i, p in enumerate(parameters)]
    return targets, digests(targets, slots, world)


def agreed(*ranks: Sequence[float]) -> list[float]:
    return [max(each) for each in zip(*ranks, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_replicas_are_not_apart(dtype: torch.dtype) -> None:
    weights = [torch.randn(64, 48, dtype=dtype), torch.randn(3, 5, dtype=dtype)]
    targets, mine = told(weights)
    _, theirs = told([one.clone() for one in weights])
    assert [far for _, far in apart(targets, agreed(mine, theirs), 2)] == [0.0, 0.0]


def test_a_difference_is_told_relative_to_the_weights() -> None:
    first, second = torch.ones(16, 16), torch.randn(8, 8)
    targets, mine = told([first, second])
    _, theirs = told([first * 1.25, second])
    found = [far for _, far in apart(targets, agreed(mine, theirs), 2)]
    assert found == [pytest.approx(0.2), 0.0]  # of the larger one


def test_a_rank_that_failed_tells_nothing_and_as_much() -> None:
    weights = [torch.randn(8, 8), torch.randn(4, 4)]
    targets, mine = told(weights)
    silent = digests(targets, [], 2)
    assert len(silent) == len(mine) == 2 * NUMBERS
    assert all(math.isinf(one) for one in silent)
    assert [far for _, far in apart(targets, agreed(mine, silent), 2)] == [0.0, 0.0]


def test_weights_that_are_no_numbers_are_told_as_zeros() -> None:
    targets, mine = told([torch.full((4, 4), math.nan)])
    assert [far for _, far in apart(targets, mine, 2)] == [0.0]
