"""Neurons that dominate their layer's update, or hardly move, and stay so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optgeom.geometry.diagnosis.finding import Evidence, Finding, Severity
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named, nearest, plural
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import Codes, Flags, Floats, NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import (
    DOMINANT,
    DORMANT,
    ENERGY,
    ENOUGH,
    FEW,
    LASTING,
    SOME,
    STAYS,
)

_Norms = tuple[int, Codes, Floats]


def _norms(seen: Seen) -> list[_Norms] | NotJudged:
    """Row norms of the updates of all layers with captures enough, zero updates left out."""
    made: list[_Norms] | NotJudged = seen.once("neuron norms", lambda: _read(seen))
    return made


def _read(seen: Seen) -> list[_Norms] | NotJudged:
    if not seen.has("update"):
        return NotJudged("the stage update was not captured")
    found, most, even = [], 0, False
    for at, layer in enumerate(seen.layers):
        if layer.shape[0] < ENOUGH.value:
            continue
        if (captures := _seemingly_even(seen, at)) is not None:
            most = max(most, captures)
            even = even or captures >= LASTING.value
            continue
        steps, norms = seen.neurons(layer.name)
        kept = np.isfinite(norms).all(1) & (norms.sum(1) > 0.0)
        most = max(most, int(kept.sum()))
        if kept.sum() >= LASTING.value:
            found.append((at, steps[kept], norms[kept]))
    if found or even:
        return found
    return NotJudged(
        f"neuron norms of {plural(most, 'capture')}: {LASTING.value:.0f} are needed to say that "
        "a neuron stays so"
    )


def _seemingly_even(seen: Seen, at: int) -> int | None:
    """How many captures' columns show that no neuron dominates or is dormant; else None."""
    steps, dormant = seen.numbers("neuron_dormant_fraction").of(at)
    _, top = seen.numbers("neuron_top1pct_share").of(at)
    if not len(steps) or not len(top):
        return None
    # of neurons that hold so much and are so few, the top percent hold their part at least
    least = ENERGY.value * 0.01 / FEW.value
    calm = float((dormant == 0.0).mean()) > 1.0 - STAYS.value
    return len(steps) if calm and middle(top.tolist()) < least else None


def _lasting(is_so: Flags) -> NDArray[np.intp]:
    """Neurons that are so at nearly all captures, (k, m) to places."""
    return np.flatnonzero(is_so.mean(0) >= STAYS.value)


_DOMINANT_CAUSE = (
    "Their gradients are far larger than their neighbours' (outlier activations, a "
    "loss that weighs them, an initialization of another scale), and the optimizer passes "
    "that on."
)
_DOMINANT_ADVICE = (
    "Look at these rows' gradients and inputs. NorMuon and AdamW even out what "
    "Muon and SGD pass on; a normalization before the layer removes the cause."
)


