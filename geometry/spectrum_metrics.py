"""Catalogue entries of the spectra clock: what singular values are needed for."""

from __future__ import annotations

from optgeom.geometry.accuracy import Accuracy, Error, Follows
from optgeom.geometry.metric import Band, Metric

_NORMUON = "NorMuon, arXiv 2510.05491"
_MOONLIGHT = "Moonlight, arXiv 2502.16982"
_AURORA = "Aurora, arXiv 2606.27715"
_ROY = "Roy & Vetterli, The effective rank, EUSIPCO 2007"
_STABLE = "Rudelson & Vershynin, Sampling from large matrices, J. ACM 2007"
_TAIL = "arXiv 2509.26030"
_OURS = "this project"
# A sum of 200,000 equal squares, rounding alike, is off by 1e-12; of a few thousand by 3e-14.
_LARGEST = Error(relative=2e-12)
_ENERGY = Error(relative=1e-13)
_ENTROPY = Error(relative=1e-12, absolute=1e-12)
# What float32 products add: to single values, to s_1, and to what averages over all of them.
_EACH, _FIRST, _AVERAGE = Error(relative=2e-5), Error(relative=5e-6), Error(relative=4e-6)


def _of_values(
    always: Error, products: Error, follows: Follows | None = None, weight: float = 1.0
) -> Accuracy:
    """Of what is made from singular values in float64: the dtype of the matrix does not matter."""
    return Accuracy(single=always, double=always, products=products, follows=follows, weight=weight)


_JORDAN = "Newton-Schulz, Jordan coefficients x 5"
_FULL_RANK = "full rank, no s_i/|A|_F below the polynomial's floor"

