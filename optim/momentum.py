"""The first half of every rule here: momentum, and what of it is orthogonalized."""

from __future__ import annotations

import math

from torch import Tensor

from optgeom.optim.families import MatrixSettings

__all__ = ["accumulate_", "look_ahead", "shape_scale"]


def accumulate_(momentum: Tensor, gradient: Tensor, *, settings: MatrixSettings) -> Tensor:
    """Fold a gradient into the momentum, in place.

    Args:
        momentum: (..., m, n), the running momentum; overwritten.
        gradient: The same shape, any floating dtype; not modified.
        settings: ``momentum`` and ``momentum_form`` are read.

    Returns:
        ``momentum``: b*M + (1-b)*G, or b*M + G for the heavy ball.
    """
    gradient = gradient.to(momentum.dtype)
    if settings.momentum_form == "ema":
        return momentum.lerp_(gradient, 1 - settings.momentum)
    return momentum.mul_(settings.momentum).add_(gradient)


def look_ahead(momentum: Tensor, gradient: Tensor, *, settings: MatrixSettings) -> Tensor:
    """What enters the orthogonalization: the momentum, or Nesterov's look-ahead.

    Args:
        momentum: (..., m, n), after ``accumulate_``.
        gradient: The same shape; not modified (published codes overwrite it here).
        settings: ``momentum``, ``momentum_form`` and ``nesterov`` are read.

    Returns:
        ``momentum`` itself, or a new tensor of its dtype.
    """
    if not settings.nesterov:
        return momentum
    gradient = gradient.to(momentum.dtype)
    if settings.momentum_form == "ema":
        return gradient.lerp(momentum, settings.momentum)
    return gradient.add(momentum, alpha=settings.momentum)


def shape_scale(factor: str, rows: int, cols: int) -> float:
    """The factor on an orthogonalized (rows, cols) update that depends on its shape alone.

    Args:
        factor: "none" 1; "original" sqrt(max(1, m/n)), KellerJordan/Muon; "match_rms"
            0.2*sqrt(max(m, n)), arXiv:2502.16982, which gives an orthogonal matrix an RMS of
            0.2; "spectral" sqrt(m/n), arXiv:2310.17813.
        rows: m, of the whole matrix, never of a shard.
        cols: n, likewise.

    >>> shape_scale("original", 512, 128), shape_scale("original", 128, 512)
    (2.0, 1.0)
    """
    match factor:
        case "none":
            return 1.0
        case "original":
            return math.sqrt(max(1.0, rows / cols))
        case "match_rms":
            return 0.2 * math.sqrt(max(rows, cols))
        case "spectral":
            return math.sqrt(rows / cols)
    raise ValueError(f"shape factor must be none, original, match_rms or spectral; got {factor!r}")
