"""Runs that went wrong, trained and watched for real: diverged, zero, or with a learning rate of 0.

Six steps of one matrix, captured at steps 0 to 5; what goes wrong does so at step 5, so that
steps 0 to 4 are the healthy numbers that must not be shown for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

import optgeom
from optgeom.optim import NorMuon

Fault = Literal["none", "non_finite", "zero", "lr_zero"]
LAYER = "0"
LAST = 5


def train(
    out: Path,
    fault: Fault = "none",
    *,
    stages: tuple[str, ...] = ("gradient", "momentum", "update"),
    start: int = LAST,
) -> Path:
    """Train and capture every step; from step ``start`` on it goes wrong as ``fault`` says."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8, bias=False))
    optimizer: torch.optim.Optimizer
    if fault == "zero":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        stages = tuple(stage for stage in stages if stage != "momentum")
    else:
        optimizer = NorMuon(model.parameters(), lr=0.1)
    settings = {"every": 1, "spectra_every": 1, "stages": stages, "budget": None}
    with optgeom.watch(model, optimizer, out=out, **settings) as recorder:  # type: ignore[arg-type]
        for step in range(LAST + 1):
            optimizer.zero_grad()
            loss = model(torch.randn(4, 6)).square().mean()
            if step >= start and fault == "non_finite":
                loss = loss * float("nan")
            if step >= start and fault == "zero":
                loss = loss * 0.0
            if step >= start and fault == "lr_zero":
                optimizer.param_groups[0]["lr"] = 0.0
            loss.backward()
            optimizer.step()
            recorder.log(loss=loss.item())
    return out
