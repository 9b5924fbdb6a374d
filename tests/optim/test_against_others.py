"""Against torch.optim and pytorch_optimizer wherever their settings and ours coincide."""

from __future__ import annotations

import pytest
import pytorch_optimizer
import torch
from torch import nn

from optgeom.optim import Muon, NorMuon

SHAPES = [(24, 40), (40, 24), (16, 16), (1, 12)]


def twins(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)
    return [nn.Parameter(start.clone()) for _ in range(2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_group_gives_the_bits_of_torch_adamw(
    dtype: torch.dtype, tensor_lr: bool, weight_decay: float, gradients, run
) -> None:
    ours, theirs = twins((5, 7), dtype)
    settings = {"betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": weight_decay}
    lr = torch.tensor(2.0**-7) if tensor_lr else 2.0**-7
    optimizer = NorMuon([{"params": [ours], "algorithm": "adamw", "lr": lr, **settings}], lr=1.0)
    reference = torch.optim.AdamW([theirs], lr=2.0**-7, foreach=False, **settings)
    grads = gradients((5, 7), steps=8, dtype=dtype)
    assert torch.equal(run(optimizer, ours, grads), run(reference, theirs, grads))
    for name in ("step", "exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[ours][name], reference.state[theirs][name])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("scale", "adjust"), [("original", "original"), ("match_rms", "match_rms_adamw")]
)
def test_muon_equals_torch_muon(
    scale: str, adjust: str, nesterov: bool, shape: tuple[int, int], gradients, run
) -> None:
    ours, theirs = twins(shape)
    start = ours.detach().clone()
    shared = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov}
    grads = gradients(shape, steps=5)
    got = run(Muon([ours], scale=scale, **shared), ours, grads)
    expected = run(torch.optim.Muon([theirs], adjust_lr_fn=adjust, **shared), theirs, grads)
    # The same bf16 operations; only norm + eps against max(norm, eps) differs, below bf16.
    assert ((got - expected).norm() / (expected - start).norm()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            {"family": "paper", "weight_decay": 0.0, "eps": 1e-10},
            {"update_scale": "match_rms", "nesterov": False},
        ),
        ({"family": "released"}, {"update_scale": "preserve_norm", "nesterov": True}),
    ],
)
def test_normuon_equals_pytorch_optimizer(
    ours: dict, theirs: dict, shape: tuple[int, int], gradients, run
) -> None:
    p, q = twins(shape)
    start = p.detach().clone()
    grads = gradients(shape, steps=5)
    got = run(NorMuon([p], lr=0.02, **ours), p, grads)
    reference = pytorch_optimizer.NorMuon(
        [{"params": [q], "use_muon": True}], lr=0.02, foreach=False, **theirs
    )
    expected = run(reference, q, grads)
    assert ((got - expected).norm() / (expected - start).norm()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adjusted", [False, True])
def test_muon_equals_pytorch_optimizer(
    adjusted: bool, shape: tuple[int, int], gradients, run
) -> None:
    p, q = twins(shape)
    start = p.detach().clone()
    grads = gradients(shape, steps=5)
    scale = "match_rms" if adjusted else "original"
    got = run(Muon([p], lr=0.02, scale=scale, weight_decay=0.01), p, grads)
    reference = pytorch_optimizer.Muon(
        [{"params": [q], "use_muon": True, "use_adjusted_lr": adjusted}],
        lr=0.02,
        weight_decay=0.01,
        foreach=False,
    )
    expected = run(reference, q, grads)
    assert ((got - expected).norm() / (expected - start).norm()) < 1e-5
