"""One optimizer per parameter, stepping while the backward pass runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint


class Blocks(nn.Module):
    def __init__(self, *, checkpointed: bool, unused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.checkpointed = checkpointed
        self.skip = unused

    def forward(self, x: Tensor, *, without: int | None = None) -> Tensor:
        for index, block in enumerate(self.blocks):
            if index == without:
                continue
            if self.checkpointed:
                x = checkpoint(lambda y, block=block: torch.tanh(block(y)), x, use_reentrant=False)
            else:
                x = torch.tanh(block(x))
        return x


def in_backward(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Fused into the backward pass as PyTorch's tutorial does it."""
    optimizers = {p: torch.optim.AdamW([p], lr=0.01) for p in model.parameters()}

    def apply(p: Tensor) -> None:
        assert not _get_current_dispatch_mode_stack()  # other hooks of the pass see no mode
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(apply)
    return list(optimizers.values())


def run(model: Blocks, steps: int, **forward: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 6, generator=generator, requires_grad=True)
        model(x, **forward).square().mean().backward()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_step_ends_when_every_optimizer_has_stepped(
    checkpointed: bool, watched, opened
) -> None:
    plain = Blocks(checkpointed=checkpointed)
    in_backward(plain)
    truth = run(plain, 6)
    model = Blocks(checkpointed=checkpointed)
    with watched(model, in_backward(model), every=2, stages=("gradient", "update")) as recorder:
        seen = run(model, 6)
        assert recorder.step == 6
        assert recorder.failure is None
    assert all(torch.equal(a, b) for a, b in zip(truth, seen, strict=True))
    trace = opened()
    for index in range(3):
        name = f"blocks.{index}"
        assert trace.steps(name).tolist() == [0, 2, 4]
        assert trace.metrics(layers=[name], stages=["update"])["status"].to_pylist() == ["ok"] * 3
    # one recorder's step costs the time from one to the next, not from one optimizer to the next
    between = trace.scalars("uncaptured_step_seconds")["value"].to_pylist()[-1]
    elapsed = trace.scalars("capture_seconds")["step"].to_pylist()
    assert between > 0
    assert elapsed == [0, 2, 4]


def test_a_parameter_without_a_gradient_rests_and_the_next_pass_ends_the_step(
    watched, opened
) -> None:
    model = Blocks(checkpointed=False)
    with watched(model, in_backward(model)) as recorder:
        run(model, 1)
        run(model, 2, without=1)  # block 1 is left out twice
        run(model, 1)
        assert recorder.step == 4
    trace = opened()
    assert trace.steps("blocks.0").tolist() == [0, 1, 2, 3]
    assert trace.steps("blocks.1").tolist() == [0, 3]


def test_no_optimizer_is_measured_as_a_step_of_its_own(watched) -> None:
    """The budget's step is the recorder's: it must not believe in steps six times as short."""
    model = Blocks(checkpointed=False)
    with watched(model, in_backward(model), every=10, updates_every=0) as recorder:
        run(model, 9)
        assert len(recorder._costs.between) == 8
        assert len(recorder._costs.uncaptured) == 8
        assert recorder._costs.captures == 1
