"""The settings that make up NorMuon and Muon, and the four algorithms called NorMuon.

Whoever says NorMuon may mean any of ``FAMILIES``; each is a point in one space of explicit
settings, so two runs can be compared setting by setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

from optgeom.optim.checks import (
    check_at_least,
    check_choice,
    check_flag,
    check_fraction,
    check_known,
    check_positive,
    check_rate,
)
from optgeom.optim.newton_schulz import (
    COEFFICIENT_SETS,
    DTYPES,
    Coefficients,
    Precision,
)

__all__ = [
    "FAMILIES",
    "AdamWSettings",
    "EpsForm",
    "Family",
    "MatrixSettings",
    "MomentumForm",
    "MuonSettings",
    "NeuronAxis",
    "NorMuonSettings",
    "Rescale",
    "ShapeFactor",
    "normuon_settings",
    "with_overrides",
]

MomentumForm = Literal["ema", "heavy_ball"]
NeuronAxis = Literal["rows", "larger"]
Rescale = Literal["rms", "norm_before", "none"]
ShapeFactor = Literal["none", "original", "match_rms", "spectral"]
EpsForm = Literal["add", "clamp"]
Family = Literal["paper", "released", "dion", "larger-axis"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSettings:
    """What every optimizer of orthogonalized momentum is made of.

    Attributes:
        momentum: The decay of the momentum, in [0, 1).
        momentum_form: "ema" M = b*M + (1-b)*G, or "heavy_ball" M = b*M + G.
        nesterov: Orthogonalize the look-ahead instead of M: b*M + (1-b)*G for the ema,
            b*M + G for the heavy ball.
        coefficients: The Newton-Schulz polynomial, a name in ``COEFFICIENT_SETS``.
        ns_steps: Newton-Schulz steps; None takes the coefficient set's own number.
        ns_dtype: The arithmetic of the iteration.
        comm_dtype: What matrices travel in between ranks; None takes ``ns_dtype``. One process
            rounds to it too, so that the update does not depend on the number of ranks.
        weight_decay: Decoupled, per unit of lr: W is multiplied by 1 - lr * weight_decay.
    """

    momentum: float = 0.95
    momentum_form: MomentumForm = "ema"
    nesterov: bool = False
    coefficients: Coefficients = "jordan"
    ns_steps: int | None = None
    ns_dtype: Precision = "bfloat16"
    comm_dtype: Precision | None = None
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        check_fraction("momentum", self.momentum)
        check_choice("momentum_form", self.momentum_form, choices=get_args(MomentumForm))
        check_flag("nesterov", self.nesterov)
        check_choice("coefficients", self.coefficients, choices=COEFFICIENT_SETS)
        if self.ns_steps is not None:
            check_at_least("ns_steps", self.ns_steps, least=1)
            COEFFICIENT_SETS[self.coefficients].schedule(self.ns_steps)
        check_choice("ns_dtype", self.ns_dtype, choices=DTYPES)
        if self.comm_dtype is not None:
            check_choice("comm_dtype", self.comm_dtype, choices=DTYPES)
        check_rate("weight_decay", self.weight_decay)


@dataclass(frozen=True, slots=True, kw_only=True)
class MuonSettings(MatrixSettings):
    """Muon: momentum, orthogonalization, and a factor that depends on the shape alone.

    Attributes:
        scale: "original" sqrt(max(1, m/n)), "match_rms" 0.2*sqrt(max(m, n)), "spectral"
            sqrt(m/n), or "none".
    """

    nesterov: bool = True
    scale: ShapeFactor = "match_rms"

    def __post_init__(self) -> None:
        # slots=True makes a new class, which zero-argument super() does not find.
        MatrixSettings.__post_init__(self)
        check_choice("scale", self.scale, choices=get_args(ShapeFactor))


@dataclass(frozen=True, slots=True, kw_only=True)
class NorMuonSettings(MatrixSettings):
    """NorMuon: Muon whose orthogonalized update is divided, neuron by neuron, by a running RMS.

    The defaults are the paper's, arXiv:2510.05491, algorithm 1.

    Attributes:
        beta2: The decay of the second moment v, in [0, 1); v starts at zero, no bias correction.
        neuron_axis: "rows" (output features), or "larger": the rows where m >= n, else the
            columns; a matrix of one row keeps its row, since a column of one entry would be
            reduced to its sign.
        eps_form: Divide by "add" sqrt(v) + eps, or "clamp" sqrt(max(v, eps)).
        eps: Above zero, so that a neuron that never moved stays at rest.
        rescale: "rms": to ``rms``; "norm_before": to the Frobenius norm before the division;
            "none": not at all.
        rms: The root mean square that ``rescale="rms"`` gives the update.
        shape_factor: As ``MuonSettings.scale``, applied last.
    """

    beta2: float = 0.95
    neuron_axis: NeuronAxis = "rows"
    eps_form: EpsForm = "add"
    eps: float = 1e-8
    rescale: Rescale = "rms"
    rms: float = 0.2
    shape_factor: ShapeFactor = "none"

    def __post_init__(self) -> None:
        MatrixSettings.__post_init__(self)
        check_fraction("beta2", self.beta2)
        check_choice("neuron_axis", self.neuron_axis, choices=get_args(NeuronAxis))
        check_choice("eps_form", self.eps_form, choices=get_args(EpsForm))
        check_positive("eps", self.eps)
        check_choice("rescale", self.rescale, choices=get_args(Rescale))
        check_positive("rms", self.rms)
        check_choice("shape_factor", self.shape_factor, choices=get_args(ShapeFactor))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWSettings:
    """AdamW for what is not a hidden matrix; the same arithmetic as torch.optim.AdamW.

    Attributes:
        betas: Decays of the first and second moment, each in [0, 1).
        eps: Added to the root of the second moment, at least 0.
        weight_decay: Decoupled; the paper decays hidden matrices only, hence 0.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers in [0, 1); got {self.betas!r}")
        for index, beta in enumerate(self.betas):
            check_fraction(f"betas[{index}]", beta)
        check_rate("eps", self.eps)
        check_rate("weight_decay", self.weight_decay)


