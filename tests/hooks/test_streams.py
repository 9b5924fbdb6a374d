"""Work for a GPU's second stream; what a CPU can say of it. `make gpu` tries the rest."""

from __future__ import annotations

import numpy as np
import torch

from optgeom.hooks.streams import on_host, on_own_stream


def test_on_a_cpu_a_job_is_left_as_it_is() -> None:
    def job() -> None:
        raise AssertionError("nobody runs it yet")

    assert on_own_stream(torch.device("cpu"), job) is job


def test_matrices_come_to_the_host_as_float32_in_their_order() -> None:
    first = torch.arange(6.0).reshape(2, 3)
    second = torch.arange(6.0, dtype=torch.float64).reshape(2, 3).mT
    third = torch.full((1, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    found = list(on_host([first, second, third]))
    assert [one.dtype for one in found] == [np.float32] * 3
    assert [one.flags.c_contiguous for one in found] == [True] * 3
    np.testing.assert_array_equal(found[1], second.numpy())
    np.testing.assert_array_equal(found[2], [[0.5, 0.5]])


def test_a_float32_matrix_on_the_host_is_not_copied() -> None:
    matrix = torch.zeros(2, 2)
    (found,) = on_host([matrix])
    matrix[0, 0] = 1.0
    assert found[0, 0] == 1.0
