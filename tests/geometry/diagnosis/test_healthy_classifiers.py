"""Small classifiers whose gradients are ill-conditioned, as correct optimizers train them.

Few classes and a loss near zero leave gradients of low rank, whose rounding an iteration lifts;
ReLU units die; rows of rare tokens hardly move; schedules begin and end at nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optgeom

Batch = tuple[Tensor, Tensor]
Make = Callable[[nn.Module], Any]
At = Callable[[nn.Module, Any, int], None]


class Mlp(nn.Module):
    """ReLU layers, (32,) to 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        wide = nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
        self.layers = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), *wide, nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class Bottleneck(nn.Module):
    """A square layer behind which 8 numbers are all that is left."""

    def __init__(self) -> None:
        super().__init__()
        tall = nn.Linear(8, 512), nn.GELU(), nn.Linear(512, 10)
        self.layers = nn.Sequential(nn.Linear(32, 96), nn.GELU(), nn.Linear(96, 96))
        self.rest = nn.Sequential(nn.Linear(96, 8), *tall)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.rest(self.layers(x))
        return found


class Lora(nn.Module):
    """Frozen layers with a part of rank 4 each that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.ModuleList(nn.Linear(32, 32) for _ in range(2)).requires_grad_(False)
        self.down = nn.ModuleList(nn.Linear(32, 4, bias=False) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(4, 32, bias=False) for _ in range(2))
        self.out = nn.Linear(32, 10)
        for up in self.up:
            nn.init.zeros_(up.weight)

    def forward(self, x: Tensor) -> Tensor:
        for base, down, up in zip(self.base, self.down, self.up, strict=True):
            x = F.gelu(base(x) + up(down(x)))
        found: Tensor = self.out(x)
        return found


class Tokens(nn.Module):
    """An embedding of 300 tokens, most of them rare, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(300, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 300, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.emb(x)
        found: Tensor = self.head(h + self.down(F.silu(self.up(h))))
        return found


def points(size: int = 32) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(10, 32, generator=generator)
    while True:
        y = torch.randint(0, 10, (size,), generator=generator)
        yield centers[y] + torch.randn(size, 32, generator=generator), y


def tokens() -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    often = 1.0 / torch.arange(1, 301).float() ** 1.2
    while True:
        drawn = torch.multinomial(often, 128, True, generator=generator)
        yield drawn[:64], torch.where(drawn[:64] % 3 > 0, (drawn[:64] * 7) % 50, drawn[64:])


def same(size: int = 256) -> Iterator[Batch]:
    batch = next(points(size))
    while True:
        yield batch


def matrices(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.ndim == 2 and p.requires_grad]


def adamw(lr: float = 1e-3, **settings: Any) -> Make:
    return lambda net: torch.optim.AdamW(net.parameters(), lr=lr, **settings)


def sgd(lr: float = 0.05, momentum: float = 0.9) -> Make:
    return lambda net: torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)


def muon(**settings: Any) -> Make:
    return lambda net: optgeom.optim.Muon(matrices(net), lr=0.01, **settings)


def normuon(family: str) -> Make:
    return lambda net: optgeom.optim.NorMuon(matrices(net), lr=0.01, family=family)


def torch_muon(**settings: Any) -> Make:
    return lambda net: torch.optim.Muon(matrices(net), lr=0.02, **settings)


def nothing(net: nn.Module, optimizer: Any, step: int) -> None:
    pass


def warm_up(net: nn.Module, optimizer: Any, step: int) -> None:
    optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, step / 50)


def ends(net: nn.Module, optimizer: Any, step: int) -> None:
    optimizer.param_groups[0]["lr"] = 1e-2 if step < 30 else 1e-8


def spike(net: nn.Module, optimizer: Any, step: int) -> None:
    for p in net.parameters():
        if step == 60 and p.grad is not None:
            p.grad *= 1000.0


INSIDE = {"stages": ("update", "ns_input", "orthogonalized")}
ALL = {"layers": lambda name, parameter: parameter.ndim == 2}
EVERY = {"every": 1}

FAMILIES = ("paper", "released", "dion", "larger-axis")
CASES: dict[str, tuple[type[nn.Module], Make, Callable[[], Iterator[Batch]], At, dict[str, Any]]]
CASES = {
    "adamw": (Mlp, adamw(), points, nothing, {}),
    "sgd": (Mlp, sgd(), points, nothing, {}),
    "torch-muon": (Mlp, torch_muon(), points, nothing, {}),
    "torch-muon-few-samples": (Mlp, torch_muon(), lambda: points(2), nothing, {}),
    **{
        f"muon-{scale}": (Mlp, muon(scale=scale), points, nothing, INSIDE)
        for scale in ("match_rms", "original", "spectral", "none")
    },
    "muon-polar-express": (
        Bottleneck,
        muon(coefficients="polar_express"),
        lambda: points(4),
        nothing,
        {},
    ),
    **{f"normuon-{one}": (Mlp, normuon(one), points, nothing, {}) for one in FAMILIES},
    **{f"bottleneck-{one}": (Bottleneck, normuon(one), points, nothing, {}) for one in FAMILIES},
    "bottleneck-dion-inside": (Bottleneck, normuon("dion"), points, nothing, INSIDE),
    "lora-dion": (Lora, normuon("dion"), points, nothing, {}),
    "lora-larger-axis": (Lora, normuon("larger-axis"), points, nothing, {}),
    "tokens-adamw": (Tokens, adamw(3e-3), tokens, nothing, ALL),
    "tokens-sgd": (Tokens, sgd(0.1), tokens, nothing, ALL),
    "tokens-normuon": (Tokens, normuon("paper"), tokens, nothing, ALL | INSIDE),
    "warm-up": (Mlp, adamw(), points, warm_up, {}),
    "adamw-ends": (Mlp, adamw(1e-2), points, ends, {}),
    "muon-ends": (Mlp, muon(), points, ends, {}),
    "sgd-spike": (Mlp, sgd(1e-4, 0.95), points, spike, EVERY),
    "adamw-spike": (Mlp, adamw(betas=(0.95, 0.95)), points, spike, EVERY),
    "full-batch": (Mlp, sgd(0.01), same, nothing, {}),
    "slow-momentum": (Mlp, sgd(0.002, 0.998), points, nothing, EVERY),
}


@pytest.mark.parametrize("name", CASES)
def test_a_correct_optimizer_gives_no_warning(name: str, tmp_path: Path) -> None:
    kind, make, data, before_step, watching = CASES[name]
    torch.manual_seed(0)
    net, batches = kind(), data()
    optimizer = make(net)
    settings = {"every": 5, "updates_every": 0, "budget": None} | watching
    with optgeom.watch(net, optimizer, tmp_path / "run", **settings):
        for step in range(100):
            x, y = next(batches)
            F.cross_entropy(net(x), y).backward()
            before_step(net, optimizer, step)
            optimizer.step()
            optimizer.zero_grad()
    found = optgeom.diagnose(optgeom.open_trace(tmp_path / "run"))
    assert not found.found, str(found)
    # and not because nobody looked
    judged = {"not_finite", "never_moves", "ascends", "repeated_update", "lost_to_rounding"}
    if "muon" in name:
        judged |= {"not_orthogonal"}
    assert judged <= set(found.judged)