FAMILIES: Mapping[str, NorMuonSettings] = MappingProxyType(
    {
        # arXiv:2510.05491, algorithm 1.
        "paper": NorMuonSettings(),
        # github.com/zichongli5/NorMuon, normuon.py.
        "released": NorMuonSettings(
            nesterov=True,
            weight_decay=0.0,
            eps=1e-10,
            rescale="norm_before",
            shape_factor="original",
        ),
        # github.com/microsoft/dion, dion/normuon.py, with the global matrix's norms.
        "dion": NorMuonSettings(
            momentum_form="heavy_ball",
            coefficients="polar_express",
            weight_decay=0.01,
            rescale="norm_before",
            shape_factor="spectral",
        ),
        # github.com/KellerJordan/modded-nanogpt and github.com/karpathy/nanochat, optim.py,
        # without their cautious weight decay.
        "larger-axis": NorMuonSettings(
            nesterov=True,
            coefficients="polar_express",
            weight_decay=0.0,
            neuron_axis="larger",
            eps_form="clamp",
            eps=1e-10,
            rescale="norm_before",
            shape_factor="original",
        ),
    }
)

SettingsT = TypeVar("SettingsT", MatrixSettings, MuonSettings, NorMuonSettings, AdamWSettings)


def with_overrides(settings: SettingsT, overrides: Mapping[str, Any], *, owner: str) -> SettingsT:
    """A copy of ``settings`` with some of them replaced, validated.

    Args:
        settings: Where to start from.
        overrides: Values by field name.
        owner: Who is being configured, for the error.

    Raises:
        TypeError: A name that is no setting (the nearest is named), a value of a wrong type.
        ValueError: A value outside its range.
    """
    check_known(overrides, known=[field.name for field in fields(settings)], owner=owner)
    return replace(settings, **overrides)


def normuon_settings(family: str = "paper", **overrides: Any) -> NorMuonSettings:
    """The settings of a family, any of them overridable.

    Args:
        family: A name in ``FAMILIES``.
        **overrides: Fields of ``NorMuonSettings``.

    Raises:
        TypeError: A name that is no setting (the nearest is named), a value of a wrong type.
        ValueError: An unknown family, a value outside its range.

    Examples:
        >>> normuon_settings("dion", nesterov=True).momentum_form
        'heavy_ball'
    """
    check_choice("family", family, choices=FAMILIES)
    return with_overrides(FAMILIES[family], overrides, owner="NorMuon")
