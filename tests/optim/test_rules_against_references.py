"""Every rule against a slow float64 reference, written from the published descriptions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optgeom.optim import (
    FAMILIES,
    Muon,
    MuonSettings,
    NorMuon,
    adamw_update,
    muon_update,
    normuon_settings,
    normuon_update,
)
from optgeom.optim.families import AdamWSettings

B1 = B2 = 0.95
SHAPES = [(20, 33), (33, 20), (24, 24), (1, 16), (16, 1)]


def newton_schulz(
    x: Tensor, rows: list[tuple[float, float, float]], safety: float, eps: float
) -> Tensor:
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() * (1 + safety) + eps)
    for a, b, c in rows:
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    return x.T if tall else x


def jordan(x: Tensor) -> Tensor:
    return newton_schulz(x, [(3.4445, -4.7750, 2.0315)] * 5, 0.0, 1e-7)


def polar_express(x: Tensor) -> Tensor:
    rows = [
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ]
    return newton_schulz(x, rows, 2e-2, 1e-6)


def paper(gradients: list[Tensor]) -> list[Tensor]:
    m, n = gradients[0].shape
    momentum, v, updates = torch.zeros(m, n), torch.zeros(m), []
    for g in gradients:
        momentum = B1 * momentum + (1 - B1) * g
        o = jordan(momentum)
        v = B2 * v + (1 - B2) * torch.stack([row.dot(row) / n for row in o])
        hat = torch.stack([o[i] / (v[i].sqrt() + 1e-8) for i in range(m)])
        updates.append(0.2 * math.sqrt(m * n) / hat.norm() * hat)
    return updates


def released(gradients: list[Tensor]) -> list[Tensor]:
    m, n = gradients[0].shape
    momentum, v, updates = torch.zeros(m, n), torch.zeros(m), []
    for g in gradients:
        momentum = B1 * momentum + (1 - B1) * g
        o = jordan(B1 * momentum + (1 - B1) * g)
        v = B2 * v + (1 - B2) * o.pow(2).sum(1) / n
        hat = torch.diag(1 / (v.sqrt() + 1e-10)) @ o
        updates.append(hat * (o.norm() / hat.norm()) * max(1.0, m / n) ** 0.5)
    return updates


def dion(gradients: list[Tensor]) -> list[Tensor]:
    m, n = gradients[0].shape
    momentum, v, updates = torch.zeros(m, n), torch.zeros(m), []
    for g in gradients:
        momentum = B1 * momentum + g
        o = polar_express(momentum)
        v = B2 * v + (1 - B2) * o.pow(2).sum(1) / n
        hat = torch.diag(1 / (v.sqrt() + 1e-8)) @ o
        updates.append(hat * (o.norm() / hat.norm()) * math.sqrt(m / n))
    return updates


def larger_axis(gradients: list[Tensor]) -> list[Tensor]:
    m, n = gradients[0].shape
    columns = n > m > 1
    momentum, v, updates = torch.zeros(m, n), torch.zeros(n if columns else m), []
    for g in gradients:
        momentum = B1 * momentum + (1 - B1) * g
        o = polar_express(B1 * momentum + (1 - B1) * g)
        squares = o.pow(2)
        v = B2 * v + (1 - B2) * (squares.sum(0) / m if columns else squares.sum(1) / n)
        scale = torch.diag(v.clamp(min=1e-10).rsqrt())
        hat = o @ scale if columns else scale @ o
        updates.append(hat * (o.norm() / hat.norm()) * max(1.0, m / n) ** 0.5)
    return updates


REFERENCES: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "paper": paper,
    "released": released,
    "dion": dion,
    "larger-axis": larger_axis,
}


@pytest.fixture(autouse=True)
def _float64_references():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", REFERENCES)
def test_pure_rule_equals_the_reference_over_six_steps(
    family: str, shape: tuple[int, int], gradients
) -> None:
    grads = gradients(shape, steps=6, dtype=torch.float64)
    settings = normuon_settings(family, ns_dtype="float32")
    momentum = torch.zeros(shape)
    columns = family == "larger-axis" and shape[1] > shape[0] > 1
    second = torch.zeros((1, shape[1]) if columns else (shape[0], 1), dtype=torch.float32)
    for g, expected in zip(grads, REFERENCES[family](grads), strict=True):
        update, momentum, second = normuon_update(g, momentum, second, settings=settings)
        assert relative(update, expected) < 1e-4


@pytest.mark.parametrize("family", REFERENCES)
def test_class_equals_the_reference_with_decay(family: str, gradients, run) -> None:
    grads = gradients((20, 33), steps=4, dtype=torch.float64)
    p = nn.Parameter(torch.randn(20, 33, generator=torch.Generator().manual_seed(1)))
    weight = p.detach().clone()
    optimizer = NorMuon([p], lr=0.05, family=family, ns_dtype="float32", weight_decay=0.3)
    got = run(optimizer, p, grads)
    for update in REFERENCES[family](grads):
        weight = weight - 0.05 * 0.3 * weight - 0.05 * update
    assert relative(got, weight) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_class_and_pure_rule_give_the_same_bits(family: str, gradients) -> None:
    torch.set_default_dtype(torch.float32)
    shape = (12, 30)
    grads = gradients(shape, steps=4)
    settings = FAMILIES[family]
    p = nn.Parameter(torch.zeros(shape))
    optimizer = NorMuon([p], lr=0.5, family=family, weight_decay=0.0)
    weight, momentum = torch.zeros(shape), torch.zeros(shape)
    second = torch.zeros((1, 30) if family == "larger-axis" else (12, 1))
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        inputs = g.clone(), momentum.clone(), second.clone()
        update, momentum_after, second_after = normuon_update(
            g, momentum, second, settings=settings
        )
        assert all(map(torch.equal, (g, momentum, second), inputs))
        weight.add_(update, alpha=-0.5)
        momentum, second = momentum_after, second_after
        assert torch.equal(p, weight)
        assert torch.equal(optimizer.state[p]["second_moment"], second)


@pytest.mark.parametrize(
    ("scale", "factor"),
    [
        ("original", lambda m, n: math.sqrt(max(1, m / n))),
        ("match_rms", lambda m, n: 0.2 * math.sqrt(max(m, n))),
        ("spectral", lambda m, n: math.sqrt(m / n)),
        ("none", lambda m, n: 1.0),
    ],
)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_muon_equals_the_reference(
    scale: str,
    factor: Callable[[int, int], float],
    nesterov: bool,
    shape: tuple[int, int],
    gradients,
) -> None:
    settings = MuonSettings(scale=scale, nesterov=nesterov, ns_dtype="float32")  # type: ignore[arg-type]  # from a table
    momentum = reference = torch.zeros(shape)
    for g in gradients(shape, dtype=torch.float64):
        update, momentum = muon_update(g, momentum, settings=settings)
        reference = B1 * reference + (1 - B1) * g
        look = B1 * reference + (1 - B1) * g if nesterov else reference
        assert relative(update, factor(*shape) * jordan(look)) < 1e-4


def test_heavy_ball_nesterov_is_gradient_plus_decayed_momentum(gradients) -> None:
    settings = normuon_settings("dion", nesterov=True, rescale="none", ns_dtype="float32")
    momentum = reference = torch.zeros(10, 18)
    second, v = torch.zeros(10, 1, dtype=torch.float32), torch.zeros(10)
    for g in gradients((10, 18), dtype=torch.float64):
        update, momentum, second = normuon_update(g, momentum, second, settings=settings)
        reference = B1 * reference + g
        o = polar_express(g + B1 * reference)
        v = B2 * v + (1 - B2) * o.pow(2).mean(1)
        expected = torch.diag(1 / (v.sqrt() + 1e-8)) @ o * math.sqrt(10 / 18)
        assert relative(update, expected) < 1e-4


def test_adamw_rule_equals_the_textbook(gradients) -> None:
    settings = AdamWSettings(betas=(0.8, 0.9), eps=1e-3)
    first = second = m = v = torch.zeros(7)
    for t, g in enumerate(gradients((7,), steps=4, dtype=torch.float64), start=1):
        update, first, second = adamw_update(g, first, second, step=t, settings=settings)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        expected = (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-3)
        torch.testing.assert_close(update, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cls", [NorMuon, Muon])
def test_a_stack_is_a_batch_of_matrices(cls: type, gradients, run) -> None:
    torch.set_default_dtype(torch.float32)
    grads = gradients((3, 8, 14))
    stack = nn.Parameter(torch.zeros(3, 8, 14))
    got = run(cls([stack], lr=0.1, ns_dtype="float32"), stack, grads)
    for index in range(3):
        p = nn.Parameter(torch.zeros(8, 14))
        alone = run(cls([p], lr=0.1, ns_dtype="float32"), p, [g[index] for g in grads])
        torch.testing.assert_close(got[index], alone, rtol=1e-4, atol=1e-6)
