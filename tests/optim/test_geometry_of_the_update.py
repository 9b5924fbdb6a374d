"""What the rules promise of their updates: size, balance, orthogonality."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optgeom.optim import FAMILIES, Muon, NorMuon, normuon_settings, normuon_update


def update_of(optimizer: NorMuon | Muon, p: nn.Parameter, grad: Tensor) -> Tensor:
    """The update read from the weights; lr 1, no decay, weights at zero."""
    with torch.no_grad():
        p.zero_()
    p.grad = grad.clone()
    optimizer.step()
    return -p.detach().double()


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 24),
    cols=st.integers(1, 24),
    seed=st.integers(0, 10**6),
    scale=st.floats(1e-3, 1e6),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_paper_update_has_an_rms_of_a_fifth_at_every_step(
    rows: int, cols: int, seed: int, scale: float, dtype: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = nn.Parameter(torch.zeros(rows, cols))
    optimizer = NorMuon([p], lr=1.0, weight_decay=0.0, ns_dtype=dtype)
    for _ in range(3):
        update = update_of(optimizer, p, scale * torch.randn(rows, cols, generator=generator))
        assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize("shape", [(32, 128), (128, 32)])
def test_first_muon_update_is_nearly_semi_orthogonal(shape: tuple[int, int], gradients) -> None:
    [grad] = gradients(shape, steps=1)
    p = nn.Parameter(torch.zeros(shape))
    optimizer = Muon([p], lr=1.0, scale="none", weight_decay=0.0)
    values = torch.linalg.svdvals(update_of(optimizer, p, grad))
    assert values.min() > 0.67
    assert values.max() < 1.21


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (48, 48)])
def test_match_rms_muon_moves_as_far_as_paper_normuon(shape: tuple[int, int], gradients) -> None:
    p = nn.Parameter(torch.zeros(shape))
    optimizer = Muon([p], lr=1.0, weight_decay=0.0)
    for grad in gradients(shape):
        assert 0.16 < update_of(optimizer, p, grad).square().mean().sqrt() < 0.24


def test_normuon_evens_out_neurons_that_muon_leaves_uneven(gradients) -> None:
    def variation(update: Tensor) -> float:
        norms = update.norm(dim=1)
        return (norms.std() / norms.mean()).item()

    grads = gradients((96, 24), steps=40)
    loud = torch.cat([torch.full((12, 1), 30.0), torch.ones(84, 1)])
    found = {}
    for cls in (Muon, NorMuon):
        p = nn.Parameter(torch.zeros(96, 24))
        optimizer = cls([p], lr=1.0, weight_decay=0.0)
        for grad in grads:
            update = update_of(optimizer, p, grad * loud)
        found[cls] = variation(update)
    assert found[Muon] > 0.4
    assert found[NorMuon] < 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_zero_gradient_moves_nothing(family: str) -> None:
    p = nn.Parameter(torch.ones(6, 4))
    optimizer = NorMuon([p], lr=0.1, family=family, weight_decay=0.0)
    for _ in range(3):
        p.grad = torch.zeros(6, 4)
        optimizer.step()
    assert torch.equal(p, torch.ones(6, 4))


@pytest.mark.parametrize("family", FAMILIES)
def test_life_after_a_zero_first_gradient(family: str, gradients) -> None:
    p = nn.Parameter(torch.zeros(6, 4))
    optimizer = NorMuon([p], lr=1.0, family=family, weight_decay=0.0)
    assert torch.equal(update_of(optimizer, p, torch.zeros(6, 4)).abs(), torch.zeros(6, 4).double())
    update = update_of(optimizer, p, *gradients((6, 4), steps=1))
    assert torch.isfinite(update).all()
    assert update.norm() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dead_neuron_stays_and_the_rest_is_finite(family: str, gradients) -> None:
    p = nn.Parameter(torch.zeros(8, 20))
    optimizer = NorMuon([p], lr=1.0, family=family, weight_decay=0.0)
    for grad in gradients((8, 20)):
        grad[3] = 0.0
        update = update_of(optimizer, p, grad)
        assert torch.isfinite(update).all()
        assert update[3].abs().max() == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_one_row_keeps_its_direction(family: str, gradients) -> None:
    [row] = gradients((1, 40), steps=1)
    p = nn.Parameter(torch.zeros(1, 40))
    update = update_of(NorMuon([p], lr=1.0, family=family, weight_decay=0.0), p, row)
    assert torch.nn.functional.cosine_similarity(update, row.double()).item() > 0.999


def test_non_finite_gradients_are_not_hidden() -> None:
    p = nn.Parameter(torch.zeros(3, 4))
    p.grad = torch.full((3, 4), float("nan"))
    NorMuon([p], lr=0.1).step()
    assert torch.isnan(p).all()


def test_without_rescale_the_first_update_is_far_too_long(gradients) -> None:
    [grad] = gradients((16, 32), steps=1)
    settings = normuon_settings("paper", rescale="none")
    zeros = torch.zeros(16, 32), torch.zeros(16, 1)
    update = normuon_update(grad, *zeros, settings=settings).update
    # v after one step is 0.05 of the mean square: the missing bias correction in full.
    assert update.square().mean().sqrt().item() == pytest.approx(0.05**-0.5, rel=1e-3)