SPECTRUM_METRICS = (
    Metric(
        name="leverage_cv",
        title="Leverage CV",
        group="Balance",
        table="spectra",
        unit="1",
        range=(0.0, None),
        formula="CV of the row norms of P = U_k V_k^T over s_i > max(noise_floor, 1e-6 s_1)",
        reference=f"{_AURORA}: |row of P| = sqrt(leverage), uniform value n/m",
        help="What exact orthogonalization would leave uneven. Taken from ns_input, else from "
        "orthogonalized; never from a row-normalized update, where it reads far too low.",
        healthy=(
            Band(
                low=0.0,
                high=0.0,
                stage="ns_input",
                rule="any",
                shape="m <= n, full row rank",
                source="theory: U_k is square, its rows have norm 1",
            ),
        ),
        stages=("ns_input", "orthogonalized"),
        accuracy=Accuracy(
            single=Error(relative=1e-14, absolute=1e-14),
            double=Error(relative=1e-14, absolute=1e-14),
            follows="vectors",
            weight=0.02,
            note="more where singular values on both sides of the limit are alike",
        ),
    ),
    Metric(
        name="leverage_rank",
        title="Rank that the leverage is taken over",
        group="Balance",
        table="spectra",
        unit="1",
        range=(0.0, None),
        formula="k = #{s_i > max(noise_floor, 1e-6 s_1)}",
        reference=_AURORA,
        help="Sum of the squared row norms of P.",
        stages=("ns_input", "orthogonalized"),
        dtype="int64",
        accuracy=Accuracy(follows="largest", counts="any s_i"),
    ),
    Metric(
        name="ns_row_error",
        title="Row error of the approximate iteration",
        group="Balance",
        table="spectra",
        unit="1",
        range=(0.0, 1.0),
        formula="|rho(O) - c rho(P)| / |rho(O)|, c by least squares",
        reference=_OURS,
        help="What Newton-Schulz adds to the rows beyond the exact polar factor. The CVs of O and "
        "P do not subtract: never stack them.",
        stages=("orthogonalized",),
        accuracy=Accuracy(
            single=Error(absolute=4e-7),
            double=Error(absolute=2e-15),
            follows="vectors",
            weight=0.2,
            note="kappa of ns_input",
        ),
    ),
    Metric(
        name="condition_number",
        title="Condition number",
        group="Conditioning",
        table="spectra",
        unit="1",
        range=(1.0, None),
        formula="s_1 / s_r",
        reference=f"{_NORMUON}, Fig. 1a",
        help="With spectrum_status at_floor it is s_1 / noise_floor, a lower bound: the smallest "
        "singular value lies below what can be told from rounding.",
        accuracy=_of_values(_LARGEST, _EACH, "smallest"),
    ),
    Metric(
        name="condition_number_resolved",
        title="Condition number above the floor",
        group="Conditioning",
        table="spectra",
        unit="1",
        range=(1.0, None),
        formula="s_1 / min{s_i : s_i > noise_floor}",
        reference=_OURS,
        help="The condition number of the part that stands out of rounding; read it together with "
        "resolved_rank. Null where nothing does.",
        accuracy=_of_values(_LARGEST, _EACH, "smallest"),
    ),
    Metric(
        name="resolved_rank",
        title="Singular values above the floor",
        group="Conditioning",
        table="spectra",
        unit="1",
        range=(0.0, None),
        formula="#{s_i > noise_floor}",
        reference=_OURS,
        help="min(m, n) when everything is resolved.",
        dtype="int64",
        accuracy=Accuracy(follows="largest", counts="any s_i"),
    ),
    Metric(
        name="noise_floor",
        title="Noise floor",
        group="Conditioning",
        table="spectra",
        unit="as A",
        range=(0.0, None),
        formula="max(floor of the reading, eps(operand dtype) s_1, floor of the method); the "
        "reading by difference has (sqrt m + sqrt n) rms(ulp W) / (sqrt 12 lr) sqrt(roundings)",
        reference=_OURS,
        help="Singular values at or below it are rounding, not signal. The method's floor is "
        "1.5e-7 s_1 from the Gram matrix and 2.2e-15 s_1 from an SVD.",
        accuracy=Accuracy(
            single=_LARGEST,
            double=_LARGEST,
            products=_FIRST,
            note="by difference, within 5 % of what was found",
        ),
    ),
    Metric(
        name="spectral_flatness_cv",
        title="Spectral flatness",
        group="Conditioning",
        table="spectra",
        unit="1",
        range=(0.0, None),
        formula="std(s^2) / mean(s^2), population std",
        reference="",
        help="0 for an orthogonal matrix. Free of scale, so it cannot see a scale applied twice.",
        accuracy=_of_values(
            Error(relative=1e-13, absolute=1e-13), Error(relative=2e-5, absolute=2e-5)
        ),
    ),
    Metric(
        name="sigma_min",
        title="Smallest singular value",
        group="Conditioning",
        table="spectra",
        unit="1",
        range=(0.0, None),
        formula="s_r of O as it is",
        reference="Newton-Schulz practice",
        help="No rescaling: what the iteration left. Directions that entered too small stay small.",
        healthy=(
            Band(
                low=0.68,
                high=1.21,
                stage="orthogonalized",
                rule=_JORDAN,
                shape=_FULL_RANK,
                source="Newton-Schulz practice",
            ),
        ),
        stages=("orthogonalized",),
        accuracy=_of_values(_LARGEST, _EACH, "largest"),
    ),
    Metric(
        name="sigma_max",
        title="Largest singular value",
        group="Conditioning",
        table="spectra",
        unit="1",
        range=(0.0, None),
        formula="s_1 of O as it is",
        reference="Newton-Schulz practice",
        help="No rescaling: far from 1 means a scale was applied twice, or none at all.",
        healthy=(
            Band(
                low=0.68,
                high=1.21,
                stage="orthogonalized",
                rule=_JORDAN,
                shape=_FULL_RANK,
                source="Newton-Schulz practice",
            ),
        ),
        stages=("orthogonalized",),
        accuracy=_of_values(_LARGEST, _FIRST),
    ),
    Metric(
        name="polar_error",
        title="Distance from orthogonal",
        group="Conditioning",
        table="spectra",
        unit="1",
        range=(0.0, None),
        formula="sqrt(mean((s - 1)^2)) of O as it is",
        reference="Newton-Schulz practice",
        help="Root mean square distance of the singular values of O from 1.",
        healthy=(
            Band(
                low=0.0,
                high=0.32,
                stage="orthogonalized",
                rule=_JORDAN,
                shape=_FULL_RANK,
                source="follows from the band [0.68, 1.21] of the singular values",
            ),
        ),
        stages=("orthogonalized",),
        accuracy=_of_values(
            Error(relative=2e-12, absolute=2e-12), Error(relative=2e-5, absolute=2e-5), "largest"
        ),
    ),
    Metric(
        name="ns_floor_fraction",
        title="Directions the polynomial leaves small",
        group="Conditioning",
        table="spectra",
        unit="1",
        range=(0.0, 1.0),
        formula="share of s_i/|A|_F of ns_input that the polynomial in use maps below 0.5",
        reference="arXiv 2606.04058",
        help="Directions that enter the iteration too small to be lifted. Null where the "
        "polynomial is not known.",
        stages=("ns_input",),
        accuracy=Accuracy(
            single=Error(relative=1e-8),
            double=Error(relative=1e-8),
            products=_EACH,
            counts="values",
        ),
    ),
    Metric(
        name="stable_rank",
        title="Stable rank",
        group="Rank",
        table="spectra",
        unit="1",
        range=(1.0, None),
        formula="|A|_F^2 / s_1^2",
        reference=_STABLE,
        help="Between 1 and r; small when one direction holds most of the energy.",
        accuracy=_of_values(_ENERGY, _EACH),
    ),
    Metric(
        name="svd_entropy",
        title="SVD entropy",
        group="Rank",
        table="spectra",
        unit="1",
        range=(0.0, 1.0),
        formula="-(1 / log r) sum(q log q)",
        reference=f"{_MOONLIGHT}, section 3.4",
        help="1 for a flat spectrum. Null for r = 1.",
        accuracy=_of_values(_ENTROPY, _AVERAGE),
    ),
    Metric(
        name="effective_rank",
        title="Effective rank",
        group="Rank",
        table="spectra",
        unit="1",
        range=(1.0, None),
        formula="exp(-sum(p log p))",
        reference=_ROY,
        help="Entropy of the singular values themselves (p), not of their squares (q).",
        accuracy=_of_values(_ENTROPY, _AVERAGE, "sum", weight=20.0),
    ),
    Metric(
        name="effective_rank_energy",
        title="Effective rank by energy",
        group="Rank",
        table="spectra",
        unit="1",
        range=(1.0, None),
        formula="exp(-sum(q log q))",
        reference=_TAIL,
        help="Entropy of the squared singular values: smaller than effective_rank.",
        accuracy=_of_values(_ENTROPY, _AVERAGE),
    ),
    Metric(
        name="nuclear_rank",
        title="Nuclear rank",
        group="Rank",
        table="spectra",
        unit="1",
        range=(1.0, None),
        formula="|A|_*^2 / |A|_F^2",
        reference="arXiv 2512.04299",
        help="r for a flat spectrum, 1 for rank one.",
        accuracy=_of_values(_LARGEST, _AVERAGE, "sum", weight=2.0),
    ),
    Metric(
        name="top10_energy",
        title="Energy of the ten largest directions",
        group="Rank",
        table="spectra",
        unit="1",
        range=(0.0, 1.0),
        formula="sum of q_i over i <= 10",
        reference=_TAIL,
        help="1 where r <= 10; compare only matrices of like size.",
        accuracy=_of_values(Error(relative=1e-14), _EACH),
    ),
    Metric(
        name="q75_q25",
        title="Upper over lower quartile of the energies",
        group="Rank",
        table="spectra",
        unit="1",
        range=(1.0, None),
        formula="Q3(s^2) / Q1(s^2), linear interpolation",
        reference=_TAIL,
        help="The slope of the bulk of the spectrum. Null where the lower quartile lies at the "
        "noise floor.",
        accuracy=_of_values(_ENERGY, _EACH, "smallest", weight=2.0),
    ),
    Metric(
        name="spectral_norm",
        title="Spectral norm",
        group="Scale",
        table="spectra",
        unit="as A",
        range=(0.0, None),
        formula="s_1",
        reference="",
        help="The largest stretch of any direction.",
        accuracy=_of_values(_LARGEST, _FIRST),
    ),
    Metric(
        name="nuclear_norm",
        title="Nuclear norm",
        group="Scale",
        table="spectra",
        unit="as A",
        range=(0.0, None),
        formula="sum(s)",
        reference="",
        help="Dual of the spectral norm.",
        accuracy=_of_values(_LARGEST, _EACH, "sum"),
    ),
    Metric(
        name="descent_efficiency",
        title="Descent efficiency",
        group="Direction",
        table="spectra",
        unit="1",
        range=(-1.0, 1.0),
        formula="<G, u> / (|G|_* |u|_2)",
        reference="duality of the nuclear and the spectral norm",
        help="Decrease to first order, against the best update of the same spectral norm: 1 for "
        "the exact polar factor of the gradient. It takes the gradient's own spectrum, which costs "
        "as much as the update's: in flight it is null unless the stage gradient is recorded too; "
        "optgeom analyze computes it where the trace holds raw gradients.",
        stages=("update",),
        accuracy=Accuracy(
            single=Error(absolute=1e-6),
            double=Error(absolute=1e-14),
            products=_EACH,
            follows="sum",
            note="kappa and r of the gradient",
        ),
    ),
)
