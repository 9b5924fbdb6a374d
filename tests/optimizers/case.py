"""What one optimizer is asked to do, and what its documentation promises about its decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from tests.optimizers import loops
from tests.optimizers.loops import Loop

STEPS = 4
LR = 1e-2
DECAY = 0.1
SHAPES: Mapping[str, tuple[int, int]] = {
    "tall": (12, 5),
    "wide": (6, 9),
    "square": (8, 8),
    "row": (1, 7),
}

TOLERANCE = 1e-4
"""Relative Frobenius error of a float32 step against a float64 one after a few steps.

One float32 operation errs by 6e-8; a step has some tens of them, and state carries them on. 1e-4
leaves room for a square root near zero, and none for a wrong factor or a lost term.
"""

Oracle = Literal[
    "float64 twin", "float64 twin, same draws", "float64 of torch.optim", "float32 run"
]


@dataclass(frozen=True)
class Moment:
    """What an optimizer says of one parameter before a step and after it."""

    group: Mapping[str, Any]
    state: Mapping[str, Any]
    later_group: Mapping[str, Any]
    later_state: Mapping[str, Any]

    optimizer: Any
    parameter: Tensor

    @property
    def lr(self) -> float:
        """The divisor of the update: the rate at step entry; 1 where that is absent or zero."""
        lr = self.group.get("lr")
        return 1.0 if lr is None or not float(lr) else float(lr)

    @property
    def weight_decay(self) -> float:
        return float(self.group["weight_decay"])


@dataclass(frozen=True)
class Decay:
    """What an optimizer's documentation says about its weight decay.

    Attributes:
        form: as the column decay_form names it.
        factor: of a step, 1 - a in W_after = a * W_before + ...
        rule: the factor in words.
    """

    form: str
    factor: Callable[[Moment], float] = lambda moment: 0.0
    rule: str = ""


NONE = Decay("none")
IN_GRADIENT = Decay("in_gradient")
IN_DIRECTION = Decay("in_direction")
UNKNOWN = Decay("unknown")
DECOUPLED = Decay("decoupled", lambda m: m.lr * m.weight_decay, "lr * weight_decay")


@dataclass(frozen=True, eq=False)
class Case:
    """One optimizer in one form.

    Attributes:
        package: that it is from.
        optimizer: the class's name.
        form: the settings that differ from the package's defaults, in words.
        build: makes it for a model of float32 or float64 matrices.
        decay: what its documentation promises.
        loop: makes one step of a training loop.
        source: how it is to be read.
        cannot: how the error begins that its own step raises here without us.
        unverified: rows that say so and are not held against the oracle.
        in_group: it wants a process group, of one rank here.
        stand_in: it has no `param_groups`; a stand-in is watched, inside `applying`.
        oracle: what its update is held against.
        why_oracle: why that is no float64 twin.
        twin: makes the same rule of torch.optim, where that is the oracle.
        tolerance: the largest relative error, Frobenius, of any matrix at any step.
        why_tolerance: why that is not TOLERANCE.
        steps: how many.
        shapes: of the matrices.
    """

    package: str
    optimizer: str
    form: str
    build: Callable[[nn.Module], Any]
    decay: Decay = NONE
    loop: Loop = loops.given
    source: str = "dispatch"
    cannot: str = ""
    unverified: int = 0
    in_group: bool = False
    stand_in: bool = False
    oracle: Oracle = "float64 twin"
    why_oracle: str = ""
    twin: Callable[[nn.Module], Any] | None = None
    tolerance: float = TOLERANCE
    why_tolerance: str = ""
    steps: int = STEPS
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=lambda: SHAPES)

    @property
    def decay_form(self) -> str:
        """What the column is to say: of differences the decay is not known."""
        forms = {"unknown"} if "difference" in self.source else set()
        if self.source != "difference":
            forms |= set(self.decay.form.split("+"))
        return "+".join(sorted(forms))

    @property
    def key(self) -> str:
        """A name for a test and for a row of the table."""
        return f"{self.optimizer}: {self.form}" if self.form else self.optimizer


def words(settings: Mapping[str, Any]) -> str:
    """Settings as a table shows them."""
    named = {k: "tensor" if isinstance(v, Tensor) else v for k, v in settings.items()}
    return ", ".join(k if v is True else f"{k}={v}" for k, v in named.items())
