"""NorMuon (arXiv:2510.05491): Muon with every neuron's update brought to the same size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from optgeom.optim.families import NorMuonSettings, normuon_settings
from optgeom.optim.matrix_optimizer import MatrixOptimizer, ParamsOrGroups
from optgeom.optim.momentum import accumulate_, look_ahead, shape_scale
from optgeom.optim.newton_schulz import orthogonalize

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = [
    "NorMuon",
    "NorMuonUpdate",
    "neuron_sums_",
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

    Examples:
        >>> second_moment_shape((4, 8), settings=normuon_settings("larger-axis"))
        (1, 8)
    """
    rows, cols = shape[-2:]
    return (*shape[:-2], *((rows, 1) if _neurons_are_rows(shape, settings) else (1, cols)))


def neuron_sums_(
    orthogonalized: Tensor, second_moment: Tensor, *, settings: NorMuonSettings
) -> Tensor:
    """What `normalize_neurons_` has to know of whole matrices, from some of their rows.

    Args:
        orthogonalized: (..., r, n) float32, rows of matrices; left as it is.
        second_moment: v of these rows, (..., r, 1), overwritten with b2*v + (1-b2)*mean(O^2); or
            of the columns, (..., 1, n), left as it is.
        settings: ``beta2`` and the divisor's are read.

    Returns:
        To be added up over all rows of a matrix, float32: (..., 2), the squared norms of O and of O
        divided; or (..., n), those of the columns of O.
    """
    if second_moment.shape[-1] > 1:
        return orthogonalized.square().sum(dim=-2)
    mean_square = orthogonalized.square().mean(dim=-1, keepdim=True)
    second_moment.lerp_(mean_square, 1 - settings.beta2)
    divided = mean_square / _divisor(second_moment, settings).square()
    return torch.cat([mean_square, divided], dim=-1).sum(dim=-2) * orthogonalized.shape[-1]


def normalize_neurons_(
    orthogonalized: Tensor,
    sums: Tensor,
    second_moment: Tensor,
    *,
    settings: NorMuonSettings,
    shape: tuple[int, int],
) -> Tensor:
    """Divide every neuron by its running RMS and give the matrix its size back.

    Args:
        orthogonalized: (..., r, n) float32, rows of matrices; overwritten.
        sums: What `neuron_sums_` gives for all rows.
        second_moment: As `neuron_sums_` left it; where it belongs to the columns, overwritten here.
        settings: All but the momentum's and the iteration's are read.
        shape: (m, n) of one whole matrix.

    Returns:
        ``orthogonalized``, now the update; zero where it was zero.
    """
    rows, cols = shape
    if second_moment.shape[-1] > 1:
        mean_square = sums.unsqueeze(-2) / rows
        second_moment.lerp_(mean_square, 1 - settings.beta2)
        divided = mean_square / _divisor(second_moment, settings).square()
        sums = torch.cat([mean_square, divided], dim=-2).sum(dim=-1) * rows
    scale = torch.full_like(sums[..., 1], shape_scale(settings.shape_factor, rows, cols))
    if settings.rescale != "none":
        before, after = sums.sqrt().unbind(dim=-1)
        target = (
            before if settings.rescale == "norm_before" else settings.rms * (rows * cols) ** 0.5
        )
        # A zero update has no direction to rescale: it stays zero instead of 0 * inf.
        scale *= torch.where(after > 0, target / after, 0.0)
    return orthogonalized.mul_(scale[..., None, None] / _divisor(second_moment, settings))


def _divisor(second_moment: Tensor, settings: NorMuonSettings) -> Tensor:
    if settings.eps_form == "add":
        return second_moment.sqrt().add_(settings.eps)
    return second_moment.clamp(min=settings.eps).sqrt_()


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
    update, second_moment = orthogonalized.to(torch.float32, copy=True), second_moment.clone()
    sums = neuron_sums_(update, second_moment, settings=settings)
    rows, cols = gradient.shape[-2:]
    normalize_neurons_(update, sums, second_moment, settings=settings, shape=(rows, cols))
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
        replicas: The ranks that share the work on plain parameters, which have to be equal on all
            of them, and their gradients too, as under DDP; None, and each process does it all.
        **settings: Any field of ``NorMuonSettings``, overriding the family's. A group may
            override any of them again.

    Raises:
        TypeError: A setting that does not exist; the nearest is named.
        ValueError: A value outside its range, or a group with 1-D parameters and no mark.

    Examples:
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
        replicas: ProcessGroup | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(params, lr, normuon_settings(family, **settings), replicas)

    def extra_state(self, shape: torch.Size, settings: Any) -> dict[str, tuple[int, ...]]:
        """The second moment, one number per neuron of the whole matrix."""
        return {"second_moment": second_moment_shape(tuple(shape), settings=settings)}

    def sums(
        self, orthogonalized: Tensor, extras: dict[str, Tensor], settings: Any
    ) -> Tensor | None:
        """See ``neuron_sums_``."""
        return neuron_sums_(orthogonalized, extras["second_moment"], settings=settings)

    def rule(
        self,
        orthogonalized: Tensor,
        sums: Tensor | None,
        extras: dict[str, Tensor],
        settings: Any,
        shape: tuple[int, int],
    ) -> Tensor:
        """See ``normalize_neurons_``."""
        assert sums is not None
        return normalize_neurons_(
            orthogonalized, sums, extras["second_moment"], settings=settings, shape=shape
        )
