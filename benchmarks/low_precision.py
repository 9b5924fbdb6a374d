"""One step of SGD with narrow weights, read from its operand and from the weights' difference."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from timing import machine, table
from torch import Tensor, nn

import optgeom
from optgeom.geometry.floor import difference_floor

CONDITION = 15.2
RATES = (2e-2, 2e-3, 2e-4)


def gradient(side: int) -> Tensor:
    """A matrix of the wanted condition number, singular values evenly spread up to 1."""
    left, _, right = torch.linalg.svd(torch.randn(side, side, dtype=torch.float64))
    return (
        left @ torch.diag(torch.linspace(1.0, 1.0 / CONDITION, side, dtype=torch.float64)) @ right
    )


def row(dtype: torch.dtype, lr: float, side: int, folder: Path) -> dict[str, str]:
    """What is read both ways at one rate."""
    torch.manual_seed(0)
    model = nn.Linear(side, side, bias=False)
    nn.init.normal_(model.weight, std=0.02)
    model = model.to(dtype)
    model.weight.grad = gradient(side).to(dtype)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with optgeom.watch(model, optimizer, folder, every=1, budget=None):
        optimizer.step()
    read = optgeom.open_trace(folder).metrics().to_pylist()[0]
    difference = (before.float() - model.weight.detach().float()) / lr
    floor = difference_floor(model.weight.detach(), lr)
    other = optgeom.measure(difference, source="difference", noise_floor=floor)
    resolved = other["condition_number_resolved"]
    return {
        "weights": str(dtype).removeprefix("torch."),
        "lr": f"{lr:g}",
        "held back by rounding": f"{100 * read['lost_update_fraction']:.0f} %",
        "condition number, as recorded": f"{read['condition_number']:.1f}",
        "of the difference": f"{torch.linalg.cond(difference.double()):.0f}",
        "resolved part of the difference": "none" if resolved is None else f"{resolved:.1f}",
        "resolved rank": f"{other['resolved_rank'] or 0} of {side}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="of the matrix (512)")
    side = parser.parse_args().side
    print(machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row(dtype, lr, side, Path(folder) / f"{dtype}-{lr}")
            for dtype in (torch.bfloat16, torch.float16)
            for lr in RATES
        ]
    print(table(rows))


if __name__ == "__main__":
    main()
