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
        meaning: What is compared with it.
        source: Where it comes from.
    """

    name: str
    value: float
    unit: str
    meaning: str
    source: str


_DEMO = "the demo's runs"

BAND = Threshold(
    "band",
    0.4,
    "s_1",
    "singular values from here on count as lifted by the orthogonalization",
    "Jordan's five steps leave [0.68, 1.21], a ratio of 0.56; NorMuon's division of the rows by "
    "norms that differ by a half widens it to 0.4",
)
TAIL = Threshold(
    "tail",
    0.1,
    "s_1",
    "singular values below it are not counted: rank that the gradient does not have",
    "rounding of bfloat16 (2^-9), lifted by Jordan's slope 3.4445^5 = 485, mostly stays below it; "
    "where the settings name steeper polynomials, so much more: 0.21 for Polar Express",
)
TAIL_SLOPE = Threshold(
    "tail_slope",
    485.0,
    "1",
    "slope of an iteration at 0, for which `tail` holds",
    "Jordan's coefficients, five steps: 3.4445^5",
)
LARGEST_TAIL = Threshold(
    "largest_tail",
    0.3,
    "s_1",
    "`tail` at most, whatever the slope",
    "this project: three quarters of band; rounding that is lifted further is in the band",
)
REACH = Threshold(
    "reach",
    2.0**-8,
    "Frobenius norm",
    "singular values of ns_input or momentum from here on are directions that five steps lift; "
    "where one of the two was captured, only so many of the update's largest are counted",
    "3.4445^5 / 256 = 1.9, well inside the band; what bfloat16 rounds away is below",
)
FULL_STEPS = Threshold(
    "full_steps",
    5.0,
    "steps",
    "ns_steps from which the schedule is long enough, so that a spectrum that is not flat is the "
    "input's doing",
    "Jordan's Muon, torch.optim.Muon and Polar Express run five",
)
PROPORTIONAL = Threshold(
    "proportional",
    1e-3,
    "s_1",
    "how far singular values of update and momentum, both over their largest, may differ to be the "
    "same spectrum",
    "bfloat16 rounds single entries by 0.4 %, singular values by less than 0.1 %",
)
NOT_FLAT = Threshold(
    "not_flat",
    0.35,
    "1",
    "band share of an update below which nothing orthogonalized it (median over captures)",
    f"{_DEMO}: AdamW 0.21 to 0.29, momentum and gradient 0.11 to 0.30; Muon and NorMuon from 0.81",
)
PARTLY_FLAT = Threshold(
    "partly_flat",
    0.6,
    "1",
    "band share below which the iteration has not converged (median over captures)",
    f"{_DEMO}: Jordan's polynomial applied two times gives 0.41 to 0.56, five times from 0.88",
)
EDGE_BAND = Threshold(
    "edge_band",
    0.56,
    "s_1",
    "of the singular values above `band`, those above it lie well inside",
    "0.68 / 1.21: Jordan's band",
)
EDGE = Threshold(
    "edge",
    0.87,
    "1",
    "share of them from which the band has an edge: an orthogonalized matrix of low rank, whatever "
    "rounding has left below (median over captures)",
    "short runs of a GPT of width 128 with 16 to 128 tokens a step: converged 0.88 to 1; two steps "
    "of Newton-Schulz 0.63 to 0.82, three 0.75 to 0.94",
)
EDGE_COUNT = Threshold(
    "edge_count",
    8.0,
    "singular values",
    "in the band at least, to tell whether it has an edge",
    "this project: of the few that a gradient has there, as many may lie anywhere",
)
SAME_DIRECTION = Threshold(
    "same_direction",
    0.995,
    "1",
    "cosine of update and gradient from which the update is the gradient (median over captures)",
    "plain gradient descent has 1; orthogonalizing r >= 4 directions that are not alike has less",
)
SCALE_OFF = Threshold(
    "scale_off",
    1.5,
    "1",
    "how far the middle of the band may lie from what the settings promise, as a factor",
    "Jordan's polynomial leaves the middle of its band within [0.68, 1.21], others nearer to 1",
)
RMS_OFF = Threshold(
    "rms_off",
    1.05,
    "1",
    "how far the RMS of NorMuon's update may lie from what the settings promise, as a factor",
    "NorMuon, arXiv 2510.05491, algorithm 1: rescaled to the RMS at every step; bfloat16 rounds "
    "single entries by 0.4 %",
)
BLOCK_FLAT = Threshold(
    "block_flat",
    0.8,
    "1",
    "band share of every row block by itself",
    f"{_DEMO}: of blocks orthogonalized by themselves 0.84 to 1 (NorMuon's tall ones from 0.74); "
    "of blocks of a tall orthogonal matrix up to 0.72",
)
BAND_TOP = Threshold(
    "band_top",
    1.21,
    "1",
    "the largest singular value that Newton-Schulz leaves, over the shape factor",
    "Jordan's coefficients, five steps: [0.68, 1.21]",
)
SHARD_GAIN = Threshold(
    "shard_gain",
    0.5,
    "sqrt(shards) - 1",
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
    "how much the Frobenius norm of m <= n may exceed that of an orthogonal matrix, as a factor",
    "stacked orthogonal blocks of at most n rows have the Frobenius norm of an orthogonal matrix",
)
UNEVEN = Threshold(
    "uneven",
    0.3,
    "1",
    "neuron_norm_cv from which neurons are called uneven (median over captures)",
    f"NorMuon, arXiv 2510.05491, Fig. 1b; {_DEMO}: Muon 0.4 to 0.5 in tall matrices, 0.1 elsewhere",
)
ROW_ERROR = Threshold(
    "row_error",
    0.3,
    "1",
    "ns_row_error from which the iteration, and not the leverage, makes neurons uneven",
    "row norms that spread over the whole of Jordan's band [0.68, 1.21] are off by 0.28 at most",
)
DOMINANT = Threshold(
    "dominant",
    5.0,
    "median",
    "norm of a neuron's update from which it dominates its layer",
    f"{_DEMO}: no neuron stays above 2",
)
FEW = Threshold(
    "few",
    0.05,
    "neurons",
    "share of a layer's neurons, up to which they are few",
    "this project: of Muon's update of a byte-level head 9 % are 5 times the median",
)
ENERGY = Threshold(
    "energy",
    0.5,
    "1",
    "share of the update's squared norm that the few hold at least (median over captures)",
    "this project: more than all others together",
)
DORMANT = Threshold(
    "dormant",
    0.1,
    "mean",
    "norm of a neuron's update below which it is dormant",
    "as neuron_dormant_fraction, rows that never move left out, and no row counted for more than "
    f"`dominant` medians; {_DEMO}: no neuron stays below 0.15",
)
SOME = Threshold(
    "some",
    0.1,
    "neurons",
    "share of a layer's neurons from which dormant ones are more than a note",
    "this project: of ReLU units in classifiers under AdamW, SGD and Muon up to 7 % are dormant "
    "after 60 to 200 steps",
)
STAYS = Threshold(
    "stays",
    0.9,
    "captures",
    "share of the captures at which a neuron dominates or is dormant, to call it lasting",
    "this project: one in ten may differ, as the first after a restart does",
)
LASTING = Threshold(
    "lasting",
    5.0,
    "captures",
    "captures at least that a layer needs to be said to dominate, sleep, ascend, stand still or be "
    "held back",
    "this project: fewer are the run's start, where warm-up and zero initialization are",
)
LOST = Threshold(
    "lost",
    0.25,
    "1",
    "share of entries that the update did not move (median over captures)",
    "as in docs/metrics.md: above it a difference of weights is no update",
)
LOST_SEVERE = Threshold(
    "lost_severe",
    0.9,
    "1",
    "the same, from which the layer is all but frozen",
    "this project: nine entries in ten do not move",
)
LOST_DECAY = Threshold(
    "lost_decay",
    0.9,
    "1",
    "share of entries that the weight decay did not move (median over captures)",
    "bfloat16 has 8 bits: a factor of 1 - 2e-4 moves nothing",
)
FAR_BELOW = Threshold(
    "far_below",
    0.01,
    "1",
    "lr over the layer's largest, or norm of the update over its 90th percentile, below which a "
    "capture is left out of what rounding holds back",
    "schedules decay to a tenth or to nothing: of what is nothing on purpose nothing is lost",
)
DECAY_SEEN = Threshold(
    "decay_seen",
    1e-5,
    "1",
    "lr times weight_decay from which a decay that is missing can be told from rounding",
    "float32 resolves 6e-8 of a weight; one step's decay has to stand out of it",
)
DECAY_MISSING = Threshold(
    "decay_missing",
    0.8,
    "captures",
    "share of a layer's captures at which none was applied",
    "this project: schedules of the decay may begin or end at zero",
)
DECAY_TWICE = Threshold(
    "decay_twice",
    0.05,
    "lr * weight_decay",
    "how far the decay that was applied may lie from twice lr * weight_decay, to be called twice "
    "(median over captures)",
    "(1 - x)^2 = 1 - 2 x + x^2: of x = 0.01, off by 0.01",
)
SLOWEST = Threshold(
    "slowest",
    0.99,
    "1",
    "momentum that is taken for granted: what of the last update is left after d steps is its "
    "power d; a slower one that the settings name counts instead",
    "optimizers in use have 0.9 to 0.99",
)
REPEATS = Threshold(
    "repeats",
    0.003,
    "1 - momentum^d",
    "how far below 1 the cosine to the capture d steps before may lie",
    "a momentum of 0.99 fed with unrelated gradients turns by 1 - 0.99^d; SGD with such a momentum "
    "in a short run by 0.008 of that, and a third of it is left",
)
SAME_SIZE = Threshold(
    "same_size",
    0.01,
    "1",
    "how far the norms of an update and of the one before may differ to be a repetition",
    "this project: stale gradients give the same norm; after a spike, or towards the end of "
    "full-batch descent, momentum keeps the direction while the norm falls by 1 - momentum a step",
)
REPEATED_SHARE = Threshold(
    "repeated_share",
    0.5,
    "captures",
    "share of a layer's captures that repeat, from which it is said",
    "this project: after a gradient 1000 times too large, 28 % of 140 steps repeat",
)
ASCENDS = Threshold(
    "ascends",
    -0.1,
    "1",
    "cosine of update and gradient (median over captures)",
    "runs of classifiers, GPTs, recurrent nets and embeddings under 12 optimizers: healthy medians "
    "from 0.03, with the sign flipped -0.24 to -0.65",
)
REVERSES = Threshold(
    "reverses",
    -0.5,
    "1",
    "cosine to the previous capture",
    f"{_DEMO}: not below -0.21",
)
IN_A_ROW = Threshold(
    "in_a_row",
    4.0,
    "captures",
    "captures, one after the other, that have to show it",
    "this project",
)
AXIS_EVEN = Threshold(
    "axis_even",
    0.01,
    "1",
    "CV of the norms along an axis, in the first step, up to which it was normalized",
    "a second moment that starts at zero makes all norms alike in the first step, to the rounding "
    "of bfloat16",
)
AXIS_CLEAR = Threshold(
    "axis_clear",
    0.02,
    "1",
    "CV along the other axis, in the first step, above which the two can be told apart",
    "this project: twice axis_even",
)
FIRST = Threshold(
    "first",
    1.0,
    "step",
    "the last step, counted from 0, that is a first one",
    "the second moment starts at zero; a zero gradient may put that off by one",
)
AXIS_UNEVEN = Threshold(
    "axis_uneven",
    0.03,
    "1",
    "CV along the declared axis from which it is compared with the other, the longer",
    "this project: below it an axis is even whatever the other is",
)
AXIS_RATIO = Threshold(
    "axis_ratio",
    2.0,
    "1",
    "CV along the longer axis over that along the declared one, below which the longer was "
    "normalized",
    "short runs of a GPT of width 32 and of classifiers: 1.3 to 2 in most captures where it was, "
    "3.3 to 12 where the declared one was",
)
AXIS_ASPECT = Threshold(
    "axis_aspect",
    3.0,
    "1",
    "length of the longer axis over the declared one's, from which this is looked at",
    "the same runs: of squarer matrices the longer axis is even by orthogonalization too",
)
AXIS_MOST = Threshold(
    "axis_most",
    0.5,
    "captures",
    "share of the later captures that has to show it",
    "this project: more than half",
)
AXIS_SIGNS = Threshold(
    "axis_signs",
    1e-3,
    "1",
    "CV of the entries of a matrix of one row or column, up to which they are signs alone",
    "entries divided by their own root mean square are 1 or -1",
)
ENOUGH = Threshold(
    "enough",
    4.0,
    "rows and columns",
    "sides at least that a matrix needs to be judged by its spectrum or its neurons",
    "this project: of fewer values no share can be told",
)
DIFFERENCE_FLOOR = Threshold(
    "difference_floor",
    0.05,
    "s_1",
    "noise floor of a reading by difference, up to which its spectrum is judged",
    "this project: half of the tail",
)

THRESHOLDS: tuple[Threshold, ...] = tuple(
    one for one in list(globals().values()) if isinstance(one, Threshold)
)
"""All of them, in the order of this page."""
