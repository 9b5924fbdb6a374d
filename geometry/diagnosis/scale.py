"""Muon's scale applied twice, not at all, or not as the settings say; NorMuon's last rescale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optgeom.geometry.comparison.result import number
from optgeom.geometry.diagnosis.declared import Declared, shape_factors
from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.flatness import Spectra, is_near, promised, spectra_of
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named, nearest, span
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.shards import cut_layers
from optgeom.geometry.diagnosis.thresholds import RMS_OFF, SCALE_OFF

_ADVICE = (
    "Apply the shape factor once, in the place where the orthogonalized matrix becomes the update. "
    "A learning rate that was tuned with the wrong scale has to be tuned again."
)


def _muon_scale(seen: Seen) -> Sequence[Finding] | NotJudged:
    muon, normuon = _muon(seen), _normuon(seen)
    if muon is None and normuon is None:
        return NotJudged(_why_not(seen))
    return [*(muon or ()), *(normuon or ())]


def _why_not(seen: Seen) -> str:
    known = promised(seen)
    if not known:
        return "no layer is declared to be moved by Muon or NorMuon"
    if any(one.algorithm == "muon" for one in known.values()):
        spectra = spectra_of(seen)
        if isinstance(spectra, NotJudged):
            return spectra.why
        return "no update is flat enough to have one scale, or its group has no learning rate"
    return "the settings do not say what size the update should have"


def _muon(seen: Seen) -> list[Finding] | None:
    spectra = spectra_of(seen)
    if isinstance(spectra, NotJudged):
        return None
    cut, no_rate = cut_layers(seen), _without_rate(seen)
    judged = [
        one
        for one in spectra
        if one.declared.algorithm == "muon"
        and not one.declared.is_piece
        and one.is_flat
        and one.layer not in cut | no_rate
    ]
    with_factor = [one for one in judged if one.declared.factor is not None]
    without = [one for one in judged if one.declared.factor is None]
    if not judged:
        return None
    return [*_against_settings(seen, with_factor), *_against_shapes(seen, without)]


def _without_rate(seen: Seen) -> set[int]:
    """Layers whose group has no learning rate: their update's unit is not known."""
    if not seen.has("update"):
        return set()
    absent = seen.says("status", "lr_absent") | seen.says("status", "lr_zero")
    return {int(at) for at in np.flatnonzero(absent.sum(0) * 2 > len(absent))}


@dataclass(frozen=True, slots=True)
class _Wrong:
    """One way to be wrong, as a sentence's end and a cause."""

    said: str
    cause: str


_TWICE = _Wrong("applied twice", "The shape factor is multiplied in two places.")
_NOT_AT_ALL = _Wrong("not applied", "The shape factor was left out, or is 1 by mistake.")
_OTHERWISE = _Wrong(
    "not what the settings say",
    "Another factor was multiplied in, or the update does not come out of the orthogonalization "
    "that the optimizer is called after.",
)


def _against_settings(seen: Seen, judged: Sequence[Spectra]) -> list[Finding]:
    hits: dict[_Wrong, list[Hit]] = {}
    ratios: dict[_Wrong, list[float]] = {}
    for one in judged:
        factor = one.declared.factor
        if factor is None or is_near(one.level, factor):
            continue
        wrong = _OTHERWISE
        if not is_near(factor, 1.0):  # a factor of 1 is the same twice
            wrong = _TWICE if is_near(one.level, factor**2) else wrong
            wrong = _NOT_AT_ALL if is_near(one.level, 1.0) else wrong
        expected = f"{number(factor)}, times 0.7 to 1.2"
        hits.setdefault(wrong, []).append(_hit(seen, one, factor, expected))
        ratios.setdefault(wrong, []).append(one.level / factor)
    return [
        finding(
            seen,
            "muon_scale",
            "severe" if wrong is not _OTHERWISE else "warning",
            f"Muon's scale was {wrong.said} in {named(seen, some)}: the update's singular values "
            f"are {span(ratios[wrong])} times what its settings make of the shape.",
            some,
            cause=wrong.cause,
            advice=_ADVICE,
        )
        for wrong, some in hits.items()
    ]


def _hit(seen: Seen, one: Spectra, factor: float, expected: str) -> Hit:
    step, level = nearest(one.steps.tolist(), one.levels.tolist())
    layer = seen.layers[one.layer].name
    evidence = Evidence(layer, step, "update", "middle of the singular values", level, expected)
    return Hit(one.layer, one.steps.tolist(), (evidence,), abs(one.level / factor - 1.0))


