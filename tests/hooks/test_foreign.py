"""Other people's optimizers: what is read rebuilds the weights, and the run keeps its bits."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_optimizer

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

STEPS = 4
MUONS = {"AdaMuon", "Muon", "NorMuon", "MuonClip"}
NAMES = [
    "AdaMuon",
    "Adan",
    "CAME",
    "Lamb",
    "LARS",
    "Lion",
    "MuonClip",
    "Muon",
    "NorMuon",
    "Prodigy",
    "SOAP",
    "ScheduleFreeAdamW",
    "ScalableShampoo",
    "Shampoo",
    "Tiger",
    "AdEMAMix",
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.up = nn.Linear(6, 12, bias=False)
        self.down = nn.Linear(12, 6, bias=False)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)


def build(name: str, model: nn.Module) -> Any:
    cls = getattr(pytorch_optimizer, name)
    if name in MUONS:
        try:
            return cls([{"params": list(model.parameters()), "use_muon": True}], lr=0.01)
        except (TypeError, ValueError, KeyError):
            pass
    try:
        return cls(model.parameters(), lr=0.01)
    except TypeError:
        return cls(model, lr=0.01)


def run(name: str, watch: Any) -> tuple[list[list[Tensor]], Any]:
    torch.manual_seed(0)
    model = Net()
    optimizer = build(name, model)
    if hasattr(optimizer, "train"):
        optimizer.train()
    recorder = None if watch is None else watch(model, optimizer)
    generator = torch.Generator().manual_seed(5)
    weights = [[p.detach().clone() for p in model.parameters()]]
    for _ in range(STEPS):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
        weights.append([p.detach().clone() for p in model.parameters()])
    if recorder is not None:
        recorder.close()
    weights.append([torch.get_rng_state()])
    return weights, recorder


@pytest.mark.parametrize("name", NAMES)
def test_the_record_explains_every_step(name: str, watched, opened) -> None:
    plain, _ = run(name, None)
    seen, recorder = run(name, watched)
    assert recorder.failure is None
    for before, after in zip(plain, seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    trace = opened()
    rows = trace.metrics(stages=["update"]).to_pylist()
    assert len(rows) == STEPS * 2
    assert {row["status"] for row in rows} <= {"ok", "zero"}
    for row in rows:
        place = ["up", "down"].index(row["layer"])
        before, after = (plain[row["step"] + i][place].double() for i in (0, 1))
        update = torch.from_numpy(trace.matrix(row["step"], row["layer"])).double()
        rebuilt = (1 - row["decay"]) * before - row["lr"] * update
        size = max(before.abs().max().item(), after.abs().max().item())
        assert (rebuilt - after).abs().max() <= 1e-6 * size
