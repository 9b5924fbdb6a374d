"""A NorMuon written plainly, with seams; and what goes wrong at each of them in the wild."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

JORDAN = (3.4445, -4.7750, 2.0315)


def newton_schulz(matrix: Tensor) -> Tensor:
    x = matrix.bfloat16()
    tall = x.size(0) > x.size(1)
    x = x.mT if tall else x
    x = x / (x.norm() + 1e-7)
    a, b, c = JORDAN
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class NorMuon(torch.optim.Optimizer):
    """The paper's algorithm; each method is a place for a fault."""

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        momentum: float = 0.95,
        beta2: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        settings = {"momentum": momentum, "beta2": beta2, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr, **settings})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                momentum = self.momentum(p.grad, state, group)
                update = self.rescale(self.normalize(self.orthogonalize(momentum), state, group))
                self.decay(p, group)
                p.add_(update.to(p.dtype), alpha=-group["lr"])

    def momentum(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        buffer: Tensor = state.setdefault("momentum", torch.zeros_like(gradient))
        return buffer.lerp_(gradient, 1 - group["momentum"])

    def orthogonalize(self, matrix: Tensor) -> Tensor:
        return newton_schulz(matrix)

    def second_moment(self, square: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        second: Tensor = state.setdefault("second", torch.zeros_like(square))
        return second.lerp_(square, 1 - group["beta2"])

    def normalize(self, matrix: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        second = self.second_moment(matrix.square().mean(1, keepdim=True), state, group)
        return matrix / (second.sqrt() + 1e-8)

    def rescale(self, update: Tensor) -> Tensor:
        norm = update.norm()
        return update * (0.2 * math.sqrt(update.numel()) / norm) if norm > 0 else update

    def decay(self, p: Tensor, group: dict[str, Any]) -> None:
        p.mul_(1 - group["lr"] * group["weight_decay"])


class Muon(NorMuon):
    """No normalization, and the original factor."""

    def __init__(self, params: Any, lr: float = 0.02) -> None:
        super().__init__(params, lr)
        for group in self.param_groups:
            del group["beta2"]

    def normalize(self, matrix: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        return matrix

    def rescale(self, update: Tensor) -> Tensor:
        return update * self.factor(*update.shape)

    def factor(self, rows: int, cols: int) -> float:
        return math.sqrt(max(1.0, rows / cols))


class SilentSGDMuon(Muon):
    """A sharding engine's path that forgot to orthogonalize."""

    def orthogonalize(self, matrix: Tensor) -> Tensor:
        return matrix


class NoNeuronsNorMuon(Muon):
    """A port that lost the normalization."""


class ScaledTwice(Muon):
    def factor(self, rows: int, cols: int) -> float:
        return max(1.0, rows / cols)


class ScaleUpsideDown(Muon):
    def factor(self, rows: int, cols: int) -> float:
        return 1.0 / (0.2 * math.sqrt(max(rows, cols)))


class NoRescale(NorMuon):
    def rescale(self, update: Tensor) -> Tensor:
        return update


class DecayForgotten(NorMuon):
    def decay(self, p: Tensor, group: dict[str, Any]) -> None:
        pass


class DecaySquared(NorMuon):
    """lr applied twice: the decay is lr^2 * weight_decay."""

    def decay(self, p: Tensor, group: dict[str, Any]) -> None:
        p.mul_(1 - group["lr"] ** 2 * group["weight_decay"])


class SmallerAxis(NorMuon):
    """The wrong end of "the larger axis"."""

    def normalize(self, matrix: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        axis = 1 if matrix.size(0) < matrix.size(1) else 0
        second = self.second_moment(matrix.square().mean(axis, keepdim=True), state, group)
        return matrix / (second.sqrt() + 1e-8)


class LargerAxis(NorMuon):
    """Without the exception for one row: a gate is left with its signs."""

    def normalize(self, matrix: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        axis = 1 if matrix.size(0) >= matrix.size(1) else 0
        second = self.second_moment(matrix.square().mean(axis, keepdim=True), state, group)
        return matrix / (second.sqrt() + 1e-8)


class ColumnsNorMuon(NorMuon):
    """Inputs in the place of outputs: weights are taken for (in, out)."""

    def normalize(self, matrix: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        second = self.second_moment(matrix.square().mean(0, keepdim=True), state, group)
        return matrix / (second.sqrt() + 1e-8)


class ElementwiseBefore(Muon):
    """Adam's second moment, and then the orthogonalization."""

    def momentum(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        found = super().momentum(gradient, state, group)
        adam = {**group, "beta2": 0.95}
        return found / (self.second_moment(gradient.square(), state, adam).sqrt() + 1e-8)


class UnitRows(NorMuon):
    """Rows of norm one, without a memory."""

    def second_moment(self, square: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        return square


class NaNAtZero(NorMuon):
    """A zero momentum divided by its norm."""

    def rescale(self, update: Tensor) -> Tensor:
        return update * (0.2 * math.sqrt(update.numel()) / update.norm())


class WritesGradient(NorMuon):
    def momentum(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        buffer = super().momentum(gradient, state, group)
        return gradient.lerp_(buffer, group["momentum"])


class WrongMomentum(NorMuon):
    """The coefficient of the settings and the one in use differ."""

    def momentum(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        return super().momentum(gradient, state, {**group, "momentum": 0.9})


class Ascent(NorMuon):
    """The sign of the step is wrong."""

    def rescale(self, update: Tensor) -> Tensor:
        return -super().rescale(update)


class DecayGrows(NorMuon):
    def decay(self, p: Tensor, group: dict[str, Any]) -> None:
        p.mul_(1 + group["lr"] * group["weight_decay"])


class DecayOfSigns(NorMuon):
    """L1 under the name of weight decay."""

    def decay(self, p: Tensor, group: dict[str, Any]) -> None:
        p.sub_(p.sign(), alpha=group["lr"] * group["weight_decay"])


class NaNOnWide(NorMuon):
    def orthogonalize(self, matrix: Tensor) -> Tensor:
        found = super().orthogonalize(matrix)
        return found if matrix.size(0) >= matrix.size(1) else found * float("nan")


class Still(NorMuon):
    """A step that forgot to write."""

    def rescale(self, update: Tensor) -> Tensor:
        return update * 0.0


class ColumnsOfSquare(NorMuon):
    def normalize(self, matrix: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        axis = 0 if matrix.size(0) == matrix.size(1) else 1
        second = self.second_moment(matrix.square().mean(axis, keepdim=True), state, group)
        return matrix / (second.sqrt() + 1e-8)


class OneSecondMoment(NorMuon):
    """Kept by shape, so that matrices of one shape share it."""

    def second_moment(self, square: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        self.shared: dict[Any, Any] = getattr(self, "shared", {})
        return super().second_moment(square, self.shared.setdefault(square.shape, {}), group)


class WarmedUp(NorMuon):
    """The momentum of a speedrun: 0.85 at first."""

    def momentum(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        state["step"] = state.get("step", 0) + 1
        warmed = 0.85 + min(1.0, state["step"] / 40) * 0.1
        return super().momentum(gradient, state, {**group, "momentum": warmed})


class RootOfNothing(NorMuon):
    """Divides by the second moment itself."""

    def normalize(self, matrix: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        return matrix / self.second_moment(
            matrix.square().mean(1, keepdim=True), state, group
        ).add_(1e-8)


class ThreeSteps(Muon):
    """Another number of steps than the five of its settings."""

    def __init__(self, params: Any, lr: float = 0.02) -> None:
        super().__init__(params, lr)
        for group in self.param_groups:
            group["ns_steps"] = 5

    def orthogonalize(self, matrix: Tensor) -> Tensor:
        tall = matrix.size(0) > matrix.size(1)
        x = matrix.mT if tall else matrix
        x = x / (x.norm() + 1e-7)
        a, b, c = JORDAN
        for _ in range(3):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.mT if tall else x


class Contiguous(Muon):
    """Reads the gradient as if it were stored row by row."""

    def momentum(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        stored = gradient.as_strided(gradient.shape, (gradient.size(1), 1))
        return super().momentum(stored, state, group)


class _Sharded(NorMuon):
    """What is done to a DTensor: to its local rows, as if they were the matrix."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.one(p, group)

    def one(self, p: Tensor, group: dict[str, Any]) -> None:
        local = p.to_local() if hasattr(p, "to_local") else p
        gradient = p.grad.to_local() if hasattr(p.grad, "to_local") else p.grad
        assert gradient is not None
        momentum = self.momentum(gradient, self.state[p], group)
        update = self.update(momentum, p, group)
        local.add_(update.to(local.dtype), alpha=-group["lr"])

    def update(self, momentum: Tensor, p: Tensor, group: dict[str, Any]) -> Tensor:
        if not momentum.numel():
            return momentum
        found = self.normalize(self.orthogonalize(momentum), self.state[p], group)
        return self.rescale(found)

    def _whole(self, momentum: Tensor, p: Tensor) -> tuple[Tensor, int]:
        """The orthogonalized matrix, and where the local rows begin."""
        if not hasattr(p, "full_tensor"):
            return self.orthogonalize(momentum), 0
        from torch.distributed.tensor import DTensor

        sharded = DTensor.from_local(
            momentum, p.device_mesh, p.placements, shape=p.shape, stride=p.stride()
        )
        size = math.ceil(p.size(0) / dist.get_world_size())
        return self.orthogonalize(sharded.full_tensor()), size * dist.get_rank()


class ShardsOrthogonalized(_Sharded):
    """Newton-Schulz on each shard."""


class ShardsRescaled(_Sharded):
    """The right matrix, brought to its size shard by shard."""

    def update(self, momentum: Tensor, p: Tensor, group: dict[str, Any]) -> Tensor:
        whole, start = self._whole(momentum, p)
        rows = whole[start : start + len(momentum)]
        found = self.normalize(rows, self.state[p], group)
        return found * rows.norm() / found.norm() if len(rows) else rows


class AxisOfTheShard(_Sharded):
    """The larger axis, of the local shape."""

    def update(self, momentum: Tensor, p: Tensor, group: dict[str, Any]) -> Tensor:
        whole, start = self._whole(momentum, p)
        axis = 1 if momentum.size(0) >= momentum.size(1) else 0
        square = whole.square().mean(axis, keepdim=True)
        second = self.second_moment(square, self.state[p], group)
        return self.rescale(whole / (second.sqrt() + 1e-8))[start : start + len(momentum)]


class Hangs(_Sharded):
    """One rank waits for what the other never sends."""

    def update(self, momentum: Tensor, p: Tensor, group: dict[str, Any]) -> Tensor:
        if hasattr(p, "full_tensor") and not dist.get_rank():
            dist.barrier()
        return super().update(momentum, p, group)


class NeedsAGroup(Muon):
    """As KellerJordan's Muon, which deals its matrices over the ranks of a group."""

    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        assert dist.get_world_size() >= 1
        super().step(closure)
