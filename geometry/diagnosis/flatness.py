"""How flat a spectrum is, whatever its scale and its rank: the mark of an orthogonalized matrix.

The condition number cannot tell: gradients of few tokens lack rank, and no iteration lifts what is
not there. Of the singular values that are there at all, an orthogonalized matrix has nearly all
near the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optgeom.geometry.diagnosis.declared import Declared, declared
from optgeom.geometry.diagnosis.hits import middle
from optgeom.geometry.diagnosis.seen import Codes, Floats, NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import (
    BAND,
    DIFFERENCE_FLOOR,
    EDGE,
    EDGE_BAND,
    EDGE_COUNT,
    ENOUGH,
    LARGEST_TAIL,
    PARTLY_FLAT,
    REACH,
    SCALE_OFF,
    TAIL,
    TAIL_SLOPE,
)


def band_share(s: Floats, tail: float = TAIL.value, reach: int | None = None) -> float:
    """Share of the singular values that count which are above `BAND`.

    Args:
        s: (r,) descending, s_1 > 0.
        tail: Those below it, of s_1, do not count.
        reach: Where it is known how many directions the iteration can lift: so many count.

    >>> band_share(np.array([1.0, 0.9, 0.2, 1e-3]))
    0.6666666666666666
    """
    if reach is not None:
        return float((s[:reach] >= BAND.value * s[0]).mean()) if reach else 1.0
    return float((s >= BAND.value * s[0]).sum() / (s >= tail * s[0]).sum())


def reach_of(s: Floats) -> int:
    """How many directions of a matrix the iteration can lift into its band.

    Args:
        s: (r,) descending, of what enters the iteration.

    >>> reach_of(np.array([1.0, 0.5, 1e-2, 1e-3]))
    3
    """
    return int((s >= REACH.value * float(np.sqrt((s**2).sum()))).sum())


def tail_of(known: Declared) -> float:
    """Below what of s_1 singular values may be rounding that the iteration has lifted."""
    steeper = 1.0 if known.slope is None else max(1.0, known.slope / TAIL_SLOPE.value)
    return min(TAIL.value * steeper, LARGEST_TAIL.value)


def is_near(one: float, other: float) -> bool:
    """Whether two sizes are the same up to what an iteration leaves open."""
    return 1 / SCALE_OFF.value <= one / other <= SCALE_OFF.value


def band_middle(s: Floats) -> float:
    """Median of the singular values above `BAND`: what an orthogonal matrix was multiplied with."""
    return float(np.median(s[s >= BAND.value * s[0]]))


def has_edge(values: Sequence[Floats]) -> bool:
    """Whether the band of a layer's spectra ends sharply, as an orthogonalized matrix's does.

    A gradient of few tokens, orthogonalized, is flat as far as its rank goes; below lie directions
    that rounding has made up and the iteration has lifted, which its band share counts.

    Args:
        values: (r,) descending, of each capture.
    """
    counts = [int((s >= BAND.value * s[0]).sum()) for s in values]
    inside = [int((s >= EDGE_BAND.value * s[0]).sum()) for s in values]
    edges = [one / count for one, count in zip(inside, counts, strict=True)]
    return middle(counts) >= EDGE_COUNT.value and middle(edges) >= EDGE.value


@dataclass(frozen=True, slots=True)
class Spectra:
    """The spectra of one layer that is declared to be orthogonalized, over its captures.

    Attributes:
        layer: Its place.
        declared: What its settings promise.
        steps: Of the captures.
        tops: (k,) the largest singular value of each.
        frobenius: The Frobenius norm, the median over captures.
        share: `band_share`, the median; at least so much, where columns alone tell enough.
        levels: (k,) `band_middle` of each; where columns alone tell enough, the mean of all
            singular values.
        is_flat: An iteration has converged, on as many directions as there were.
        shares: `band_share` of each capture; empty where columns alone tell enough.
        reach: How many directions the iteration could lift, the median; None where what enters it
            was not captured.
        at_most: The larger of `share` and the share of those above `TAIL`, by which an update is
            called bare.
    """

    layer: int
    declared: Declared
    steps: Codes
    tops: Floats
    frobenius: float
    share: float
    levels: Floats
    is_flat: bool
    shares: tuple[float, ...] = ()
    reach: float | None = None
    at_most: float = 1.0

    @property
    def top(self) -> float:
        """The largest singular value, the median over captures."""
        return middle(self.tops.tolist())

    @property
    def level(self) -> float:
        """The middle of the band, the median over captures."""
        return middle(self.levels.tolist())

    @classmethod
    def of(
        cls,
        layer: int,
        known: Declared,
        steps: Sequence[int],
        values: Sequence[Floats],
        reaches: Sequence[int] | None = None,
    ) -> Spectra:
        """From the singular values themselves, of at least one capture.

        Args:
            layer: Its place.
            known: What its settings promise.
            steps: Of the captures.
            values: (r,) descending, of each.
            reaches: How many directions of each the iteration could lift, where that is known.
        """
        tail = tail_of(known)
        limits: Sequence[int | None] = [None] * len(values) if reaches is None else reaches
        shares = tuple(band_share(s, tail, limit) for s, limit in zip(values, limits, strict=True))
        share = middle(shares)
        reach = None if reaches is None else middle(reaches)
        too_few = reach is not None and reach < ENOUGH.value
        return cls(
            layer,
            known,
            np.array(steps, np.int64),
            np.array([float(s[0]) for s in values]),
            middle([float(np.sqrt((s**2).sum())) for s in values]),
            share,
            np.array([band_middle(s) for s in values]),
            share >= PARTLY_FLAT.value or has_edge(values) or too_few,
            shares,
            reach,
            max(share, middle([band_share(s, tail) for s in values])),
        )


def promised(seen: Seen) -> dict[int, Declared]:
    """The layers, by place, whose settings promise an orthogonalized update."""
    made: dict[int, Declared] = seen.once("promised", lambda: _promised(seen))
    return made


def _promised(seen: Seen) -> dict[int, Declared]:
    known = {at: declared(layer, seen.info) for at, layer in enumerate(seen.layers)}
    return {at: one for at, one in known.items() if one.orthogonalizes}


def spectra_of(seen: Seen, stage: str = "update") -> list[Spectra] | NotJudged:
    """The spectra of all layers that are declared to be orthogonalized, or why there are none."""
    made: list[Spectra] | NotJudged = seen.once(
        ("promised spectra", stage), lambda: _spectra_of(seen, stage)
    )
    return made


def _spectra_of(seen: Seen, stage: str) -> list[Spectra] | NotJudged:
    known = promised(seen)
    if not known:
        return NotJudged("no layer is declared to be moved by Muon or NorMuon")
    wide = [at for at in known if min(seen.layers[at].shape) >= ENOUGH.value]
    if not wide:
        return NotJudged(f"no such layer has {ENOUGH.value:.0f} rows and columns")
    unclear = _unclear(seen, stage)
    found = []
    for at in (one for one in wide if one not in unclear):
        by_columns = _by_columns(seen, at, known[at], stage)
        if by_columns is not None:
            found.append(by_columns)
            continue
        steps, values = seen.spectra(seen.layers[at].name, stage)
        kept = [(step, s) for step, s in zip(steps.tolist(), values, strict=True) if s[0] > 0.0]
        if kept:
            found.append(_with_input(seen, at, known[at], kept))
    if found:
        return found
    if unclear:
        return NotJudged("the updates were read by difference from weights too coarse for it")
    return NotJudged(without_spectra(seen, stage))


def _with_input(
    seen: Seen, at: int, known: Declared, kept: Sequence[tuple[int, Floats]]
) -> Spectra:
    """The spectra, beside what entered the iteration where that was captured."""
    name = seen.layers[at].name
    for stage in ("ns_input", "momentum"):
        there, values = seen.spectra(name, stage)
        entered = dict(zip(there.tolist(), values, strict=True))
        both = [(step, s, reach_of(entered[step])) for step, s in kept if step in entered]
        if both:
            return Spectra.of(at, known, *zip(*both, strict=True))
    return Spectra.of(at, known, *zip(*kept, strict=True))


def _by_columns(seen: Seen, at: int, known: Declared, stage: str) -> Spectra | None:
    """A layer whose columns alone show that it is flat, which spares reading its spectra.

    Cantelli's inequality bounds the share of singular values that may lie below the band, from
    their mean and their variance.
    """
    rank = min(seen.layers[at].shape)
    named = ("spectral_norm", "nuclear_norm", "frobenius_norm")
    columns = [seen.numbers(name, stage) for name in named]
    top, nuclear, frobenius = (column.values[:, at] for column in columns)
    there = np.isfinite(top) & np.isfinite(nuclear) & np.isfinite(frobenius) & (top > 0.0)
    if not there.any():
        return None
    top, mean, square = top[there], nuclear[there] / rank, frobenius[there] ** 2 / rank
    above = np.maximum(mean - BAND.value * top, 0.0)
    least = above**2 / (above**2 + np.maximum(square - mean**2, 1e-12 * square))
    share = middle(least.tolist())
    if share < PARTLY_FLAT.value:
        return None
    steps, frobenius_norm = columns[0].steps[there], middle(frobenius[there].tolist())
    return Spectra(at, known, steps, top, frobenius_norm, share, mean, True)


def _unclear(seen: Seen, stage: str) -> set[int]:
    """Layers whose spectra are rounding in part: read by difference from coarse weights."""
    if stage != "update" or not seen.has(stage):
        return set()
    floor, top = seen.numbers("noise_floor"), seen.numbers("spectral_norm")
    by_difference = seen.says("source", "difference")
    with np.errstate(invalid="ignore"):
        coarse = by_difference & (floor.values > DIFFERENCE_FLOOR.value * top.values)
    return {int(at) for at in np.flatnonzero(coarse.sum(0) * 2 > by_difference.sum(0))}


def without_spectra(seen: Seen, stage: str) -> str:
    """Why there are no spectra."""
    if not seen.has(stage):
        return f"the stage {stage} was not captured"
    every = seen.info.capture.get("spectra_every")
    clock = f": spectra_every={every}" if every is not None else ""
    return f"no spectra of {stage} were captured at these steps{clock}"
