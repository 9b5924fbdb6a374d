"""Each shard was orthogonalized by itself instead of the matrix: only the whole shows it.

k orthogonal blocks, stacked, have the row norms and the Frobenius norm of an orthogonal matrix. But
directions that they share add up to sqrt(k), and what they lack in common is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.flatness import (
    Spectra,
    band_share,
    has_edge,
    promised,
    spectra_of,
)
from optgeom.geometry.diagnosis.hits import Hit, finding, named, nearest, plural
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import Floats, NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import (
    BAND_TOP,
    BLOCK_FLAT,
    ENOUGH,
    PARTLY_FLAT,
    SHARD_FROBENIUS,
    SHARD_GAIN,
)
from optgeom.traces.errors import NotCaptured

LOOKED_AT = 4
"""Layers at most whose raw matrices are looked at: the cheapest."""

SIDE = 2048
"""Shorter side at most of such a matrix."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """How one layer shows that its shards were orthogonalized one by one."""

    hit: Hit
    shards: int
    by_blocks: bool


def cut_layers(seen: Seen) -> set[int]:
    """Places of the layers whose shards were orthogonalized by themselves, and of their groups."""
    layers = seen.layers
    found = [layers[one.hit.layer] for one in _cuts(seen)]
    groups = {(layer.optimizer, layer.group) for layer in found}
    return {at for at in _sharded(seen) if (layers[at].optimizer, layers[at].group) in groups}


def _cuts(seen: Seen) -> list[_Cut]:
    made: list[_Cut] = seen.once("cut", lambda: _find(seen))
    return made


def _sharded(seen: Seen) -> list[int]:
    if seen.info.world_size < 2:
        return []
    return [at for at in promised(seen) if "Shard(" in seen.layers[at].placement]


def _find(seen: Seen) -> list[_Cut]:
    spectra = spectra_of(seen)
    by_layer = {} if isinstance(spectra, NotJudged) else {one.layer: one for one in spectra}
    looked_at = _raw(seen)
    found = []
    for at in _sharded(seen):
        one = _by_blocks(seen, at) if at in looked_at else None
        if one is None and at in by_layer:
            one = _by_spectrum(seen, by_layer[at])
        if one is not None:
            found.append(one)
    return found


def _raw(seen: Seen) -> list[int]:
    """Sharded layers whose raw matrices are looked at: the cheapest few, and none too large."""
    found = []
    for at in _sharded(seen):
        layer = seen.layers[at]
        fits = layer.split is None and ENOUGH.value <= min(layer.shape) <= SIDE
        if fits and seen.captured(layer.name, "update", "updates").size:
            found.append((math.prod(layer.shape) * min(layer.shape), at))
    return [at for _, at in sorted(found)[:LOOKED_AT]]


def _by_blocks(seen: Seen, at: int) -> _Cut | None:
    """Look at the row blocks themselves, where a raw matrix is there: that is decisive."""
    layer = seen.layers[at]
    step = int(seen.captured(layer.name, "update", "updates")[-1])
    world = seen.info.world_size

    def measured() -> tuple[_Blocks, ...]:
        matrix = seen.trace.matrix(step, layer.name).astype(np.float64)
        stored = matrix.T if layer.transposed else matrix
        return tuple(_measure(stored, shards) for shards in _numbers(world, len(stored)))

    # a page asks again at every refresh
    attempts = seen.trace.attempts(layer.name, "update")
    key = ("row blocks", seen.trace.uri, layer.name, step, attempts[step], world)
    try:
        blocks = seen.trace.cache.made(key, measured, lambda found: 64 * (1 + len(found)))
    except NotCaptured:  # a rank of a live run has not written its rows yet
        return None
    for one in blocks:
        is_apart = one.gain >= SHARD_GAIN.value or one.share < PARTLY_FLAT.value
        if one.block_share >= BLOCK_FLAT.value and is_apart:
            root = math.sqrt(one.shards)
            evidence = Evidence(
                layer.name,
                step,
                "update",
                f"s_1 over that of its {one.shards} row blocks, each of them flat",
                1.0 + one.gain * (root - 1.0),
                f"about 1; {root:.3g} for stacked blocks",
            )
            return _Cut(Hit(at, [step], (evidence,), one.gain), one.shards, True)
    return None


def _numbers(world: int, rows: int) -> list[int]:
    """How many shards there may be: all ranks, or a part of them that divides them evenly."""
    return [k for k in range(world, 1, -1) if world % k == 0 and rows >= 2 * k]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """A matrix and its row blocks.

    Attributes:
        shards: How many blocks.
        gain: How far s_1 of the whole is from a block's to sqrt(shards) times it.
        block_share: `band_share` of the least flat block.
        share: The same of the whole; 1 where that ends in an edge.
    """

    shards: int
    gain: float
    block_share: float
    share: float


def _measure(matrix: Floats, shards: int) -> _Blocks:
    size = -(-len(matrix) // shards)  # as torch.chunk cuts
    starts = range(0, len(matrix), size)
    values = [_singular_values(matrix[start : start + size]) for start in starts]
    whole = _singular_values(matrix)
    if len(values) < 2 or not min(float(s[0]) for s in values) > 0.0:
        return _Blocks(shards, 0.0, 0.0, 1.0)
    top = max(float(s[0]) for s in values)
    gain = (float(whole[0]) / top - 1.0) / (math.sqrt(len(values)) - 1.0)
    share = 1.0 if has_edge([whole]) else band_share(whole)
    return _Blocks(shards, gain, min(band_share(s) for s in values), share)


def _singular_values(matrix: Floats) -> Floats:
    """(r,) descending, from the Gram matrix of the short side: small ones do not matter here."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    found: Floats = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))
    return found


