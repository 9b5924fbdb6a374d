"""The update is not orthogonal although the optimizer is named for it; or not quite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.flatness import Spectra, is_near, promised, spectra_of
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named, nearest, span
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.shards import cut_layers
from optgeom.geometry.diagnosis.thresholds import (
    ENOUGH,
    FULL_STEPS,
    NOT_FLAT,
    PARTLY_FLAT,
    PROPORTIONAL,
    SAME_DIRECTION,
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
    hits = {one.layer: _flat_hit(seen, one, "update") for one in bare}
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
            f": {span(shares)} % of their singular values are near the largest, as of a gradient"
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
    bare = [one for one in below if not _is_lifted(seen, one)]
    sure = {_group(seen, one.layer) for one in bare if one.at_most < NOT_FLAT.value}
    return [one for one in bare if _group(seen, one.layer) in sure]


def _group(seen: Seen, place: int) -> tuple[str, int]:
    layer = seen.layers[place]
    return layer.optimizer, layer.group


def _is_lifted(seen: Seen, one: Spectra) -> bool:
    """Whether an iteration was there all the same, on an input of low rank or with few steps."""
    left = spectra_of(seen, "orthogonalized")
    handed = [] if isinstance(left, NotJudged) else [s for s in left if s.layer == one.layer]
    if handed and one.declared.algorithm == "normuon":
        return handed[0].is_flat  # the division of the neurons comes after
    name = seen.layers[one.layer].name
    if any(_proportional(seen, name, stage) for stage in ("ns_input", "momentum")):
        return False  # what entered came out
    if handed and _proportional(seen, name, "orthogonalized"):
        return True  # the iteration's own outcome
    factor, (rows, cols) = one.declared.factor, one.declared.seen
    if one.declared.rms is not None:
        return is_near(one.frobenius / math.sqrt(rows * cols), one.declared.rms)
    if one.declared.frobenius is not None:
        factor = one.declared.frobenius / math.sqrt(min(rows, cols))
    # a factor that is only guessed proves nothing of a spectrum as steep as a gradient's
    return factor is not None and is_near(one.top, factor)


def _flat_hit(seen: Seen, one: Spectra, stage: str) -> Hit:
    every = zip(one.steps.tolist(), one.shares, strict=True)
    below = [(step, share) for step, share in every if share < PARTLY_FLAT.value]
    steps, shares = zip(*below, strict=True)
    step, share = nearest(steps, shares)
    what = _SHARE if one.reach is None else f"{_SHARE}, of the {one.reach:.0f} that can be lifted"
    evidence = Evidence(
        seen.layers[one.layer].name, step, stage, what, share, f"above {PARTLY_FLAT.value:g}"
    )
    return Hit(one.layer, steps, (evidence,), 1 - share)


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
        if all(_proportional(seen, seen.layers[at].name, stage) for at in hits):
            return (
                f"Plain gradient descent was run: the update has the spectrum of the {stage}, up "
                "to a factor. The orthogonalization was skipped, or never called."
            )
    return (
        "These parameters are moved by another rule than the one that the optimizer is called "
        "after: gradient descent, or the AdamW part."
    )


def _proportional(seen: Seen, name: str, stage: str) -> bool:
    """Whether an update has the singular values of another stage but for a factor."""
    steps, updates = seen.spectra(name)
    there, values = seen.spectra(name, stage)
    others = dict(zip(there.tolist(), values, strict=True))
    pairs = [(s, others[t]) for t, s in zip(steps.tolist(), updates, strict=True) if t in others]
    if not pairs:
        return False
    return all(
        s[0] > 0.0
        and o[0] > 0.0
        and bool((np.abs(s / s[0] - o / o[0]) <= PROPORTIONAL.value).all())
        for s, o in pairs
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
    sure = [one for one in partly if one.reach is not None or _has_few_steps(one)]
    # where the schedule is long enough, it is the input that lacks directions
    unknown = [one for one in partly if one.reach is None and one.declared.ns_steps is None]
    found = []
    if sure:
        shares = [100.0 * one.share for one in sure]
        hits = [_flat_hit(seen, one, stage) for one in sure]
        found.append(
            finding(
                seen,
                "not_converged",
                "warning",
                f"The orthogonalization of {named(seen, hits)} has not converged: {span(shares)} % "
                f"of the singular values{_which(sure)} are near the largest.",
                hits,
                cause=_too_short(sure),
                advice=_SHORT_ADVICE,
            )
        )
    if unknown:
        shares = [100.0 * one.share for one in unknown]
        hits = [_flat_hit(seen, one, stage) for one in unknown]
        found.append(
            finding(
                seen,
                "not_converged",
                "note",
                f"The orthogonalization of {named(seen, hits)} leaves {span(shares)} % of the "
                "singular values near the largest: its input is ill-conditioned, or it has too "
                "few steps.",
                hits,
                cause="A gradient of few tokens, or of few classes, lacks directions that five "
                "steps could lift. Or the iteration is too short, which the settings do not say.",
                advice="Capture ns_input or momentum to tell.",
            )
        )
    return found


def _has_few_steps(one: Spectra) -> bool:
    return one.declared.ns_steps is not None and one.declared.ns_steps < FULL_STEPS.value


def _which(some: Sequence[Spectra]) -> str:
    return " that five steps of Newton-Schulz lift" if all(one.reach for one in some) else ""


def _is_partly(one: Spectra, stage: str) -> bool:
    # of a tall matrix that was orthogonalized whole, a piece need not be flat
    is_judged = stage == "orthogonalized" or not one.declared.is_piece
    return is_judged and not one.is_flat


def _too_short(partly: Sequence[Spectra]) -> str:
    few = [one.declared.ns_steps for one in partly if _has_few_steps(one)]
    if few:
        return f"The settings say ns_steps={few[0]}: too few for an input as ill-conditioned."
    return (
        "Too few steps, a wrong coefficient, or an input that was not divided by its norm: what "
        "entered has directions that five steps of Newton-Schulz lift, and they were not lifted."
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
    "sharply is flat enough, whatever lies below it. Where `ns_input` or `momentum` was captured, "
    "only the directions that an iteration can lift are counted; where neither was, a size that is "
    "the one of the settings, or the same spectrum in `orthogonalized`, speaks for an iteration on "
    "an input of low rank, and nothing is said. A random matrix of "
    "very unequal sides is nearly flat by itself: there the cosine and `muon_scale` have to tell.",
    cause="The orthogonalization was skipped, or never called: plain gradient descent was run. Or "
    "these parameters are moved by the AdamW part of the optimizer.",
    advice=_BARE_ADVICE,
    judge=_not_orthogonal,
)
NOT_CONVERGED = Rule(
    name="not_converged",
    title="Newton-Schulz has not converged",
    severity="Warning; a note where neither the input nor the number of steps is known",
    looks_at="Spectra of `orthogonalized` where it was captured, else of `update`, of layers given "
    "to Muon or NorMuon. NorMuon and pieces of a fused matrix by `orthogonalized` alone.",
    means="The band share lies between that of a gradient and that of a converged iteration: the "
    "large directions were lifted, many others were not, and there is no edge between them. Where "
    "`ns_input` or `momentum` was captured too, only the directions that five steps of "
    "Newton-Schulz lift are counted. Else the settings decide: with `full_steps` or more it is the "
    "input that lacks directions, and nothing is said; with fewer it is a warning; where they "
    "do not say, a note.",
    cause="Too few steps, a wrong coefficient, or an input that was not divided by its norm.",
    advice=_SHORT_ADVICE,
    judge=_not_converged,
)
