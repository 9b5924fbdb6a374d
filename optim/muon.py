"""Muon (K. Jordan et al., 2024): momentum, orthogonalized, times a factor of the shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor

from optgeom.optim.families import MuonSettings, with_overrides
from optgeom.optim.matrix_optimizer import MatrixOptimizer, ParamsOrGroups
from optgeom.optim.momentum import accumulate_, look_ahead, shape_scale
from optgeom.optim.newton_schulz import orthogonalize

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Muon", "MuonUpdate", "muon_update"]


class MuonUpdate(NamedTuple):
    """One step's update and the state after it; W moves by -lr * update."""

    update: Tensor
    momentum: Tensor


def muon_update(gradient: Tensor, momentum: Tensor, *, settings: MuonSettings) -> MuonUpdate:
    """The update of one Muon step, without its weight decay; modifies nothing.

    Args:
        gradient: (..., m, n), any floating dtype.
        momentum: The same shape, before this step; zeros before the first.
        settings: All but ``weight_decay`` are read.

    Returns:
        The update, float32, and the momentum after the step.
    """
    momentum = accumulate_(momentum.clone(), gradient, settings=settings)
    orthogonalized = orthogonalize(
        look_ahead(momentum, gradient, settings=settings),
        coefficients=settings.coefficients,
        steps=settings.ns_steps,
        dtype=settings.ns_dtype,
    )
    rows, cols = gradient.shape[-2:]
    update = orthogonalized.float() * shape_scale(settings.scale, rows, cols)
    return MuonUpdate(update, momentum)


class Muon(MatrixOptimizer):
    """Muon over matrices, AdamW over groups marked ``algorithm="adamw"``.

    State per matrix: ``momentum`` (m, n).

    Args:
        params: Matrices, or groups; ``optgeom.optim.param_groups(model)`` makes them.
        lr: Learning rate of the matrices, in the unit that ``scale`` gives it; a float or a
            one-element tensor.
        scale: "match_rms" 0.2*sqrt(max(m, n)): lr on AdamW's scale, the counterpart of
            NorMuon's paper form; "original" sqrt(max(1, m/n)); "spectral" sqrt(m/n); "none".
        replicas: The ranks that share the work on plain parameters, which have to be equal on all
            of them, and their gradients too, as under DDP; None, and each process does it all.
        **settings: Any other field of ``MuonSettings``. A group may override any of them.

    Raises:
        TypeError: A setting that does not exist; the nearest is named.
        ValueError: A value outside its range, or a group with 1-D parameters and no mark.
    """

    algorithm: ClassVar[str] = "muon"
    settings_type = MuonSettings

    def __init__(
        self,
        params: ParamsOrGroups,
        lr: float | Tensor,
        *,
        scale: str = "match_rms",
        replicas: ProcessGroup | None = None,
        **settings: Any,
    ) -> None:
        overrides = {"scale": scale, **settings}
        made = with_overrides(MuonSettings(), overrides, owner="Muon")
        super().__init__(params, lr, made, replicas)

    def rule(
        self,
        orthogonalized: Tensor,
        sums: Tensor | None,
        extras: dict[str, Tensor],
        settings: Any,
        shape: tuple[int, int],
    ) -> Tensor:
        """The factor of ``scale``, from the shape of the whole matrix."""
        del sums, extras
        return orthogonalized.mul_(shape_scale(settings.scale, *shape))