def _by_spectrum(seen: Seen, one: Spectra) -> _Cut | None:
    """Without raw matrices: s_1 above what any iteration leaves, at an orthogonal matrix's norm."""
    factor = one.declared.factor
    rows, cols = one.declared.seen
    if factor is None or one.declared.is_piece or rows > cols:
        return None
    shards = max(_numbers(seen.info.world_size, rows), default=0)
    if not shards:
        return None
    frobenius = one.frobenius / (factor * math.sqrt(rows))
    # as of two shards: what more of them add saturates where they have little in common
    least = BAND_TOP.value * (1.0 + SHARD_GAIN.value * (math.sqrt(2.0) - 1.0))
    if not (1 / SHARD_FROBENIUS.value**2 <= frobenius <= SHARD_FROBENIUS.value):
        return None
    tops = (one.tops / factor).tolist()
    if one.top / factor < least:
        return None
    steps = [step for step, top in zip(one.steps.tolist(), tops, strict=True) if top >= least]
    step, top = nearest(one.steps.tolist(), tops)
    evidence = Evidence(
        seen.layers[one.layer].name,
        step,
        "update",
        "s_1 over the shape factor",
        top,
        f"{BAND_TOP.value:g} at most; {BAND_TOP.value * math.sqrt(shards):.3g} for {shards} blocks",
    )
    gain = (one.top / factor / BAND_TOP.value - 1.0) / (math.sqrt(shards) - 1.0)
    return _Cut(Hit(one.layer, steps, (evidence,), gain), shards, False)


_CAUSE = (
    "The optimizer orthogonalizes each rank's local shard. Row norms stay healthy; "
    "only the assembled matrix shows it."
)
_ADVICE = (
    "Gather the momentum before it is orthogonalized and scatter the result "
    "(optgeom.optim.Muon and NorMuon do), or use an optimizer that knows DTensors."
)


def _per_shard(seen: Seen) -> Sequence[Finding] | NotJudged:
    known = promised(seen)
    if not known:
        return NotJudged("no layer is declared to be moved by Muon or NorMuon")
    sharded = _sharded(seen)
    if not sharded:
        return NotJudged("no such layer is sharded")
    found = _cuts(seen)
    if not found:
        spectra = spectra_of(seen)
        plain = [] if isinstance(spectra, NotJudged) else [s for s in spectra if s.declared.factor]
        if not _raw(seen) and not plain:
            return NotJudged(
                "there is no raw matrix that is small enough to look at (updates_every), and the "
                "settings do not say what singular values to expect"
            )
        return []
    hits = [one.hit for one in found]
    shards = max(one.shards for one in found)
    by_blocks = [one for one in found if one.by_blocks]
    shown = (
        "each of its row blocks is orthogonal by itself, and the matrix is not"
        if by_blocks
        else "its largest singular values are those of stacked blocks"
    )
    rest = f"{plural(len(hits), 'layer')} of {len(sharded)}"
    if by_blocks and len(_raw(seen)) < len(sharded):
        rest += f"; raw matrices of {len(_raw(seen))} were looked at"
    return [
        finding(
            seen,
            "orthogonalized_per_shard",
            "severe",
            f"The {shards} shards of {named(seen, hits)} were orthogonalized one by one instead "
            f"of the matrix: {shown} ({rest}).",
            hits,
            cause=_CAUSE,
            advice=_ADVICE,
        )
    ]


PER_SHARD = Rule(
    name="orthogonalized_per_shard",
    title="Each shard was orthogonalized by itself instead of the matrix",
    severity="Severe",
    looks_at="Raw matrices of `update` of sharded layers given to Muon or NorMuon, cut into as "
    f"many row blocks as there are shards: the latest of the {LOOKED_AT} cheapest layers whose "
    f"shorter side is at most {SIDE:,}. Of the others, spectra of Muon's updates of m <= n, where "
    "the settings name a scale.",
    means="Every block is flat by itself, and the largest singular value of the whole stands above "
    "a block's by more than half of what stacking can add, or the whole is not flat. From spectra "
    "alone: it stands above what any iteration leaves while the Frobenius norm is an orthogonal "
    "matrix's. NorMuon's division of the rows hides that, so that NorMuon needs raw matrices. What "
    "other rules say of orthogonality and scale is left out for such layers and their group.",
    cause=_CAUSE,
    advice=_ADVICE,
    judge=_per_shard,
)
