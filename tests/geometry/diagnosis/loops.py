"""Short real runs, to plant a fault in: a GPT of two blocks on this package's own source."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optgeom
from optgeom.optim import param_groups
from optgeom.trainer.config import ModelConfig
from optgeom.trainer.model import GPT

Make = Callable[[nn.Module], Any]
"""From a model to its optimizer."""

SEQUENCE, BATCH = 32, 16


def model(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(ModelConfig(width=32, heads=2, blocks=2), length=SEQUENCE)


def hidden(net: nn.Module) -> list[nn.Parameter]:
    """The hidden matrices."""
    groups = param_groups(net, lr=1.0, adamw_lr=1.0)
    return [p for group in groups if group.get("algorithm") != "adamw" for p in group["params"]]


def groups(net: nn.Module, lr: float = 0.004, **settings: Any) -> list[dict[str, Any]]:
    """The hidden matrices with these settings; the rest is AdamW's, by its mark."""
    known = param_groups(net, lr=lr, adamw_lr=0.001)
    return [one | settings if one.get("algorithm") != "adamw" else one for one in known]


def batches(steps: int, seed: int = 0) -> Iterator[Tensor]:
    """(B, T + 1) bytes of Python's json: text that no change of ours changes."""
    files = sorted(Path(json.__file__).parent.glob("*.py"))
    text = np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        starts = generator.integers(0, len(text) - SEQUENCE - 1, BATCH)
        picked = text[starts[:, None] + np.arange(SEQUENCE + 1)]
        yield torch.from_numpy(picked.astype(np.int64))


def loss_of(net: nn.Module, batch: Tensor) -> Tensor:
    logits = net(batch[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def train(
    out: Path,
    make: Make,
    *,
    steps: int = 40,
    seed: int = 0,
    net: nn.Module | None = None,
    loss: Callable[[nn.Module, Tensor], Tensor] = loss_of,
    before_step: Callable[[nn.Module], None] = lambda net: None,
    data: Callable[[int, int], Iterator[Tensor]] = batches,
    **watching: Any,
) -> optgeom.Trace:
    """Train and watch; every fifth step whole, unless it is said otherwise."""
    net = model(seed) if net is None else net
    optimizer = make(net)
    settings: Mapping[str, Any] = {"every": 5, "updates_every": 20, "budget": None} | watching
    with optgeom.watch(net, optimizer, out, **settings):
        for batch in data(steps, seed):
            loss(net, batch).backward()
            before_step(net)
            optimizer.step()
            optimizer.zero_grad()
    return optgeom.open_trace(out)
