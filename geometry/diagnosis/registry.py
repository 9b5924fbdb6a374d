"""All rules, in the order in which findings of one severity are told."""

from __future__ import annotations

from optgeom.geometry.diagnosis.ascent import ASCENT
from optgeom.geometry.diagnosis.axis import WRONG_AXIS
from optgeom.geometry.diagnosis.decay import DECAY, DECAY_TWICE_RULE
from optgeom.geometry.diagnosis.direction import REPEATED, REVERSED
from optgeom.geometry.diagnosis.finite import NOT_FINITE
from optgeom.geometry.diagnosis.gradients import GRADIENT_OVERWRITTEN
from optgeom.geometry.diagnosis.neurons import DOMINANT_NEURONS, DORMANT_NEURONS
from optgeom.geometry.diagnosis.orthogonality import NOT_CONVERGED, NOT_ORTHOGONAL
from optgeom.geometry.diagnosis.replicas import RANKS_DISAGREE
from optgeom.geometry.diagnosis.rounding import LOST_TO_ROUNDING
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.scale import MUON_SCALE
from optgeom.geometry.diagnosis.shards import PER_SHARD
from optgeom.geometry.diagnosis.still import NEVER_MOVES
from optgeom.geometry.diagnosis.unevenness import UNEVEN_NEURONS

RULES: tuple[Rule, ...] = (
    NOT_FINITE,
    ASCENT,
    NOT_ORTHOGONAL,
    PER_SHARD,
    RANKS_DISAGREE,
    MUON_SCALE,
    WRONG_AXIS,
    NOT_CONVERGED,
    NEVER_MOVES,
    LOST_TO_ROUNDING,
    DECAY,
    DECAY_TWICE_RULE,
    REPEATED,
    REVERSED,
    DOMINANT_NEURONS,
    DORMANT_NEURONS,
    UNEVEN_NEURONS,
    GRADIENT_OVERWRITTEN,
)
"""All rules."""
