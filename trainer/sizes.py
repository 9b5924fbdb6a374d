"""How large a configured run is, before it is started: weights, optimizer state, bytes per rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from optgeom.trainer.config import TrainConfig
from optgeom.trainer.model import GPT

FLOAT = 4
"""Bytes of weights, gradients and moments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Numbers of a model, over all ranks.

    Attributes:
        weights: All of them.
        hidden: In the matrices of blocks, which muon and normuon orthogonalize.
        neurons: Rows of these.
        block: Of one block, the unit that is gathered in the forward and backward pass.
    """

    weights: int
    hidden: int
    neurons: int
    block: int

    @classmethod
    def of(cls, config: TrainConfig) -> Sizes:
        """Count a configuration's model without making it."""
        with torch.device("meta"):
            model = GPT(config.model, length=config.data.sequence)
        blocks = [p for p in model.blocks.parameters() if p.ndim == 2]
        return cls(
            weights=sum(p.numel() for p in model.parameters()),
            hidden=sum(p.numel() for p in blocks),
            neurons=sum(p.shape[0] for p in blocks),
            block=sum(p.numel() for p in model.blocks[0].parameters()),
        )

    def state(self, optimizer: str) -> int:
        """Numbers that an optimizer keeps beside the weights, over all ranks.

        Args:
            optimizer: "adamw" 2 a weight; "muon" 1 a hidden weight and 2 of the rest; "normuon" one
                more a neuron.
        """
        if optimizer == "adamw":
            return 2 * self.weights
        second = self.neurons if optimizer == "normuon" else 0
        return self.hidden + second + 2 * (self.weights - self.hidden)

    def bytes_per_rank(self, config: TrainConfig, ranks: int) -> int:
        """Bytes of weights, gradients and state on each rank, and of two gathered blocks.

        Activations come on top: with ``recompute`` about 2 bytes x tokens of the rank x width x
        blocks, and one block's own.
        """
        sharded = FLOAT * (2 * self.weights + self.state(config.optimizer.name)) // ranks
        gathered = 2 * self.block * (2 if config.precision == "bfloat16" else FLOAT)
        return sharded + (gathered if ranks > 1 else 0)
