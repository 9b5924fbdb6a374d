"""The update is not orthogonal although the optimizer is named for it; or not quite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from optgeom.geometry.comparison.result import number
from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.flatness import Spectra, band_share, promised, spectra_of
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named, nearest, plural, span
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.shards import cut_layers
from optgeom.geometry.diagnosis.thresholds import (
    ENOUGH,
    NOT_FLAT,
    PARTLY_FLAT,
    SAME_DIRECTION,
    SCALE_OFF,
)

_SHARE = "share of singular values near the largest"


_BARE_ADVICE = (
    "Check that these parameters are in the group that is orthogonalized, and that "
    "the class that steps is the one you wrote (a wrapper or a sharding engine may have "
    "put another in its place). Then compare one step with an orthogonalization by hand."
)


def _not_orthogonal(seen: Seen) -> Sequence[Finding] | NotJudged:
    spectra, alike = spectra_of(seen), _like_the_gradient(seen)
    if isinstance(spectra, NotJudged) and not alike:
        return spectra
    bare = _bare(seen)
    hits = {one.layer: _flat_hit(seen, one, "update", PARTLY_FLAT.value) for one in bare}
    for place, one in alike.items():
        known = hits.get(place)
        evidence = one.evidence if known is None else (*known.evidence, *one.evidence)
        steps = one.steps if known is None else [*known.steps, *one.steps]
        hits[place] = Hit(place, steps, evidence, 1.0 if known is None else known.badness)
    if not hits:
        return []
    every = list(hits.values())
    called = promised(seen)[every[0].layer].called
    title = (
        f"The updates of {named(seen, every)} are not orthogonal, although the optimizer is "
        f"called {called}"
    )
    if bare:
        shares = [100.0 * one.share for one in bare]
        title += (
            f": {span(shares)} % of their singular values are near the largest, where "
            "orthogonalizing leaves more than 80 %"
        )
    return [
        finding(
            seen,
            "not_orthogonal",
            "severe",
            f"{title}.",
            every,
            cause=_cause(seen, set(hits), set(alike)),
            advice=_BARE_ADVICE,
        )
    ]


def _bare(seen: Seen) -> list[Spectra]:
    """Layers that nothing orthogonalized; with them what is doubtful in their group."""
    made: list[Spectra] = seen.once("bare", lambda: _find_bare(seen))
    return made


def _find_bare(seen: Seen) -> list[Spectra]:
    spectra = spectra_of(seen)
    if isinstance(spectra, NotJudged):
        return []
    cut = cut_layers(seen)
    below = [one for one in spectra if not one.is_flat and one.layer not in cut]
    # a factor that is only guessed proves nothing of a spectrum as steep as a gradient's
    sure = {
        _group(seen, one.layer)
        for one in below
        if one.share < NOT_FLAT.value and not (_has_size(one) and _is_lifted(one))
    }
    return [
        one
        for one in below
        if _group(seen, one.layer) in sure and not (_has_size(one) and _is_lifted(one))
    ]


def _has_size(one: Spectra) -> bool:
    """Whether the settings say what size the update should have."""
    return one.declared.factor is not None or one.declared.rms is not None


def _group(seen: Seen, place: int) -> tuple[str, int]:
    layer = seen.layers[place]
    return layer.optimizer, layer.group


def _is_lifted(one: Spectra) -> bool:
    """Whether the largest singular values are where an iteration puts them: it was too short."""
    factor, (rows, cols) = one.declared.factor, one.declared.seen
    if one.declared.algorithm == "normuon":
        rms = one.frobenius / math.sqrt(rows * cols)
        return one.declared.rms is not None and _is_near(rms, one.declared.rms)
    return factor is not None and _is_near(one.top, factor)


def _is_near(one: float, other: float) -> bool:
    return 1 / SCALE_OFF.value <= one / other <= SCALE_OFF.value


def _flat_hit(seen: Seen, one: Spectra, stage: str, limit: float) -> Hit:
    every = zip(one.steps.tolist(), map(band_share, one.values), strict=True)
    below = [(step, share) for step, share in every if share < limit]
    steps, shares = zip(*below, strict=True)
    step, share = nearest(steps, shares)
    expected = f"above {limit:g}, 0.8 to 1 where it is orthogonal"
    layer = seen.layers[one.layer].name
    return Hit(
        one.layer, steps, (Evidence(layer, step, stage, _SHARE, share, expected),), 1 - share
    )


def _like_the_gradient(seen: Seen) -> dict[int, Hit]:
    """Layers whose update points where the gradient does."""
    found = {}
    column = seen.numbers("cosine_gradient")
    for at in promised(seen):
        steps, cosines = column.of(at)
        if min(seen.layers[at].shape) < ENOUGH.value or not len(cosines):
            continue
        if middle(cosines.tolist()) >= SAME_DIRECTION.value:
            step, cosine = nearest(steps.tolist(), cosines.tolist())
            layer, expected = seen.layers[at].name, f"below {SAME_DIRECTION.value:g}"
            evidence = Evidence(layer, step, "update", "cosine_gradient", cosine, expected)
            kept = steps[cosines >= SAME_DIRECTION.value]
            found[at] = Hit(at, kept.tolist(), (evidence,), 1.0)
    return found


def _cause(seen: Seen, hits: set[int], alike: set[int]) -> str:
    if alike:
        return (
            "Plain gradient descent was run: the update points where the gradient does. The "
            "orthogonalization was skipped, or never called."
        )
    for stage in ("momentum", "gradient"):
        if all(_proportional(seen, at, stage) for at in hits):
            return (
                f"Plain gradient descent was run: the update has the spectrum of the {stage}, up "
                "to a factor. The orthogonalization was skipped, or never called."
            )
    return (
        "These parameters are moved by another rule than the one that the optimizer is called "
        "after: gradient descent, or the AdamW part."
    )


def _proportional(seen: Seen, at: int, stage: str) -> bool:
    """Whether an update has the singular values of another stage but for a factor."""
    name = seen.layers[at].name
    steps, updates = seen.spectra(name)
    there, values = seen.spectra(name, stage)
    others = dict(zip(there.tolist(), values, strict=True))
    pairs = [(s, others[t]) for t, s in zip(steps.tolist(), updates, strict=True) if t in others]
    if not pairs:
        return False
    return all(
        s[0] > 0.0 and o[0] > 0.0 and np.allclose(s / s[0], o / o[0], atol=1e-3) for s, o in pairs
    )


_SHORT_ADVICE = (
    "Take five steps of Newton-Schulz or more, or a polynomial that lifts small "
    "directions further (Polar Express), and divide by the Frobenius norm before the "
    "first. Capture ns_input and orthogonalized to see both ends of the iteration."
)


def _not_converged(seen: Seen) -> Sequence[Finding] | NotJudged:
    stage = "orthogonalized" if seen.has("orthogonalized") else "update"
    spectra = spectra_of(seen, stage)
    if isinstance(spectra, NotJudged):
        return spectra
    # the division of the neurons blurs what the iteration left
    spectra = [one for one in spectra if stage != "update" or one.declared.algorithm == "muon"]
    if not spectra:
        return NotJudged("NorMuon's update does not show it: add orthogonalized to stages")
    known = cut_layers(seen) | {one.layer for one in _bare(seen)} | set(_like_the_gradient(seen))
    partly = [one for one in spectra if _is_partly(one, stage) and one.layer not in known]
    if not partly:
        return []
    hits = [_flat_hit(seen, one, stage, PARTLY_FLAT.value) for one in partly]
    shares = [100.0 * one.share for one in partly]
    return [
        finding(
            seen,
            "not_converged",
            "warning",
            f"The orthogonalization of {named(seen, hits)} has not converged: {span(shares)} % of "
            "the singular values are near the largest, where five steps of Newton-Schulz leave "
            "more than 80 %.",
            hits,
            cause=_too_short(seen, partly),
            advice=_SHORT_ADVICE,
        )
    ]


def _is_partly(one: Spectra, stage: str) -> bool:
    # of a tall matrix that was orthogonalized whole, a piece need not be flat
    is_judged = stage == "orthogonalized" or not one.declared.is_piece
    return is_judged and not one.is_flat


def _too_short(seen: Seen, partly: Sequence[Spectra]) -> str:
    layer = seen.layers[partly[0].layer]
    optimizer = next((o for o in seen.info.optimizers if o.name == layer.optimizer), None)
    known = () if optimizer is None else optimizer.groups[layer.group : layer.group + 1]
    group: Mapping[str, object] = known[0] if known else {}
    steps = group.get("ns_steps")
    if isinstance(steps, int) and steps < 5:
        return f"The settings say ns_steps={steps}: too few for a momentum as ill-conditioned."
    conditions = [
        float(s[0] / s[len(s) // 2])
        for one in partly
        for s in seen.spectra(seen.layers[one.layer].name, "ns_input")[1]
        if s[len(s) // 2] > 0.0
    ]
    if conditions:
        return (
            "The iteration is too short for what enters it, whose median singular value is "
            f"{number(middle(conditions), 2)} times smaller than the largest; or a wrong "
            "coefficient or a missing normalization slows it down."
        )
    return (
        "Too few steps of the iteration, a wrong coefficient, or an input that was not divided by "
        f"its norm. {plural(len(partly), 'layer')} in all; capture ns_input to tell."
    )


NOT_ORTHOGONAL = Rule(
    name="not_orthogonal",
    title="The update is not orthogonal although the optimizer says Muon",
    severity="Severe",
    looks_at="Spectra of `update`, and `cosine_gradient`, of layers that the settings or the name "
    "of the optimizer's class give to Muon or NorMuon.",
    means="The share of singular values near the largest (band share) is that of a gradient; or "
    "the update points exactly where the gradient does, as when plain SGD was run. Small singular "
    "values that stand for rank the gradient does not have are not counted, and a band that ends "
    "sharply is flat enough, whatever lies below it. A random matrix of "
    "very unequal sides is nearly flat by itself: there the cosine and `muon_scale` have to tell.",
    cause="The orthogonalization was skipped, or never called: plain gradient descent was run. Or "
    "these parameters are moved by the AdamW part of the optimizer.",
    advice=_BARE_ADVICE,
    judge=_not_orthogonal,
)
NOT_CONVERGED = Rule(
    name="not_converged",
    title="Newton-Schulz has not converged",
    severity="Warning",
    looks_at="Spectra of `orthogonalized` where it was captured, else of `update`, of layers given "
    "to Muon or NorMuon. NorMuon and pieces of a fused matrix by `orthogonalized` alone.",
    means="The band share lies between that of a gradient and that of a converged iteration: the "
    "large directions were lifted, many others were not, and there is no edge between them, as "
    "there is where a gradient of few tokens lacks rank.",
    cause="Too few steps, a wrong coefficient, or an input that was not divided by its norm.",
    advice=_SHORT_ADVICE,
    judge=_not_converged,
)
