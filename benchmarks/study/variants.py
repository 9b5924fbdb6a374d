"""The ablations of arXiv:2510.05491: what NorMuon would be without one of its decisions.

Each is a rule as a pure function, and an optimizer that differs from ``optgeom.optim.NorMuon`` in
that rule alone; momentum, iteration, decay and AdamW for the rest are the same code. They are for
one process: a rule that needs a norm takes it from the rows that it is given. Last, AdamW with as
many learning rates as they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from optgeom.optim import NorMuon
from optgeom.optim.layout import local
from optgeom.optim.momentum import shape_scale
from optgeom.trainer.config import OptimizerConfig
from optgeom.trainer.optimizers import build_optimizer

__all__ = [
    "CoordinateWise",
    "FixedNorm",
    "NormalizedBefore",
    "TallOnly",
    "adamw_two_rates",
    "coordinate_wise",
    "fixed_norm",
    "normalized_rows",
]

RMS = 0.2
"""Of every update that is rescaled, per unit of lr: the paper's."""


def fixed_norm(orthogonalized: Tensor) -> Tensor:
    """Give every matrix the same root mean square.

    Args:
        orthogonalized: (..., m, n).

    Returns:
        0.2 * sqrt(m n) * O / ||O||_F; zero where O is zero.
    """
    norm = torch.linalg.matrix_norm(orthogonalized, keepdim=True)
    rows, cols = orthogonalized.shape[-2:]
    # a zero update has no direction: it stays zero instead of 0 * inf
    scale = torch.where(norm > 0, RMS * (rows * cols) ** 0.5 / norm, 0.0)
    return orthogonalized * scale


def coordinate_wise(
    orthogonalized: Tensor, second_moment: Tensor, *, beta2: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Divide every entry of O by its own running RMS, then fix the norm.

    Args:
        orthogonalized: O, (..., m, n).
        second_moment: v, the same shape, before this step.
        beta2: The decay of v.
        eps: Added to the root of v.

    Returns:
        The update and v after the step.
    """
    second_moment = second_moment.lerp(orthogonalized.square(), 1 - beta2)
    return fixed_norm(orthogonalized / (second_moment.sqrt() + eps)), second_moment


def normalized_rows(
    momentum: Tensor, second_moment: Tensor, *, beta2: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Divide every row by its running RMS, as NorMuon does, but of what is not orthogonalized yet.

    Args:
        momentum: M, (m, n).
        second_moment: v, (m, 1), before this step.
        beta2: The decay of v.
        eps: Added to the root of v.

    Returns:
        M / (sqrt(v) + eps), and v after the step.
    """
    mean_square = momentum.square().mean(dim=-1, keepdim=True)
    second_moment = second_moment.lerp(mean_square, 1 - beta2)
    return momentum / (second_moment.sqrt() + eps), second_moment


class FixedNorm(NorMuon):
    """Muon with its whole-matrix norm fixed: NorMuon's rescale without its second moment."""

    def extra_state(self, shape: torch.Size, settings: Any) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}

    def sums(self, orthogonalized: Tensor, extras: dict[str, Tensor], settings: Any) -> None:
        """Nothing is communicated."""

    def rule(
        self,
        orthogonalized: Tensor,
        sums: Tensor | None,
        extras: dict[str, Tensor],
        settings: Any,
        shape: tuple[int, int],
    ) -> Tensor:
        """See ``fixed_norm``."""
        return fixed_norm(orthogonalized)


class CoordinateWise(FixedNorm):
    """NorMuon with a second moment for every entry instead of every neuron; twice the state."""

    def extra_state(self, shape: torch.Size, settings: Any) -> dict[str, tuple[int, ...]]:
        """The second moment, of the matrix's shape."""
        return {"second_moment": tuple(shape)}

    def rule(
        self,
        orthogonalized: Tensor,
        sums: Tensor | None,
        extras: dict[str, Tensor],
        settings: Any,
        shape: tuple[int, int],
    ) -> Tensor:
        """See ``coordinate_wise``."""
        update, second_moment = coordinate_wise(
            orthogonalized, extras["second_moment"], beta2=settings.beta2, eps=settings.eps
        )
        extras["second_moment"].copy_(second_moment)
        return update


class NormalizedBefore(FixedNorm):
    """NorMuon with the neurons' normalization before the orthogonalization instead of after."""

    def extra_state(self, shape: torch.Size, settings: Any) -> dict[str, tuple[int, ...]]:
        """The second moment of the momentum's rows."""
        return {"second_moment": (*shape[:-1], 1)}

    def _look_ahead(
        self, params: Sequence[Parameter], settings: Any
    ) -> tuple[dict[int, Tensor], list[Tensor]]:
        before, found = super()._look_ahead(params, settings)
        normalized = []
        for p, ns_input in zip(params, found, strict=True):
            second_moment = local(self.state[p]["second_moment"])
            rows, after = normalized_rows(
                ns_input, second_moment, beta2=settings.beta2, eps=settings.eps
            )
            second_moment.copy_(after)
            normalized.append(rows)
        return before, normalized


class TallOnly(NorMuon):
    """NorMuon where a matrix has more rows than columns, Muon (scale match_rms) elsewhere."""

    def extra_state(self, shape: torch.Size, settings: Any) -> dict[str, tuple[int, ...]]:
        """NorMuon's, or none."""
        return super().extra_state(shape, settings) if shape[-2] > shape[-1] else {}

    def sums(
        self, orthogonalized: Tensor, extras: dict[str, Tensor], settings: Any
    ) -> Tensor | None:
        """NorMuon's, or none."""
        return super().sums(orthogonalized, extras, settings) if extras else None

    def rule(
        self,
        orthogonalized: Tensor,
        sums: Tensor | None,
        extras: dict[str, Tensor],
        settings: Any,
        shape: tuple[int, int],
    ) -> Tensor:
        """NorMuon's, or Muon's."""
        if extras:
            return super().rule(orthogonalized, sums, extras, settings, shape)
        return orthogonalized.mul_(shape_scale("match_rms", *shape))


def adamw_two_rates(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """AdamW that moves hidden matrices at ``config.lr``, the rest at ``config.adamw_lr``."""
    optimizer = build_optimizer(model, config)
    hidden, _ = optimizer.param_groups
    hidden["lr"] = config.lr
    return optimizer