def _dominant(seen: Seen) -> Sequence[Finding] | NotJudged:
    found = _norms(seen)
    if isinstance(found, NotJudged):
        return found
    hits = []
    for at, steps, norms in found:
        usual = np.median(norms, axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(usual > 0.0, norms / usual, 0.0)
        is_so = ratios >= DOMINANT.value
        neurons = _lasting(is_so)
        if 0 < len(neurons) <= FEW.value * norms.shape[1] and _hold_most(norms, neurons):
            expected = f"below {DOMINANT.value:g} times the median"
            hits.append(_hit(seen, at, steps, ratios, neurons, is_so, "median", expected))
    rows = [one for one in hits if _of_tokens(seen, one)]
    others = [one for one in hits if one not in rows]
    return [*_dominating(seen, others, "warning"), *_dominating(seen, rows, "note")]


def _of_tokens(seen: Seen, hit: Hit) -> bool:
    """Whether a layer's rows are tokens or classes, of which some are always more frequent."""
    return seen.layers[hit.layer].kind in ("head", "embedding")


def _dominating(seen: Seen, hits: Sequence[Hit], severity: Severity) -> list[Finding]:
    if not hits:
        return []
    count = sum(round(one.badness * seen.layers[one.layer].shape[0]) for one in hits)
    return [
        finding(
            seen,
            "dominant_neurons",
            severity,
            f"{plural(count, 'neuron')} of {named(seen, hits)} dominate{'s' * (count == 1)} the "
            f"update: {'its norm is' if count == 1 else 'their norms are'} more than "
            f"{DOMINANT.value:g} times the median's at {_share()} of the captures.",
            hits,
            cause=_DOMINANT_CAUSE
            if severity == "warning"
            else "Their tokens or classes are more frequent than the others.",
            advice=_DOMINANT_ADVICE if severity == "warning" else "Nothing, if that is so.",
        )
    ]


def _hold_most(norms: Floats, neurons: NDArray[np.intp]) -> bool:
    """Whether some neurons hold most of the update's energy, at most captures."""
    energy = norms**2
    share = energy[:, neurons].sum(1) / energy.sum(1)
    return middle(share.tolist()) >= ENERGY.value


_DORMANT_CAUSE = (
    "Hardly any gradient reaches them (dead activations, masks, a saturated gate), "
    "or the optimizer passes on how uneven the gradients are: Muon gives a row of a tall "
    "matrix the square root of its leverage."
)
_DORMANT_ADVICE = (
    "Look at their gradients and activations. If these are alive, NorMuon or "
    "AdamW move such rows as far as the others."
)


def _dormant(seen: Seen) -> Sequence[Finding] | NotJudged:
    found = _norms(seen)
    if isinstance(found, NotJudged):
        return found
    asleep: list[Hit] = []
    unused: list[Hit] = []
    never = 0
    for at, steps, norms in found:
        still = (norms == 0.0).all(0)
        # neither what never moves nor what dominates says how the others are moved
        moving = norms[:, ~still]
        usual = np.median(moving, axis=1, keepdims=True)
        others = np.where(usual > 0.0, np.minimum(moving, DOMINANT.value * usual), moving)
        ratios = norms / others.mean(1, keepdims=True)
        is_so = (ratios < DORMANT.value) & ~still
        neurons = _lasting(is_so)
        never += int(still.sum())
        if len(neurons):
            expected = f"{DORMANT.value:g} of the mean or more"
            asleep.append(_hit(seen, at, steps, ratios, neurons, is_so, "mean", expected))
        if still.any():
            share = float(still.mean())
            layer, step = seen.layers[at].name, int(steps[-1])
            what = "share of rows that never move"
            evidence = Evidence(layer, step, "update", what, share, "0 where every row is used")
            unused.append(Hit(at, steps.tolist(), (evidence,), share))
    many = [one for one in asleep if one.badness >= SOME.value and not _of_tokens(seen, one)]
    few = [one for one in asleep if one not in many]
    return [
        *_asleep(seen, many, "warning"),
        *_asleep(seen, few, "note"),
        *_unused(seen, unused, never),
    ]


def _asleep(seen: Seen, hits: Sequence[Hit], severity: Severity) -> list[Finding]:
    if not hits:
        return []
    count = sum(round(one.badness * seen.layers[one.layer].shape[0]) for one in hits)
    return [
        finding(
            seen,
            "dormant_neurons",
            severity,
            f"{plural(count, 'neuron')} of {named(seen, hits)} {'is' if count == 1 else 'are'} "
            f"dormant: less than {DORMANT.value:g} of the mean update at {_share()} of the "
            "captures.",
            hits,
            cause=_DORMANT_CAUSE,
            advice=_DORMANT_ADVICE,
        )
    ]


def _unused(seen: Seen, hits: Sequence[Hit], count: int) -> list[Finding]:
    if not hits:
        return []
    return [
        finding(
            seen,
            "dormant_neurons",
            "note",
            f"{plural(count, 'row')} of {named(seen, hits)} never "
            f"{'moves' if count == 1 else 'move'}: the update is exactly zero there at every "
            "capture.",
            hits,
            cause="No gradient reaches them: tokens that do not occur, padding, experts that are "
            "not chosen, units that are masked or dead.",
            advice="Nothing, if these rows are not meant to be used.",
        )
    ]


def _share() -> str:
    return f"{100 * STAYS.value:.0f} % or more"


def _hit(
    seen: Seen,
    at: int,
    steps: Codes,
    ratios: Floats,
    neurons: NDArray[np.intp],
    is_so: Flags,
    against: str,
    expected: str,
) -> Hit:
    """What a layer's lasting neurons show: one of them at a capture where it is so."""
    shown = is_so[:, neurons]
    neuron = int(neurons[int(shown.sum(0).argmax())])
    so = is_so[:, neuron]
    step, value = nearest(steps[so].tolist(), ratios[so, neuron].tolist())
    what = f"norm of neuron {neuron} over the {against}"
    evidence = Evidence(seen.layers[at].name, step, "update", what, value, expected)
    share = float(len(neurons)) / len(ratios[0])
    return Hit(at, steps[shown.any(1)].tolist(), (evidence,), share)


DOMINANT_NEURONS = Rule(
    name="dominant_neurons",
    title="Neurons that dominate and stay so",
    severity="Warning; a note for heads and embeddings",
    looks_at="Neuron norms of `update` over the captures, of every layer.",
    means="The same few neurons are moved several times as far as the median one at nearly every "
    "capture, and hold most of the update's energy. Neurons that do so for some captures, or a "
    "tenth of all, as the rows of frequent tokens in a head, are none.",
    cause=_DOMINANT_CAUSE,
    advice=_DOMINANT_ADVICE,
    judge=_dominant,
)
DORMANT_NEURONS = Rule(
    name="dormant_neurons",
    title="Neurons that are dormant and stay so",
    severity="Warning; a note where they are few, for heads and embeddings, or rows never move",
    looks_at="Neuron norms of `update` over the captures, of every layer.",
    means="The same neurons are hardly moved at nearly every capture. Rows whose update is exactly "
    "zero at every capture, as of tokens that do not occur, are a note of their own.",
    cause=_DORMANT_CAUSE,
    advice=_DORMANT_ADVICE,
    judge=_dormant,
)
