"""Newton-Schulz orthogonalization: the coefficient sets in use, and the iteration.

One step maps every singular value s of X to a*s + b*s^3 + c*s^5 and leaves the singular
vectors alone, so a few steps bring all singular values near one without an SVD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "COEFFICIENT_SETS",
    "CoefficientSet",
    "Coefficients",
    "Precision",
    "orthogonalize",
    "polynomial",
]

Coefficients = Literal["jordan", "polar_express", "simple"]
Precision = Literal["float32", "bfloat16"]

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16}
)


ONE_BY_ONE = 512
"""On a CPU, matrices of at least so many rows and columns are multiplied one by one: at 768 a
batched product took 1.02 to 1.12 times as long, below 512 0.25 to 1.14 times (two cores)."""


@dataclass(frozen=True, slots=True)
class CoefficientSet:
    """A schedule of quintic polynomials and the normalization that belongs to it.

    Attributes:
        rows: (a, b, c) per step; a single row is repeated.
        steps: The number of steps that the source uses.
        safety: The Frobenius norm is multiplied by ``1 + safety`` before the division, since
            rounding may leave the largest singular value a little above one.
        eps: Added to the norm, so that a zero matrix stays zero.
        source: Where the numbers come from.
    """

    rows: tuple[tuple[float, float, float], ...]
    steps: int
    safety: float
    eps: float
    source: str

    def schedule(self, steps: int) -> tuple[tuple[float, float, float], ...]:
        """The rows of ``steps`` steps.

        Raises:
            ValueError: ``steps`` is below one, or the set is a schedule of another length.
        """
        if steps < 1:
            raise ValueError(f"ns_steps must be at least 1; got {steps}")
        if len(self.rows) == 1:
            return self.rows * steps
        if steps != len(self.rows):
            raise ValueError(
                f"this coefficient set is a schedule of {len(self.rows)} steps; got "
                f"ns_steps={steps}: leave ns_steps out, or take 'jordan' or 'simple'"
            )
        return self.rows


COEFFICIENT_SETS: Mapping[str, CoefficientSet] = MappingProxyType(
    {
        "jordan": CoefficientSet(
            rows=((3.4445, -4.7750, 2.0315),),
            steps=5,
            safety=0.0,
            eps=1e-7,
            source="K. Jordan et al., Muon (2024), github.com/KellerJordan/Muon, muon.py; "
            "maximal slope at zero, singular values end in about [0.68, 1.21]",
        ),
        "polar_express": CoefficientSet(
            rows=(
                (8.156554524902461, -22.48329292557795, 15.878769915207462),
                (4.042929935166739, -2.808917465908714, 0.5000178451051316),
                (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
                (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
                (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
            ),
            steps=5,
            safety=2e-2,
            eps=1e-6,
            source="N. Amsel et al., The Polar Express, arXiv:2505.16932; computed for 5 steps, "
            "safety factor 2e-2, cushion 2, as in modded-nanogpt",
        ),
        "simple": CoefficientSet(
            rows=((2.0, -1.5, 0.5),),
            steps=12,
            safety=0.0,
            eps=1e-7,
            source="K. Jordan, Muon: an optimizer for hidden layers (2024), the baseline "
            "polynomial, which converges to one; 12 steps as in modded-nanogpt",
        ),
    }
)


def orthogonalize(
    matrix: Tensor,
    *,
    coefficients: str = "jordan",
    steps: int | None = None,
    dtype: str = "bfloat16",
) -> Tensor:
    """Bring the singular values of every matrix near one.

    Cost: per step, 4*k^2*l + 2*k^3 flops for a matrix of sides k <= l.

    Args:
        matrix: (..., m, n), any floating dtype and any strides; not modified.
        coefficients: A name in ``COEFFICIENT_SETS``.
        steps: Number of steps; None takes the source's.
        dtype: "float32" or "bfloat16": the arithmetic of the iteration.

    Returns:
        (..., m, n) in ``dtype``; the zero matrix for a zero matrix.

    Raises:
        ValueError: Fewer than two dimensions, an unknown name, an impossible step count.

    Examples:
        >>> orthogonalize(torch.zeros(2, 3)).abs().max().item()
        0.0
    """
    if matrix.ndim < 2:
        raise ValueError(f"orthogonalize takes (..., m, n) matrices; got {tuple(matrix.shape)}")
    if coefficients not in COEFFICIENT_SETS:
        known = ", ".join(COEFFICIENT_SETS)
        raise ValueError(f"coefficients must be one of {known}; got {coefficients!r}")
    if dtype not in DTYPES:
        raise ValueError(f"ns_dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    table = COEFFICIENT_SETS[coefficients]
    rows = table.schedule(table.steps if steps is None else steps)

    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.to(DTYPES[dtype])
    x = x.mT if tall else x
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = x / (norm * (1.0 + table.safety) + table.eps)
    batch = x.shape[:-2]
    if len(batch) != 1:
        x = x.reshape(batch.numel(), *x.shape[-2:]) if batch else x
    if len(x) and x.ndim == 3 and x.device.type == "cpu" and x.shape[-2] >= ONE_BY_ONE:
        # by shape alone, so that a matrix comes out the same in any company
        x = torch.stack([_iterated(one, rows) for one in x])
    else:
        x = _iterated(x, rows)
    x = x.reshape(*batch, *x.shape[-2:])
    return x.mT if tall else x


def _iterated(x: Tensor, rows: Sequence[tuple[float, float, float]]) -> Tensor:
    multiply_add = torch.addmm if x.ndim == 2 else torch.baddbmm
    for a, b, c in rows:
        gram = x @ x.mT
        x = multiply_add(x, multiply_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def polynomial(singular_values: Tensor, *, coefficients: str = "jordan") -> Tensor:
    """What the iteration makes of singular values, evaluated in float64.

    Args:
        singular_values: Any shape, already divided by the normalization, in [0, 1].
        coefficients: A name in ``COEFFICIENT_SETS``; its own number of steps is taken.

    Returns:
        The same shape, float64.

    Examples:
        >>> polynomial(torch.tensor([1.0]), coefficients="simple").item()
        1.0
    """
    table = COEFFICIENT_SETS[coefficients]
    s = singular_values.to(torch.float64)
    for a, b, c in table.schedule(table.steps):
        s = a * s + b * s**3 + c * s**5
    return s
