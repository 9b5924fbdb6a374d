"""A byte-level GPT, plain enough to read in one sitting.

Pre-norm blocks, rotary positions, RMSNorm, normalized queries and keys, grouped key and value
heads, an MLP with squared ReLU or a gate, an untied head. Every projection is a module of its
own, so that each layer of a trace is one matrix of one kind: ``blocks.3.mlp.up``,
``blocks.3.attention.q``, ``embedding``, ``head``. The model knows nothing of how it is trained,
sharded or watched.

Shapes: B sequences, T positions, D width, H query heads, K key and value heads, C channels of a
head, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from optgeom.trainer.config import ModelConfig

INIT_GAIN = 0.5
"""Standard deviation of a projection times the root of its inputs, as in modded-nanogpt."""


def rotary_table(length: int, channels: int, *, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions (RoFormer, arXiv 2104.09864).

    Args:
        length: Positions to prepare, T.
        channels: Channels of one head, C, an even number.
        base: The slowest channel turns once in about ``2 * pi * base`` positions.

    Returns:
        Two float32 tensors of shape (T, C / 2).
    """
    rates = base ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), rates)
    return angles.cos().float(), angles.sin().float()


def rotate(x_BHTC: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Turn each pair of channels (c, c + C / 2) by its position's angle; norms are kept."""
    first, second = x_BHTC.chunk(2, dim=-1)
    return torch.cat((first * cos_TC - second * sin_TC, second * cos_TC + first * sin_TC), dim=-1)


class Attention(nn.Module):
    """Causal attention with rotary positions and normalized queries and keys."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig, *, length: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.key_value_heads
        channels = config.width // config.heads
        self.q = nn.Linear(config.width, self.heads * channels, bias=False)
        self.k = nn.Linear(config.width, self.kv_heads * channels, bias=False)
        self.v = nn.Linear(config.width, self.kv_heads * channels, bias=False)
        self.o = nn.Linear(self.heads * channels, config.width, bias=False)
        self.q_norm = nn.RMSNorm(channels)
        self.k_norm = nn.RMSNorm(channels)
        cos, sin = rotary_table(length, channels, base=config.rotary_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Mix positions; (B, T, D) to (B, T, D)."""
        length = x_BTD.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        q = rotate(self.q_norm(self._heads(self.q(x_BTD), self.heads)), cos, sin)
        k = rotate(self.k_norm(self._heads(self.k(x_BTD), self.kv_heads)), cos, sin)
        v = self._heads(self.v(x_BTD), self.kv_heads)
        q, k = q.to(v.dtype), k.to(v.dtype)  # the rotation is made in float32
        mixed = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self.kv_heads != self.heads
        )
        out_BTD: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out_BTD

    @staticmethod
    def _heads(x_BTD: Tensor, heads: int) -> Tensor:
        return x_BTD.view(*x_BTD.shape[:2], heads, -1).transpose(1, 2)


class MLP(nn.Module):
    """Two projections with squared ReLU between them, or three with a gate (SwiGLU)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.neurons, bias=False)
        self.gate = (
            nn.Linear(config.width, config.neurons, bias=False) if config.mlp == "gated" else None
        )
        self.down = nn.Linear(config.neurons, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform each position; (B, T, D) to (B, T, D)."""
        hidden = self.up(x_BTD)
        hidden = F.relu(hidden).square() if self.gate is None else F.silu(self.gate(x_BTD)) * hidden
        out_BTD: Tensor = self.down(hidden)
        return out_BTD


class Block(nn.Module):
    """One residual block: attention, then MLP, each on a normalized input.

    Attributes:
        recompute: Keep the input alone, and compute the rest again in the backward pass.
    """

    recompute = False

    def __init__(self, config: ModelConfig, *, length: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width)
        self.attention = Attention(config, length=length)
        self.mlp_norm = nn.RMSNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Add both branches to the residual stream; (B, T, D) to (B, T, D)."""
        if self.recompute and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(self._forward, x_BTD, use_reentrant=False)
            return recomputed
        return self._forward(x_BTD)

    def _forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        out_BTD: Tensor = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return out_BTD


class GPT(nn.Module):
    """The whole model: token ids (B, T) int64 to logits (B, T, V)."""

    def __init__(self, config: ModelConfig, *, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, length=length) for _ in range(config.blocks))
        self.norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        x_BTD = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV: Tensor = self.head(self.norm(x_BTD))
        return logits_BTV


def build_model(config: ModelConfig, *, length: int, seed: int) -> GPT:
    """A GPT with weights that depend on the settings and the seed alone.

    The embedding has entries of standard deviation 1, projections 0.5 / sqrt(inputs), those back
    into the residual stream that over sqrt(2 * blocks), as in GPT-2. None starts at zero, so
    every update of the first step can be measured. The global random generator is left as it was.

    Args:
        config: Sizes of the model.
        length: Longest sequence that it will see.
        seed: Seed of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        model = GPT(config, length=length)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim != 2:
            continue
        std = 1.0 if name == "embedding.weight" else INIT_GAIN / math.sqrt(weight.shape[1])
        if name.endswith((".o.weight", ".down.weight")):
            std /= math.sqrt(2 * config.blocks)
        nn.init.normal_(weight, std=std, generator=generator)
    return model


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean next-token loss in nats, a scalar."""
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())
