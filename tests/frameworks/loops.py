"""Models, data and the numbers that a trace should have sent, computed from its tables."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

import optgeom

STEPS = 12
METRICS = ("neuron_norm_cv", "condition_number", "stable_rank", "update_to_weight")


class Blocks(nn.Module):
    """Three blocks, each with a layer up and one down."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {"mlp": nn.ModuleDict({"up": nn.Linear(8, 12), "down": nn.Linear(12, 8)})}
            )
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block["mlp"]["down"](torch.relu(block["mlp"]["up"](x)))
        return x


def batch(step: int) -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    loss: Tensor = (model(x) - x.roll(1, 0)).square().mean()
    return loss


def train(out: Path, **settings: object) -> optgeom.Trace:
    """A run of the plain loop, captured every other step."""
    model = Blocks()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with optgeom.watch(model, optimizer, out, every=2, budget=None, **settings) as rec:
        for step in range(STEPS):
            loss = loss_of(model, batch(step))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            rec.log(loss=loss)
    return optgeom.open_trace(out)


def expected(trace: optgeom.Trace) -> dict[str, dict[int, float]]:
    """What should have been sent by default, from trace.metrics() and without our own series."""
    kinds = {layer.name: layer.kind for layer in trace.layers}
    groups: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for row in trace.metrics(stages="update").to_pylist():
        assert row["status"] == "ok"
        for metric in METRICS:
            if row[metric] is not None:
                groups[kinds[row["layer"]], metric, row["step"]].append(row[metric])
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for (kind, metric, step), values in groups.items():
        name = f"optgeom/{kind}/{metric}"
        found[name][step] = statistics.median(values)
        found[f"{name}_min"][step] = min(values)
        found[f"{name}_max"][step] = max(values)
    for row in trace.scalars("loss").to_pylist():
        found["optgeom/loss"][row["step"]] = row["value"]
    return dict(found)
