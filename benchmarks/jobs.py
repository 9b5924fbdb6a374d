"""The training jobs that the benchmarks time: a model, its optimizers, batches of random bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timing import NS_DTYPE
from torch import Tensor, nn
from torch.nn import functional as F

OptimizerName = Literal["adamw", "adamw-foreach", "muon", "normuon"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("adamw", "adamw-foreach", "muon", "normuon")

BATCHES = 8
"""Batches of random bytes that a job goes round."""


@dataclass(frozen=True, slots=True)
class Size:
    """A transformer and its batch: fused qkv (3d x d), o, up (4d x d), down per block."""

    blocks: int
    width: int
    heads: int
    batch: int
    sequence: int
    vocabulary: int = 256


SIZES = {
    "tiny": Size(blocks=1, width=32, heads=2, batch=2, sequence=16),
    "demo": Size(blocks=4, width=128, heads=4, batch=8, sequence=64),
    "small": Size(blocks=6, width=256, heads=4, batch=16, sequence=64),
    "gpt2": Size(blocks=12, width=768, heads=12, batch=2, sequence=64, vocabulary=50304),
}
"""For smoke tests; the demo's, with the trainer's model; 4.9 M parameters; GPT-2 small's."""


class Block(nn.Module):
    """Pre-norm attention and MLP with squared ReLU; (B, T, D) to (B, T, D)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.heads = size.heads
        self.attention_norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches to the residual stream."""
        fused = self.qkv(self.attention_norm(x))
        q, k, v = fused.view(*x.shape[:2], 3 * self.heads, -1).transpose(1, 2).chunk(3, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.relu(self.up(self.mlp_norm(x))).square())
        return out


class Transformer(nn.Module):
    """Token ids (B, T) to logits (B, T, V); the head is not tied to the embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocabulary, size.width)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.blocks)))
        self.norm = nn.RMSNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        out: Tensor = self.head(self.norm(self.blocks(self.embedding(tokens))))
        return out


def demo_model() -> nn.Module:
    """The GPT of `optgeom demo`, 0.8 M parameters."""
    from optgeom.trainer.demo import demo_config
    from optgeom.trainer.model import build_model

    config = demo_config("adamw")
    return build_model(config.model, length=config.data.sequence, seed=0)


def transformer(size: Size, *, seed: int = 0) -> Transformer:
    """A transformer whose projections start with standard deviation 0.5 / sqrt(inputs)."""
    torch.manual_seed(seed)
    model = Transformer(size)
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and name != "embedding.weight":
            nn.init.normal_(weight, std=0.5 / math.sqrt(weight.shape[1]))
    return model


def optimizers(model: nn.Module, name: OptimizerName) -> list[torch.optim.Optimizer]:
    """What trains a model: torch's AdamW, or torch's Muon beside it, or our NorMuon alone.

    Args:
        model: with hidden matrices in blocks, and the rest.
        name: "adamw" is the default for-loop of torch.optim.AdamW on a CPU.
    """
    if name in ("adamw", "adamw-foreach"):
        return [torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=name == "adamw-foreach")]
    if name == "normuon":
        # only here: what measures memory needs no more than torch
        from optgeom.optim import NorMuon, param_groups

        return [NorMuon(param_groups(model, lr=4e-3, adamw_lr=1e-3), 4e-3, ns_dtype=NS_DTYPE)]
    hidden = [p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2]
    known = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(hidden, lr=4e-3, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1e-3),
    ]


class Job:
    """A model in training."""

    def __init__(self, size: str, optimizer: OptimizerName) -> None:
        """Build the model and its optimizers.

        Args:
            size: a name in `SIZES`.
            optimizer: by name.
        """
        self.model = demo_model() if size == "demo" else transformer(SIZES[size])
        self.optimizers: Sequence[torch.optim.Optimizer] = optimizers(self.model, optimizer)
        generator = torch.Generator().manual_seed(1)
        shape = (BATCHES, SIZES[size].batch, SIZES[size].sequence + 1)
        self._batches = torch.randint(0, 256, shape, generator=generator)
        self._steps = 0

    @property
    def watched(self) -> Any:
        """What `watch` takes: the optimizer, or the list of them."""
        return self.optimizers[0] if len(self.optimizers) == 1 else list(self.optimizers)

    @property
    def matrices(self) -> list[nn.Parameter]:
        """Every matrix, embedding and head included."""
        return [p for p in self.model.parameters() if p.ndim == 2]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Logits of the next batch, (B, T, V), and the tokens that follow, (B, T)."""
        tokens = self._batches[self._steps % BATCHES]
        self._steps += 1
        return self.model(tokens[:, :-1]), tokens[:, 1:]

    def backward(self) -> None:
        """Forward and backward on the next batch."""
        logits, following = self.forward()
        loss = F.cross_entropy(logits.flatten(0, 1), following.flatten())
        loss.backward()  # type: ignore[no-untyped-call]

    def apply(self, *, unwatched: bool = False) -> None:
        """Step the optimizers.

        Args:
            unwatched: call their class's own step, past whatever has wrapped the instance's.
        """
        for optimizer in self.optimizers:
            if unwatched:
                type(optimizer).step(optimizer)
            else:
                optimizer.step()

    def zero_grad(self) -> None:
        """Let the gradients go."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
