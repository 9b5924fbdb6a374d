"""What an update is computed by: a pure function of one matrix, and of a second moment or none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from optgeom.traces.errors import OptgeomError
from optgeom.traces.info import Scalar

INPUTS = ("ns_input", "momentum", "gradient")
"""The stages that may enter a rule."""

BURST = 60
"""Consecutive steps after which a second moment of decay 0.95 counts as known."""

UNKNOWN_SHARE = 0.95**BURST
"""What the unknown start still weighs then: 4.6 %."""


class Applied(NamedTuple):
    """One step of a rule.

    Attributes:
        update: (m, n) float32; the weights would move by -lr times it.
        second_moment: After the step; None of a rule that keeps none.
    """

    update: Tensor
    second_moment: Tensor | None = None


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,99}")

Apply = Callable[[Tensor, Tensor | None, Tensor | None], Applied]
"""(matrix, before, after) to one step: the matrix that enters, (m, n) float32, which is left as it
is; the second moment before the step, None for zeros; and the one after the step where the run
recorded it, which then counts in place of what would follow from `before`."""


@dataclass(frozen=True, slots=True)
class SecondMoment:
    """What a rule averages over steps beside the momentum.

    Attributes:
        beta: Its decay, in [0, 1): v = beta v + (1 - beta) (new).
        shape: (m, n) of a matrix to the shape of its v, one number per neuron.
        same: Settings that another run's group must share for its v to be this rule's, by name.
    """

    beta: float
    shape: Callable[[tuple[int, int]], tuple[int, int]]
    same: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def steps_needed(self) -> int:
        """Consecutive steps after which a start from zero weighs as little as 0.95^60.

        After k steps v = beta^k v_0 + what was averaged, so k = 60 ln 0.95 / ln beta, rounded up.

        >>> SecondMoment(0.95, lambda shape: (shape[0], 1)).steps_needed
        60
        >>> SecondMoment(0.99, lambda shape: (shape[0], 1)).steps_needed
        307
        """
        if self.beta <= 0.0:
            return 1
        # a relative 1e-9 less: 60 ln 0.95 / ln 0.95 may come out above 60
        return max(1, math.ceil(math.log(UNKNOWN_SHARE) / math.log(self.beta) * (1.0 - 1e-9)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one kind of optimizer turns what enters it into an update.

    Attributes:
        name: As it is asked for, such as "normuon" or "normuon:released": letters, digits and
            . _ : + -, for it becomes part of a folder's name.
        title: As it is written in sentences, such as "NorMuon".
        algorithm: What run.json calls the rule of a layer, such as "normuon".
        apply: The pure function.
        inputs: Of `INPUTS`, the one wanted most first.
        looks_ahead: Whether Nesterov's look-ahead, and not the momentum itself, should enter.
        second_moment: What it averages over steps; None of a rule without.
        neuron_axis: The axis of an (m, n) matrix that it normalizes: "rows" or "columns"; None of
            one that normalizes none.
        settings: For run.json.
        words: What it computes, in a sentence.
        source: Where the formula comes from.

    Raises:
        OptgeomError: the name is no name.
    """

    name: str
    title: str
    algorithm: str
    apply: Apply
    inputs: tuple[str, ...] = INPUTS
    looks_ahead: bool = False
    second_moment: SecondMoment | None = None
    neuron_axis: Callable[[tuple[int, int]], str] | None = None
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    words: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise OptgeomError(
                f"{self.name!r} names no rule, for it becomes part of a folder's name: begin with "
                "a letter or digit, and use those and . _ : + - alone, 100 at most"
            )

    @property
    def suffix(self) -> str:
        """The name as part of a folder's: "normuon-released"."""
        return self.name.replace(":", "-")
