"""The polynomials that published orthogonalizations apply to singular values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from optgeom.geometry.newton_schulz import odd_polynomials
from optgeom.hooks.auditing.subject import Matrix

Row = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A schedule of x <- a x + b x^3 + c x^5.

    Attributes:
        name: of the set of coefficients.
        rows: (a, b, c) of each step; the last one is repeated where more steps are made.
        safety: the Frobenius norm is multiplied with 1 + safety before the division.
        steps: how many steps are tried.
        source: paper or code.
    """

    name: str
    rows: tuple[Row, ...]
    steps: tuple[int, ...]
    source: str
    safety: tuple[float, ...] = (0.0,)


PUBLISHED = (
    Polynomial(
        "jordan",
        ((3.4445, -4.7750, 2.0315),),
        tuple(range(1, 13)),
        "K. Jordan et al., Muon (2024), github.com/KellerJordan/Muon",
    ),
    Polynomial(
        "polar_express",
        (
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ),
        (5,),
        "arXiv:2505.16932 for 5 steps, safety 2e-2; microsoft/dion, modded-nanogpt",
        (0.0, 0.01, 0.02),
    ),
    Polynomial(
        "polar_express_1e-2",
        (
            (8.237312490495555, -23.157747414558198, 16.680568411445915),
            (4.082441999064835, -2.893047735332586, 0.5252849256975648),
            (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
            (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
            (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
            (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
            (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
            (1.8749994008682747, -1.2499988017229169, 0.3749994008546422),
        ),
        tuple(range(3, 11)),
        "arXiv:2505.16932 for 8 steps, safety 1e-2; pytorch-optimizer",
        (0.0, 0.01),
    ),
    Polynomial(
        "polar_express_2e-2",
        (
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.0429299351667245, -2.808917465908704, 0.5000178451051299),
            (3.8916678022926563, -2.7724841532176825, 0.5060648178503389),
            (3.285753657755658, -2.3681294933425394, 0.46449024233003117),
            (2.3005307116270983, -1.6111665557258408, 0.3833374427545273),
            (1.8631210546382593, -1.2042160621002727, 0.3421879560523383),
            (1.8382572152247512, -1.1779263289537742, 0.3396513038637379),
            (1.8749999923301852, -1.2499999836060613, 0.374999991275876),
        ),
        tuple(range(3, 11)),
        "arXiv:2505.16932 for 8 steps, safety 2e-2; pytorch-optimizer",
        (0.0, 0.02),
    ),
    Polynomial(
        "quintic",
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        tuple(range(3, 8)),
        "optimized schedule of modded-nanogpt; pytorch-optimizer",
    ),
    Polynomial(
        "simple",
        ((2.0, -1.5, 0.5),),
        tuple(range(1, 21)),
        "K. Jordan (2024), the baseline that converges to one; modded-nanogpt, 12 steps",
    ),
    Polynomial(
        "cubic",
        ((1.5, -0.5, 0.0),),
        tuple(range(1, 31)),
        "the Newton-Schulz iteration of third order, Higham, Functions of Matrices (2008), ch. 8",
    ),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One polynomial with its number of steps, as a function of singular values.

    Attributes:
        name: of the set of coefficients; "exact" for the polar factor itself.
        steps: how many; 0 for the polar factor.
        safety: as in `Polynomial`.
        rows: all steps.
    """

    name: str
    steps: int
    safety: float
    rows: tuple[Row, ...]

    def __call__(self, values: Matrix) -> Matrix:
        """The image of singular values that were divided by the Frobenius norm, same shape."""
        if not self.rows:
            ones: Matrix = (values != 0).astype(np.float64)
            return ones
        return odd_polynomials(values / (1.0 + self.safety), self.rows)

    def rounded(self, values: Matrix) -> Matrix:
        """The same in the arithmetic that is in use: products of bfloat16, each rounded once."""
        if not self.rows:
            return self(values)
        x = torch.from_numpy(values / (1.0 + self.safety)).bfloat16()
        for a, b, c in self.rows:
            square = (x.float() ** 2).bfloat16().float()
            inner = (b * square + c * square**2).bfloat16().float()
            x = (a * x.float() + inner * x.float()).bfloat16()
        found: Matrix = x.double().numpy()
        return found


EXACT = Variant("exact", 0, 0.0, ())
"""The polar factor U V^T itself."""


def variants() -> Iterator[Variant]:
    """Every published polynomial with every number of steps that is tried, and the limit."""
    yield EXACT
    for one in PUBLISHED:
        for steps in one.steps:
            rows = tuple(one.rows[min(at, len(one.rows) - 1)] for at in range(steps))
            for safety in one.safety:
                yield Variant(one.name, steps, safety, rows)
