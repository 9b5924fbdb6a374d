"""A training step that is compiled whole, with the recorder's methods inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own messages are not ours


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Rule:
    """No Optimizer: it is stood around by hand."""

    def __init__(self, params: Any) -> None:
        self.param_groups = [{"params": list(params), "lr": 0.5}]

    def apply(self) -> None:
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad, alpha=0.5)


def run(model: nn.Module, optimizer: Any, recorder: Any, *, compiled: bool) -> list[torch.Tensor]:
    x = torch.linspace(-1, 1, 12).reshape(2, 6)

    def step() -> Any:
        loss = (model(x) - 1).square().mean()
        loss.backward()
        if isinstance(optimizer, Rule):
            if recorder is None:
                optimizer.apply()
            else:
                with recorder.applying():
                    optimizer.apply()
        else:
            optimizer.step()
        for p in model.parameters():
            p.grad = None
        if recorder is not None:
            recorder.log(loss=loss)
            recorder.advance()
            if recorder.step == 3:
                recorder.capture_next()
        return loss

    step = torch.compile(step, backend="eager") if compiled else step
    for _ in range(6):
        step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("kind", ["optimizer", "rule"])
def test_it_keeps_its_bits_and_is_captured(kind: str, watched, opened) -> None:
    def build() -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        if kind == "rule":
            return model, Rule(model.parameters())
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    model, optimizer = build()
    plain = run(model, optimizer, None, compiled=True)
    model, optimizer = build()
    with watched(model, optimizer, every=2, updates_every=2) as recorder:
        seen = run(model, optimizer, recorder, compiled=True)
        assert recorder.failure is None
        assert recorder.step == 6
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    trace = opened()
    assert trace.steps("0").tolist() == [0, 2, 3, 4]
    assert trace.scalars("loss")["step"].to_pylist() == list(range(6))
