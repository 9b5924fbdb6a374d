from __future__ import annotations

import pytest
import torch

from optgeom.geometry.rounding import lost_decay, lost_fraction


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1e-1, 1e-4, 1e-9])
def test_lost_entries_are_those_that_the_operation_leaves(dtype: torch.dtype, size: float) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = (torch.randn(60, 50, generator=generator) * 0.02).to(dtype)
    term = torch.randn(60, 50, generator=generator) * size
    term[:5] = 0.0
    after = weight.clone().add_(term)
    asked = term != 0
    exact = float(((after == weight) & asked).sum()) / float(asked.sum())
    assert lost_fraction(weight, term) == pytest.approx(exact, abs=1e-3)


def test_bfloat16_does_not_decay_by_two_in_ten_thousand() -> None:
    weight = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    assert lost_decay(weight.bfloat16(), 2e-4) == 1.0
    assert lost_decay(weight, 2e-4) == 0.0


def test_nothing_asked_nothing_lost() -> None:
    weight = torch.ones(3, 3)
    assert lost_fraction(weight, torch.zeros(3, 3)) is None
    assert lost_decay(weight, 0.0) is None
    assert lost_decay(torch.zeros(3, 3), 0.1) is None
