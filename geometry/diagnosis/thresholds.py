"""Every number that a rule decides by, with where it comes from; docs/diagnose.md prints it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Threshold:
    """One number.

    Attributes:
        name: Of the threshold.
        value: In `unit`.
        unit: "1" for a plain ratio or share.
        rules: The rules that use it.
        meaning: What is compared with it.
        source: Where it comes from.
    """

    name: str
    value: float
    unit: str
    rules: tuple[str, ...]
    meaning: str
    source: str


_DEMO = "the demo's runs"
_FLAT_RULES = ("not_orthogonal", "not_converged", "orthogonalized_per_shard", "muon_scale")

BAND = Threshold(
    "band",
    0.4,
    "s_1",
    _FLAT_RULES,
    "singular values from here on count as lifted by the orthogonalization",
    "Jordan's five steps leave [0.68, 1.21], a ratio of 0.56; NorMuon's division of the rows by "
    "norms that differ by a half widens it to 0.4",
)
TAIL = Threshold(
    "tail",
    0.1,
    "s_1",
    _FLAT_RULES,
    "singular values below it are not counted: rank that the gradient does not have",
    "rounding of bfloat16 (2^-9), lifted by Jordan's slope 3.4445^5 = 485, mostly stays below it",
)
NOT_FLAT = Threshold(
    "not_flat",
    0.35,
    "1",
    ("not_orthogonal",),
    "band share of an update below which nothing orthogonalized it (median over captures)",
    f"{_DEMO}: AdamW 0.21 to 0.29, momentum and gradient 0.11 to 0.30; Muon and NorMuon from 0.81",
)
PARTLY_FLAT = Threshold(
    "partly_flat",
    0.6,
    "1",
    ("not_converged", "not_orthogonal", "muon_scale"),
    "band share below which the iteration has not converged (median over captures)",
    f"{_DEMO}: Jordan's polynomial applied two times gives 0.41 to 0.56, five times from 0.88",
)
EDGE_BAND = Threshold(
    "edge_band",
    0.56,
    "s_1",
    ("not_orthogonal", "not_converged", "muon_scale"),
    "of the singular values above `band`, those above it lie well inside",
    "0.68 / 1.21: Jordan's band",
)
EDGE = Threshold(
    "edge",
    0.87,
    "1",
    ("not_orthogonal", "not_converged", "muon_scale"),
    "share of them from which the band has an edge: an orthogonalized matrix of low rank, whatever "
    "rounding has left below (median over captures)",
    "short runs of a GPT of width 128 with 16 to 128 tokens a step: converged 0.88 to 1; two steps "
    "of Newton-Schulz 0.63 to 0.82, three 0.75 to 0.94",
)
EDGE_COUNT = Threshold(
    "edge_count",
    8.0,
    "singular values",
    ("not_orthogonal", "not_converged", "muon_scale"),
    "in the band at least, to tell whether it has an edge",
    "this project: of the few that a gradient has there, as many may lie anywhere",
)
SAME_DIRECTION = Threshold(
    "same_direction",
    0.995,
    "1",
    ("not_orthogonal",),
    "cosine of update and gradient from which the update is the gradient (median over captures)",
    "plain gradient descent has 1; orthogonalizing r >= 4 directions that are not alike has less",
)
SCALE_OFF = Threshold(
    "scale_off",
    1.5,
    "1",
    ("muon_scale",),
    "how far the middle of the band may lie from what the settings promise, as a factor",
    "Jordan's polynomial leaves the middle of its band within [0.68, 1.21], others nearer to 1",
)
RMS_OFF = Threshold(
    "rms_off",
    1.05,
    "1",
    ("muon_scale",),
    "how far the RMS of NorMuon's update may lie from what the settings promise, as a factor",
    "NorMuon, arXiv 2510.05491, algorithm 1: rescaled to the RMS at every step; bfloat16 rounds "
    "single entries by 0.4 %",
)
BLOCK_FLAT = Threshold(
    "block_flat",
    0.8,
    "1",
    ("orthogonalized_per_shard",),
    "band share of every row block by itself",
    f"{_DEMO}: of blocks orthogonalized by themselves 0.84 to 1 (NorMuon's tall ones from 0.74); "
    "of blocks of a tall orthogonal matrix up to 0.72",
)
SHARD_GAIN = Threshold(
    "shard_gain",
    0.5,
    "sqrt(shards) - 1",
    ("orthogonalized_per_shard",),
    "how far the largest singular value of the whole stands above that of a block: 0 where the "
    "whole was orthogonalized, 1 at most where k blocks were, each by itself",
    "s_1 of k stacked orthogonal blocks is at most sqrt(k), and is near it where they have their "
    "strongest directions in common; halfway is the threshold. From spectra alone, halfway for two "
    "shards, whatever their number",
)
SHARD_FROBENIUS = Threshold(
    "shard_frobenius",
    1.25,
    "1",
    ("orthogonalized_per_shard",),
    "how much the Frobenius norm of m <= n may exceed that of an orthogonal matrix, as a factor",
    "stacked orthogonal blocks of at most n rows have the Frobenius norm of an orthogonal matrix",
)
UNEVEN = Threshold(
    "uneven",
    0.3,
    "1",
    ("uneven_neurons",),
    "neuron_norm_cv from which neurons are called uneven (median over captures)",
    f"NorMuon, arXiv 2510.05491, Fig. 1b; {_DEMO}: Muon 0.4 to 0.5 in tall matrices, 0.1 elsewhere",
)
ROW_ERROR = Threshold(
    "row_error",
    0.3,
    "1",
    ("uneven_neurons",),
    "ns_row_error from which the iteration, and not the leverage, makes neurons uneven",
    "row norms that spread over the whole of Jordan's band [0.68, 1.21] are off by 0.28 at most",
)
DOMINANT = Threshold(
    "dominant",
    5.0,
    "median",
    ("dominant_neurons",),
    "norm of a neuron's update from which it dominates its layer",
    f"{_DEMO}: no neuron stays above 2",
)
FEW = Threshold(
    "few",
    0.05,
    "neurons",
    ("dominant_neurons",),
    "share of a layer's neurons, up to which they are few",
    "this project: of Muon's update of a byte-level head 9 % are 5 times the median",
)
ENERGY = Threshold(
    "energy",
    0.5,
    "1",
    ("dominant_neurons",),
    "share of the update's squared norm that the few hold at least (median over captures)",
    "this project: more than all others together",
)
DORMANT = Threshold(
    "dormant",
    0.1,
    "mean",
    ("dormant_neurons",),
    "norm of a neuron's update below which it is dormant",
    "as neuron_dormant_fraction, rows that never move left out, and no row counted for more than "
    f"`dominant` medians; {_DEMO}: no neuron stays below 0.15",
)
SOME = Threshold(
    "some",
    0.01,
    "neurons",
    ("dormant_neurons",),
    "share of a layer's neurons from which dormant ones are more than a note",
    f"this project; {_DEMO}: under Muon one neuron of 512 stays just below `dormant` for the last "
    "270 steps",
)
STAYS = Threshold(
    "stays",
    0.9,
    "captures",
    ("dominant_neurons", "dormant_neurons"),
    "share of the captures at which a neuron dominates or is dormant, to call it lasting",
    "this project: one in ten may differ, as the first after a restart does",
)
LASTING = Threshold(
    "lasting",
    5.0,
    "captures",
    ("dominant_neurons", "dormant_neurons"),
    "captures at least that a layer needs for that",
    "this project",
)
LOST = Threshold(
    "lost",
    0.25,
    "1",
    ("lost_to_rounding",),
    "share of entries that the update did not move (median over captures)",
    "as in docs/metrics.md: above it a difference of weights is no update",
)
LOST_SEVERE = Threshold(
    "lost_severe",
    0.9,
    "1",
    ("lost_to_rounding",),
    "the same, from which the layer is all but frozen",
    "this project: nine entries in ten do not move",
)
LOST_DECAY = Threshold(
    "lost_decay",
    0.9,
    "1",
    ("lost_to_rounding",),
    "share of entries that the weight decay did not move (median over captures)",
    "bfloat16 has 8 bits: a factor of 1 - 2e-4 moves nothing",
)
DECAY_SEEN = Threshold(
    "decay_seen",
    1e-5,
    "1",
    ("decay_not_applied",),
    "lr times weight_decay from which a decay that is missing can be told from rounding",
    "float32 resolves 6e-8 of a weight; one step's decay has to stand out of it",
)
DECAY_MISSING = Threshold(
    "decay_missing",
    0.8,
    "captures",
    ("decay_not_applied",),
    "share of a layer's captures at which none was applied",
    "this project: schedules of the decay may begin or end at zero",
)
REPEATS = Threshold(
    "repeats",
    0.003,
    "1 - 0.99^d",
    ("repeated_update",),
    "how far below 1 the cosine to the capture d steps before may lie",
    "a momentum of 0.99 fed with unrelated gradients turns by 1 - 0.99^d; SGD with such a momentum "
    "in a short run by 0.008 of that, and a third of it is left",
)
REVERSES = Threshold(
    "reverses",
    -0.5,
    "1",
    ("reversed_update",),
    "cosine to the previous capture",
    f"{_DEMO}: not below -0.21",
)
IN_A_ROW = Threshold(
    "in_a_row",
    4.0,
    "captures",
    ("repeated_update", "reversed_update"),
    "captures, one after the other, that have to show it",
    "this project",
)
AXIS_EVEN = Threshold(
    "axis_even",
    0.01,
    "1",
    ("wrong_neuron_axis",),
    "CV of the norms along an axis, in the first step, up to which it was normalized",
    "a second moment that starts at zero makes all norms alike in the first step, to the rounding "
    "of bfloat16",
)
AXIS_UNEVEN = Threshold(
    "axis_uneven",
    0.2,
    "1",
    ("wrong_neuron_axis",),
    "CV along the axis that should have been normalized, while the other has less than half of it",
    f"{_DEMO}: NorMuon's rows stay below 0.16 in every layer",
)
AXIS_SIGNS = Threshold(
    "axis_signs",
    1e-3,
    "1",
    ("wrong_neuron_axis",),
    "CV of the entries of a matrix of one row or column, up to which they are signs alone",
    "entries divided by their own root mean square are 1 or -1",
)
ENOUGH = Threshold(
    "enough",
    4.0,
    "rows and columns",
    ("not_orthogonal", "not_converged", "muon_scale", "dominant_neurons", "dormant_neurons"),
    "sides at least that a matrix needs to be judged by its spectrum or its neurons",
    "this project: of fewer values no share can be told",
)
DIFFERENCE_FLOOR = Threshold(
    "difference_floor",
    0.05,
    "s_1",
    _FLAT_RULES,
    "noise floor of a reading by difference, up to which its spectrum is judged",
    "this project: half of the tail",
)

THRESHOLDS: tuple[Threshold, ...] = tuple(
    one for one in list(globals().values()) if isinstance(one, Threshold)
)
"""All of them, in the order of this page."""
