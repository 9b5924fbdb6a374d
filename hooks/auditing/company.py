"""Whether the update of one matrix depends on the others that the optimizer holds."""

from __future__ import annotations

import torch
from torch import nn

from optgeom.hooks.auditing.inputs import uneven
from optgeom.hooks.auditing.subject import (
    Matrix,
    StepFailed,
    Subject,
    as_fed,
    difference,
    made,
    said,
)

SIDES = (32, 16)
STEPS = 3
SAME = 0.05
"""Relative distance: matrices that are orthogonalized in one batch come out within bfloat16."""


def depends_on_others(subject: Subject) -> bool:
    """Step two matrices of one shape together, and one of them alone.

    Raises:
        StepFailed: a step failed, or it cannot be fed this way.
    """
    if subject.way == "closure" or not subject.resets:
        raise StepFailed("one matrix at a time is all that it can be fed")
    own = [uneven(*SIDES, seed=30 + step) for step in range(STEPS)]
    other = [50.0 * uneven(*SIDES, seed=40 + step) for step in range(STEPS)]
    alone, together = subject.updates(own), _together(subject, own, other)
    return any(difference(*pair) > SAME for pair in zip(together, alone, strict=True))


def _together(subject: Subject, own: list[Matrix], other: list[Matrix]) -> list[Matrix]:
    """The updates of the first of two."""
    parameters = [nn.Parameter(torch.zeros(SIDES, dtype=subject.dtype)) for _ in range(2)]
    optimizer = made(subject.factory, parameters)
    found = []
    for gradients in zip(own, other, strict=True):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = as_fed(gradient, subject.dtype, subject.way)
        try:
            optimizer.step()
        except (Exception, SystemExit) as error:
            raise StepFailed(said(error)) from error
        found.append(-subject.sign * parameters[0].detach().double().numpy() / subject.lr)
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
    return found