def _against_shapes(seen: Seen, judged: Sequence[Spectra]) -> list[Finding]:
    """Without a setting: does a known factor fit all shapes, or only the square of one?"""
    if len({one.declared.seen for one in judged}) < 2:
        return []  # of one shape anything may be meant

    def fits(power: int) -> list[str]:
        return [name for name in shape_factors(1, 1) if _fits(judged, name, power)]

    squares = [name for name in fits(2) if name != "none"]
    if fits(1) or not squares:
        return []
    factors = [shape_factors(*one.declared.seen)[squares[0]] for one in judged]
    hits = [
        _hit(seen, one, factor, f"{number(factor)}, times 0.7 to 1.2")
        for one, factor in zip(judged, factors, strict=True)
        if not is_near(one.level, factor)
    ]
    return [
        finding(
            seen,
            "muon_scale",
            "warning",
            f"Muon's scale looks as if it was applied twice in {named(seen, hits)}: no factor in "
            f"use fits the shapes, and the square of '{squares[0]}' does.",
            hits,
            cause=_TWICE.cause,
            advice=_ADVICE,
        )
    ]


def _fits(judged: Sequence[Spectra], name: str, power: int) -> bool:
    return all(
        is_near(one.level, shape_factors(*one.declared.seen)[name] ** power) for one in judged
    )


# -- NorMuon ---------------------------------------------------------------------------------------


def _normuon(seen: Seen) -> list[Finding] | None:
    known = {at: one for at, one in promised(seen).items() if one.algorithm == "normuon"}
    if not known or not seen.has("update"):
        return None
    no_rate = _without_rate(seen)
    checks: tuple[tuple[str, Callable[[Declared], float | None], float, bool], ...] = (
        ("update_rms", lambda one: one.rms, RMS_OFF.value, True),
        ("frobenius_norm", lambda one: one.frobenius, SCALE_OFF.value, False),
    )
    hits: list[Hit] = []
    ratios: list[float] = []
    judged = False
    for metric, wanted_of, limit, both_sides in checks:
        for at, wanted in _wanted(known, wanted_of).items():
            steps, values = seen.numbers(metric).of(at)
            kept = values > 0.0
            steps, values = steps[kept], values[kept]
            if at in no_rate or not len(values):
                continue
            judged = True
            ratio = middle((values / wanted).tolist())
            if ratio <= limit and (ratio >= 1 / limit or not both_sides):
                continue
            step, value = nearest(steps.tolist(), values.tolist())
            expected = number(wanted) if both_sides else f"at most {number(wanted)}"
            evidence = Evidence(seen.layers[at].name, step, "update", metric, value, expected)
            hits.append(Hit(at, steps.tolist(), (evidence,), abs(ratio - 1.0)))
            ratios.append(ratio)
    if not hits:
        return [] if judged else None
    return [
        finding(
            seen,
            "muon_scale",
            "severe",
            f"NorMuon's update in {named(seen, hits)} is {span(ratios)} times the size that its "
            "settings give it.",
            hits,
            cause="The rescaling after the division of the neurons was left out or applied twice, "
            "or takes the norm of a part of the matrix for that of the whole.",
            advice="Rescale once, last, by the norm of the whole matrix; under sharding that is "
            "one all-reduce over the shards.",
        )
    ]


def _wanted(
    known: Mapping[int, Declared], wanted_of: Callable[[Declared], float | None]
) -> dict[int, float]:
    found = {at: wanted_of(one) for at, one in known.items()}
    return {at: wanted for at, wanted in found.items() if wanted is not None}


MUON_SCALE = Rule(
    name="muon_scale",
    title="Muon's scale applied twice or not at all",
    severity="Severe; a warning where the factor is another one, or is guessed from shapes",
    looks_at="Spectra of `update` of layers given to Muon, and `update_rms` or `frobenius_norm` of "
    "those given to NorMuon, against what the settings make of the shape: `scale` (optgeom), "
    "`adjust_lr_fn` (torch.optim.Muon), `use_adjusted_lr`, `update_scale` (pytorch_optimizer), "
    "`rescale` and `shape_factor`.",
    means="The middle of the band is not the shape factor but its square, or 1, or something else. "
    "Where the settings name no scale, the factors in use are tried on layers of several shapes; "
    "of one shape nothing can be told. NorMuon in the paper's form has exactly the RMS of its "
    "settings. Pieces of a fused matrix and convolutions are left out: the optimizer sees another "
    "shape.",
    cause=f"{_TWICE.cause} {_NOT_AT_ALL.cause} {_OTHERWISE.cause}",
    advice=_ADVICE,
    judge=_muon_scale,
)
