"""The optimizer under audit, as a black box: a gradient in, the update out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from optgeom.traces.errors import OptgeomError

Matrix = NDArray[np.float64]
Factory = Callable[[list[nn.Parameter]], Any]
Way = Literal["dense", "closure", "sparse"]

WAYS: tuple[Way, ...] = ("dense", "closure", "sparse")
DTYPES = (torch.float32, torch.bfloat16)
PATIENCE = 4


class AuditError(OptgeomError):
    """The optimizer cannot be audited: it cannot be made, or none of its steps runs."""


class StepFailed(Exception):
    """A step of the optimizer raised; the message is its own."""


class Trial:
    """One optimizer over one matrix.

    Args:
        factory: makes it of a list of parameters.
        weights: (m, n) where every step starts: they are put back after each.
        dtype: of the parameter.
        way: how it wants its gradient.
        resets: False leaves the weights where the step moved them.
        decays: a factor on the `weight_decay` of all groups, where they have one.
        sign: that its updates are multiplied with.

    Raises:
        AuditError: it cannot be made, or its lr is zero.
    """

    def __init__(
        self,
        factory: Factory,
        weights: Matrix,
        *,
        dtype: torch.dtype = torch.float32,
        way: Way = "dense",
        resets: bool = True,
        decays: float = 1.0,
        sign: float = 1.0,
    ) -> None:
        self.start = torch.from_numpy(np.ascontiguousarray(weights)).to(dtype)
        self.parameter = nn.Parameter(self.start.clone())
        self.optimizer = made(factory, [self.parameter])
        self.lr = rate_of(self.optimizer)
        self._way, self._resets = way, resets
        self._sign = sign
        for group in groups_of(self.optimizer) if decays != 1.0 else ():
            if group.get("weight_decay"):
                group["weight_decay"] = group["weight_decay"] * decays

    def step(self, gradient: Matrix | Tensor | None) -> Matrix:
        """One step.

        Args:
            gradient: (m, n), put into the parameter as a copy; a tensor is put there as it is; None
                leaves the parameter without one.

        Returns:
            (m, n) float64, (W_before - W_after) / lr.

        Raises:
            StepFailed: the optimizer's own step raised.
        """
        before = self.parameter.detach().clone()
        self.parameter.grad = self._given(gradient)
        try:
            if self._way == "closure":
                self.optimizer.step(self._closure(self.parameter.grad))
            else:
                self.optimizer.step()
        except (Exception, SystemExit) as error:  # whatever a stranger's step raises is an answer
            raise StepFailed(said(error)) from error
        moved = before.double() - self.parameter.detach().double()
        if self._resets:
            with torch.no_grad():
                self.parameter.copy_(self.start)
        found: Matrix = self._sign * moved.numpy() / self.lr
        return found

    def steps(self, gradients: Sequence[Matrix]) -> list[Matrix]:
        """The updates of one step after the other."""
        return [self.step(gradient) for gradient in gradients]

    def state(self) -> Mapping[str, Tensor]:
        """What the optimizer keeps of the parameter, in tensors."""
        states = getattr(self.optimizer, "state", None)
        kept = states.get(self.parameter) if isinstance(states, Mapping) else None
        values = kept if isinstance(kept, Mapping) else {}
        return {str(name): one for name, one in values.items() if isinstance(one, Tensor)}

    def _given(self, gradient: Matrix | Tensor | None) -> Tensor | None:
        if gradient is None or isinstance(gradient, Tensor):
            return gradient
        return as_fed(gradient, self.start.dtype, self._way)

    def _closure(self, gradient: Tensor | None) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            self.parameter.grad = None if gradient is None else gradient.clone()
            return torch.zeros((), device="cpu")

        return evaluate


class Subject:
    """How an optimizer is made and fed, found out by trying.

    Attributes:
        factory: makes it of a list of parameters.
        dtype: of the parameters: float32 where it takes them, else bfloat16.
        way: how it wants its gradient.
        resets: whether the weights can be put back after each step without changing its updates.
        upwards: whether its first update goes up the gradient; its updates are turned round then.
        name: of its class.
        lr: of its first group; 1 where it has none.
        settings: of its first group, without the parameters.

    Raises:
        AuditError: it cannot be made, or none of its steps runs.
    """

    def __init__(self, factory: Factory) -> None:
        self.factory = factory
        self.resets, self.upwards = True, False
        failed = self._find()
        if failed:
            raise AuditError(
                f"its step() raises, so there is nothing to audit: {failed}. Pass a factory that "
                "makes it as your training does: audit(lambda params: Class(params, lr=...))"
            )
        trial = self.trial(np.zeros((8, 8)))
        self.lr, optimizer = trial.lr, trial.optimizer
        self.name = type(optimizer).__name__
        first = groups_of(optimizer)[0]
        self.settings = {key: plain(value) for key, value in first.items() if key != "params"}
        self.resets = self._can_be_put_back()
        self.upwards = self._goes_upwards()

    @property
    def is_single(self) -> bool:
        """Whether the parameters are float32."""
        return self.dtype == torch.float32

    @property
    def sign(self) -> float:
        """What its updates are multiplied with, so that they go down the gradient."""
        return -1.0 if self.upwards else 1.0

    def in_dtype(self, dtype: torch.dtype) -> Subject:
        """The same optimizer over parameters of another type."""
        other = copy(self)
        other.dtype = dtype
        return other

    def trial(self, weights: Matrix, *, decays: float = 1.0) -> Trial:
        """A new optimizer over one matrix that starts at these weights.

        Args:
            weights: (m, n).
            decays: a factor on the `weight_decay` of its groups.
        """
        return Trial(
            self.factory,
            weights,
            dtype=self.dtype,
            way=self.way,
            resets=self.resets,
            decays=decays,
            sign=self.sign,
        )

    def updates(self, gradients: Sequence[Matrix]) -> list[Matrix]:
        """The updates of a sequence of gradients, from zero weights.

        Raises:
            StepFailed: a step raised.
        """
        return self.trial(np.zeros_like(gradients[0])).steps(gradients)

    def update(self, gradient: Matrix) -> Matrix:
        """The update of a first gradient, from zero weights.

        Some optimizers only begin on their first steps: the gradient is fed until they move.

        Raises:
            StepFailed: a step raised, nothing moved, or the update is not finite.
        """
        trial = self.trial(np.zeros_like(gradient))
        for _ in range(PATIENCE):
            update = trial.step(gradient)
            if not np.isfinite(update).all():
                raise StepFailed("the update is not finite")
            if update.any():
                return update
        raise StepFailed(f"{PATIENCE} steps moved nothing")

    def _find(self) -> str:
        """Try the ways to feed it; what the plainest one raised, where none works."""
        first = ""
        gradient = np.random.default_rng(0).standard_normal((8, 8))
        for self.dtype in DTYPES:
            for self.way in WAYS:
                try:
                    self.trial(np.zeros((8, 8))).steps([gradient, gradient])
                except StepFailed as error:
                    first = first or str(error)
                else:
                    return ""
        return first

    def _can_be_put_back(self) -> bool:
        """Whether it keeps no weights of its own, which a step would return to."""
        generator = np.random.default_rng(1)
        gradients = [generator.standard_normal((8, 8)) for _ in range(3)]
        found = []
        for self.resets in (True, False):
            # a decay of weights that have moved is no sign of it
            found.append(self.trial(np.zeros((8, 8)), decays=0.0).steps(gradients))
        if not np.isfinite(found).all():
            return True  # nothing can be told
        return all(difference(one, other) < 0.02 for one, other in zip(*found, strict=True))

    def _goes_upwards(self) -> bool:
        """Whether the update of one gradient, fed again and again, has it against it."""
        gradient = np.random.default_rng(2).standard_normal((8, 8))
        try:
            return float((self.update(gradient) * gradient).sum()) < 0.0
        except StepFailed:
            return False


def made(factory: Factory, parameters: list[nn.Parameter]) -> Any:
    """The optimizer that the factory makes.

    Raises:
        AuditError: the factory raised, or made something without a step.
    """
    try:
        optimizer = factory(parameters)
    except (Exception, SystemExit) as error:
        raise AuditError(
            f"it cannot be made of a list of parameters: {said(error)}. If it wants groups with a "
            "mark, make them in the factory, or say --group use_muon=true"
        ) from error
    if not callable(getattr(optimizer, "step", None)):
        raise AuditError(
            f"the factory returned {type(optimizer).__name__}, which has no step(): it takes a "
            "list of parameters and returns an optimizer"
        )
    return optimizer


def groups_of(optimizer: Any) -> Sequence[dict[str, Any]]:
    """Its groups; an empty one where it has none."""
    return getattr(optimizer, "param_groups", None) or [{}]


def as_fed(gradient: Matrix, dtype: torch.dtype, way: Way) -> Tensor:
    """A copy of a gradient as an optimizer wants it: contiguous, or sparse."""
    dense = torch.from_numpy(np.array(gradient, order="C")).to(dtype)
    return dense.to_sparse() if way == "sparse" else dense


def rate_of(optimizer: Any) -> float:
    """The learning rate of the first group; 1 where it has none.

    Raises:
        AuditError: it is zero, or no number.
    """
    lr = groups_of(optimizer)[0].get("lr")
    if lr is None:
        return 1.0
    try:
        rate = float(lr)
    except (TypeError, ValueError) as error:
        raise AuditError(f"lr is no number: {lr!r}") from error
    if rate == 0.0 or not math.isfinite(rate):
        raise AuditError(f"lr is {rate:g}: give it the lr that you train with")
    return rate


def difference(one: Matrix, other: Matrix) -> float:
    """|one - other| / |other|, Frobenius; infinite where that is not a number."""
    size = float(np.linalg.norm(other))
    if size == 0.0:
        return 0.0 if not one.any() else np.inf
    found = float(np.linalg.norm(one - other)) / size
    return found if np.isfinite(found) else np.inf


def said(error: BaseException) -> str:
    """An error in one line: its type, and the first line of what it says."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def plain(value: Any) -> Any:
    """A setting as JSON can hold it."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else list(value.shape)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return repr(value)
