"""NorMuon (arXiv:2510.05491): Muon with every neuron's update brought to the same size."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from optgeom.optim.families import NorMuonSettings, normuon_settings
from optgeom.optim.matrix_optimizer import MatrixOptimizer, ParamsOrGroups
from optgeom.optim.momentum import accumulate_, look_ahead, shape_scale
from optgeom.optim.newton_schulz import orthogonalize

__all__ = [
    "NorMuon",
    "NorMuonUpdate",
    "normalize_neurons_",
    "normuon_update",
    "second_moment_shape",
]


class NorMuonUpdate(NamedTuple):
    """One step's update and the state after it; W moves by -lr * update."""

    update: Tensor
    momentum: Tensor
    second_moment: Tensor


def _neurons_are_rows(shape: tuple[int, ...], settings: NorMuonSettings) -> bool:
    rows, cols = shape[-2:]
    return settings.neuron_axis == "rows" or rows >= cols or rows == 1


def second_moment_shape(shape: tuple[int, ...], *, settings: NorMuonSettings) -> tuple[int, ...]:
    """The shape of v for a matrix: one number per neuron.

    Args:
        shape: (..., m, n).
        settings: ``neuron_axis`` is read.

    Returns:
        (..., m, 1), or (..., 1, n) where the columns are the larger axis.

    >>> second_moment_shape((4, 8), settings=normuon_settings("larger-axis"))
    (1, 8)
    """
    rows, cols = shape[-2:]
    return (*shape[:-2], *((rows, 1) if _neurons_are_rows(shape, settings) else (1, cols)))


def normalize_neurons_(
    orthogonalized: Tensor, second_moment: Tensor, *, settings: NorMuonSettings
) -> Tensor:
    """Divide every neuron by its running RMS and give the matrix its size back.

    Args:
        orthogonalized: (..., m, n) float32, the whole matrix; overwritten.
        second_moment: ``second_moment_shape`` of it, float32; overwritten with b2*v +
            (1-b2)*mean(O^2).
        settings: All but the momentum's and the iteration's are read.

    Returns:
        ``orthogonalized``, now the update; zero where it was zero.
    """
    axis = -1 if _neurons_are_rows(tuple(orthogonalized.shape), settings) else -2
    matrix = (-2, -1)
    before = torch.linalg.vector_norm(orthogonalized, dim=matrix, keepdim=True)
    mean_square = orthogonalized.square().mean(dim=axis, keepdim=True)
    second_moment.lerp_(mean_square, 1 - settings.beta2)
    if settings.eps_form == "add":
        divisor = second_moment.sqrt().add_(settings.eps)
    else:
        divisor = second_moment.clamp(min=settings.eps).sqrt_()
    update = orthogonalized.div_(divisor)

    rows, cols = update.shape[-2:]
    if settings.rescale != "none":
        after = torch.linalg.vector_norm(update, dim=matrix, keepdim=True)
        target = (
            before if settings.rescale == "norm_before" else settings.rms * (rows * cols) ** 0.5
        )
        # A zero update has no direction to rescale: it stays zero instead of 0 * inf.
        update.mul_(torch.where(after > 0, target / after, 0.0))
    return update.mul_(shape_scale(settings.shape_factor, rows, cols))


def normuon_update(
    gradient: Tensor,
    momentum: Tensor,
    second_moment: Tensor,
    *,
    settings: NorMuonSettings,
) -> NorMuonUpdate:
    """The update of one NorMuon step, without its weight decay; modifies nothing.

    Args:
        gradient: (..., m, n), any floating dtype.
        momentum: The same shape, before this step; zeros before the first.
        second_moment: ``second_moment_shape`` of it, float32; zeros before the first.
        settings: All but ``weight_decay`` are read.

    Returns:
        The update, float32, and momentum and second moment after the step.
    """
    momentum = accumulate_(momentum.clone(), gradient, settings=settings)
    orthogonalized = orthogonalize(
        look_ahead(momentum, gradient, settings=settings),
        coefficients=settings.coefficients,
        steps=settings.ns_steps,
        dtype=settings.ns_dtype,
    )
    second_moment = second_moment.clone()
    update = normalize_neurons_(
        orthogonalized.to(torch.float32, copy=True), second_moment, settings=settings
    )
    return NorMuonUpdate(update, momentum, second_moment)


class NorMuon(MatrixOptimizer):
    """NorMuon over matrices, AdamW over groups marked ``algorithm="adamw"``.

    State per matrix: ``momentum`` (m, n), ``second_moment`` (m, 1) or (1, n), m(n+1) numbers
    for the rows, against Adam's 2mn and Muon's mn. In the paper's form the update's RMS is
    0.2 * lr at every step, so lr and weight decay are on AdamW's scale.

    Args:
        params: Matrices, or groups; ``optgeom.optim.param_groups(model)`` makes them.
        lr: Learning rate of the matrices, in 5 times the update's RMS ("paper") or about the
            spectral norm of an update ("released", "dion", "larger-axis"); a float or a
            one-element tensor.
        family: "paper", "released", "dion" or "larger-axis": where the settings start from.
        **settings: Any field of ``NorMuonSettings``, overriding the family's. A group may
            override any of them again.

    Raises:
        TypeError: A setting that does not exist; the nearest is named.
        ValueError: A value outside its range, or a group with 1-D parameters and no mark.

    >>> weight = torch.nn.Parameter(torch.zeros(4, 3))
    >>> weight.grad = torch.eye(4, 3)
    >>> NorMuon([weight], lr=0.1).step()
    >>> round(weight.square().mean().sqrt().item(), 6)
    0.02
    """

    algorithm: ClassVar[str] = "normuon"
    settings_type = NorMuonSettings

    def __init__(
        self,
        params: ParamsOrGroups,
        lr: float | Tensor,
        *,
        family: str = "paper",
        **settings: Any,
    ) -> None:
        super().__init__(params, lr, normuon_settings(family, **settings))

    def extra_state(self, shape: torch.Size, settings: Any) -> dict[str, tuple[int, ...]]:
        """The second moment, one number per neuron of the whole matrix."""
        return {"second_moment": second_moment_shape(tuple(shape), settings=settings)}

    def rule(self, orthogonalized: Tensor, state: dict[str, Any], settings: Any) -> Tensor:
        """See ``normalize_neurons_``."""
        return normalize_neurons_(orthogonalized, state["second_moment"], settings=settings)
