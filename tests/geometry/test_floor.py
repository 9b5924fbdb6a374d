from __future__ import annotations

import numpy as np
import pytest
import torch

from optgeom.geometry import difference_floor, dispatch_floor
from optgeom.geometry.floor import units_in_last_place
from optgeom.traces.errors import OptgeomError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ulp_against_numpy(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, -1.5, 0.02, 3e-8, 1e5, 0.0, 1e-45], dtype=dtype)
    exact = np.spacing(np.abs(values.numpy())).astype(np.float64)
    np.testing.assert_array_equal(units_in_last_place(values).numpy(), exact)


def test_ulp_of_bfloat16_is_the_distance_to_the_next() -> None:
    values = torch.tensor([1.0, 0.02, 255.0], dtype=torch.bfloat16)
    after = (values.view(torch.int16) + 1).view(torch.bfloat16)
    exact = after.double() - values.double()
    assert torch.equal(units_in_last_place(values), exact)


@pytest.mark.parametrize("lr", [2e-2, 2e-3])
@pytest.mark.parametrize("roundings", [1, 2])
def test_difference_floor_is_what_is_found(lr: float, roundings: int) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = (torch.randn(512, 512, generator=generator) * 0.02).bfloat16()
    update = torch.randn(512, 512, generator=generator) * 0.2
    kept = 0.97 if roundings == 2 else 1.0
    decayed = (weight.float() * kept).bfloat16()
    after = (decayed.float() - lr * update).bfloat16()
    read = (kept * weight.float() - after.float()) / lr
    found = np.linalg.norm((read - update).double().numpy(), 2)
    predicted = difference_floor(weight, lr, (512, 512), roundings)
    assert predicted == pytest.approx(found, rel=0.05)
    if (lr, roundings) == (2e-2, 1):
        assert predicted == pytest.approx(0.0751, rel=0.01)


def test_dispatch_floor_is_the_operands_eps() -> None:
    assert dispatch_floor(torch.float32, 2.0) == 2.0 * 2.0**-23
    assert dispatch_floor(torch.bfloat16, 1.0) == 2.0**-7


def test_a_floor_needs_a_divisor_and_a_shape() -> None:
    with pytest.raises(OptgeomError, match="lr = 0"):
        difference_floor(torch.ones(2, 2), 0.0)
    with pytest.raises(OptgeomError, match=r"shape=\(m, n\)"):
        difference_floor(torch.ones(4), 1.0)
    assert difference_floor(torch.ones(4), 1.0, (2, 2)) == difference_floor(torch.ones(2, 2), 1.0)
