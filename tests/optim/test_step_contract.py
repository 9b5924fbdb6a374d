"""What any torch.optim.Optimizer must do, and what ours promise on top."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optgeom.optim import FAMILIES, Muon, NorMuon

CASES = [(NorMuon, {"family": family}) for family in FAMILIES] + [
    (Muon, {"scale": "original"}),
    (Muon, {"scale": "match_rms", "nesterov": False}),
]
IDS = [next(iter(settings.values())) for _, settings in CASES]
every_rule = pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)


@pytest.mark.parametrize("cls", [NorMuon, Muon])
@pytest.mark.parametrize("method", ["step", "zero_grad", "add_param_group", "load_state_dict"])
def test_parameter_names_and_kinds_are_the_base_class(cls: type, method: str) -> None:
    def shape(owner: type) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(getattr(owner, method)).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    assert shape(cls) == shape(Optimizer)


@every_rule
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_left_as_they_were(
    cls: type, settings: dict, layout: str, dtype: torch.dtype, gradients
) -> None:
    matrix, vector = nn.Parameter(torch.ones(6, 9, dtype=dtype)), nn.Parameter(torch.ones(5))
    groups = [{"params": [matrix]}, {"params": [vector], "algorithm": "adamw", "lr": 0.1}]
    optimizer = cls(groups, lr=0.1, **settings)
    [grad] = gradients((9, 6), steps=1, dtype=dtype)
    grad = grad.mT if layout == "transposed" else grad.mT.contiguous()
    for _ in range(2):
        matrix.grad, vector.grad = grad, torch.arange(5.0)
        before, identity = grad.clone(), matrix.grad
        optimizer.step()
        assert matrix.grad is identity
        assert torch.equal(matrix.grad, before)
        assert torch.equal(vector.grad, torch.arange(5.0))


@every_rule
def test_strides_of_weights_and_gradients_do_not_matter(
    cls: type, settings: dict, gradients, run
) -> None:
    grads = gradients((10, 6))
    plain = nn.Parameter(torch.ones(10, 6))
    turned = nn.Parameter(torch.ones(6, 10).mT)
    assert not turned.is_contiguous()
    expected = run(cls([plain], lr=0.1, **settings), plain, grads)
    got = run(cls([turned], lr=0.1, **settings), turned, [g.mT.contiguous().mT for g in grads])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@every_rule
def test_a_missing_gradient_is_skipped(cls: type, settings: dict, gradients) -> None:
    with_grad, without = nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(4, 6))
    optimizer = cls([with_grad, without], lr=0.1, **settings)
    [with_grad.grad] = gradients((4, 6), steps=1)
    optimizer.step()
    assert torch.equal(without, torch.ones(4, 6))
    assert without not in optimizer.state
    assert not torch.equal(with_grad, torch.ones(4, 6))


@every_rule
def test_the_same_gradients_give_the_same_bits(cls: type, settings: dict, gradients, run) -> None:
    ends = []
    for _ in range(2):
        p = nn.Parameter(torch.ones(24, 16))
        ends.append(run(cls([p], lr=0.05, **settings), p, gradients((24, 16), steps=4)))
    assert torch.equal(*ends)


@every_rule
def test_bf16_weights_follow_float32_ones(cls: type, settings: dict, gradients, run) -> None:
    grads = gradients((16, 24), dtype=torch.bfloat16)
    half, full = (nn.Parameter(torch.zeros(16, 24, dtype=d)) for d in (torch.bfloat16, torch.float))
    got = run(cls([half], lr=1.0, **settings), half, grads)
    expected = run(cls([full], lr=1.0, **settings), full, [g.float() for g in grads])
    assert got.dtype == torch.bfloat16
    assert ((got.float() - expected).norm() / expected.norm()) < 0.05


def test_state_is_one_matrix_and_one_number_per_neuron(gradients, run) -> None:
    m, n = 12, 30
    for cls, settings, numbers in [
        (NorMuon, {}, m * (n + 1)),
        (NorMuon, {"family": "larger-axis"}, m * n + n),
        (Muon, {}, m * n),
    ]:
        p = nn.Parameter(torch.zeros(m, n))
        optimizer = cls([p], lr=0.1, **settings)
        run(optimizer, p, gradients((m, n)))
        state = dict(optimizer.state[p])
        assert state.pop("step").item() == 3
        assert set(state) <= {"momentum", "second_moment"}
        assert sum(value.numel() for value in state.values()) == numbers


def test_decay_shrinks_the_weights_by_exactly_lr_times_decay() -> None:
    p = nn.Parameter(torch.full((3, 5), 2.0))
    p.grad = torch.zeros(3, 5)
    NorMuon([p], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(p, torch.full((3, 5), 2.0) * (1 - 0.5 * 0.1))


@every_rule
def test_a_quadratic_goes_down(cls: type, settings: dict) -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(16, 12, generator=generator)
    inputs = torch.randn(64, 12, generator=generator)
    p, bias = nn.Parameter(torch.zeros(16, 12)), nn.Parameter(torch.zeros(16))
    groups = [{"params": [p]}, {"params": [bias], "algorithm": "adamw", "lr": 0.01}]
    optimizer = cls(groups, lr=0.05, weight_decay=0.0, **settings)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (inputs @ (p - target).mT + bias).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_closure_runs_with_gradients_and_its_loss_comes_back() -> None:
    p = nn.Parameter(torch.ones(3, 3))
    optimizer = NorMuon([p], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 9.0
    assert not torch.equal(p, torch.ones(3, 3))
    p.grad = None
    assert optimizer.step() is None


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_schedulers_set_the_step(tensor_lr: bool, gradients) -> None:
    p, bias = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(8))
    lr = torch.tensor(0.1) if tensor_lr else 0.1
    groups = [{"params": [p]}, {"params": [bias], "algorithm": "adamw", "lr": 0.01}]
    optimizer = NorMuon(groups, lr=lr, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step, grad in enumerate(gradients((8, 8))):
        before = p.detach().clone()
        p.grad, bias.grad = grad, torch.ones(8)
        optimizer.step()
        moved = (p - before).square().mean().sqrt().item()
        assert moved == pytest.approx(0.2 * 0.1 / (1 + step), rel=1e-4)
        scheduler.step()
    assert float(optimizer.param_groups[1]["lr"]) == pytest.approx(0.01 / 4)


def test_one_cycle_finds_its_momentum() -> None:
    p = nn.Parameter(torch.zeros(4, 4))
    optimizer = NorMuon([p], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=4)
    for _ in range(3):
        p.grad = torch.eye(4)
        optimizer.step()
        scheduler.step()
    assert 0.85 <= optimizer.param_groups[0]["momentum"] <= 0.95


def test_grad_scaler_changes_nothing_and_skips_overflow(gradients) -> None:
    [grad] = gradients((6, 8), steps=1)
    ends = []
    for scale in (1.0, 2.0**10):
        p = nn.Parameter(torch.zeros(6, 8))
        optimizer = NorMuon([p], lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale((p * grad).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        ends.append(p.detach().clone())
        p.grad = torch.full_like(p, float("inf"))
        scaler.scale(torch.zeros(()))
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(p, ends[-1])
    assert torch.equal(*ends)


@every_rule
def test_observer_sees_both_stages_and_changes_no_bit(
    cls: type, settings: dict, gradients, run
) -> None:
    seen: list[tuple[nn.Parameter, str, Tensor]] = []
    ends = []
    for watched in (False, True):
        p = nn.Parameter(torch.zeros(10, 14))
        optimizer = cls([p], lr=0.1, **settings)
        if watched:
            optimizer.stage_observer = lambda *what: seen.append((*what[:2], what[2].clone()))
        ends.append(run(optimizer, p, gradients((10, 14), steps=2)))
    assert torch.equal(*ends)
    assert [stage for _, stage, _ in seen] == ["ns_input", "orthogonalized", "update"] * 2
    assert all(owner is p and tensor.shape == (10, 14) for owner, _, tensor in seen)
    values = torch.linalg.svdvals(seen[1][2].double())
    assert values.max() < 1.25
    assert values.min() > 0.5


def test_the_weights_move_by_two_operations_only(gradients) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Writes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if args and isinstance(args[0], Tensor) and args[0].data_ptr() == p.data_ptr():
                found.append((func.overloadpacket.__name__, kwargs or {}))
            return func(*args, **(kwargs or {}))

    found: list[tuple[str, dict]] = []
    p = nn.Parameter(torch.ones(6, 8))
    optimizer = NorMuon([p], lr=0.1, weight_decay=0.2)
    [p.grad] = gradients((6, 8), steps=1)
    with Writes():
        optimizer.step()
    writes = [(name, keywords) for name, keywords in found if name.endswith("_")]
    assert writes == [("mul_", {}), ("add_", {"alpha": -0.1})]


def test_copies_and_pickles_go_on_with_the_same_bits(gradients, run) -> None:
    grads = gradients((6, 8), steps=4)
    p = nn.Parameter(torch.zeros(6, 8))
    optimizer = NorMuon([p], lr=0.1, family="dion")
    run(optimizer, p, grads[:2])
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    expected = run(optimizer, p, grads[2:])
    for twin in copies:
        assert twin.stage_observer is None
        [q] = twin.param_groups[0]["params"]
        assert torch.equal(run(twin, q, grads[2:]), expected)
