"""Uneven neurons: is it the leverage of the momentum, or the error of Newton-Schulz?"""

from __future__ import annotations

from collections.abc import Sequence

from optgeom.geometry.comparison.result import number
from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.flatness import promised
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named, span
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import ENOUGH, ROW_ERROR, UNEVEN


def _uneven(seen: Seen) -> Sequence[Finding] | NotJudged:
    known = promised(seen)
    if not known:
        return NotJudged("no layer is declared to be moved by Muon or NorMuon")
    by_leverage, by_error = [], []
    judged = False
    for at in known:
        if min(seen.layers[at].shape) < ENOUGH.value:
            continue
        leverage, error = _leverage(seen, at), _median(seen, "ns_row_error", "orthogonalized", at)
        judged = judged or leverage is not None or error is not None
        if error is not None and error[1] >= ROW_ERROR.value:
            by_error.append(_hit(seen, at, "orthogonalized", leverage, error))
        elif leverage is not None and leverage[1] >= UNEVEN.value:
            # of NorMuon's update the division of the neurons has removed it
            found = _median(seen, "neuron_norm_cv", "update", at)
            if found is not None and found[1] >= UNEVEN.value:
                by_leverage.append(_hit(seen, at, "update", leverage, error))
    if not judged:
        return NotJudged(
            "neither ns_input nor orthogonalized was captured with spectra: add them to stages"
        )
    return [*_error(seen, by_error), *_of_leverage(seen, by_leverage)]


_Median = tuple[list[int], float]


def _median(seen: Seen, column: str, stage: str, at: int) -> _Median | None:
    steps, values = seen.numbers(column, stage).of(at)
    return (steps.tolist(), middle(values.tolist())) if len(values) else None


def _leverage(seen: Seen, at: int) -> _Median | None:
    found = _median(seen, "leverage_cv", "ns_input", at)
    return _median(seen, "leverage_cv", "orthogonalized", at) if found is None else found


def _hit(
    seen: Seen,
    at: int,
    stage: str,
    leverage: _Median | None,
    error: _Median | None,
) -> Hit:
    layer = seen.layers[at].name
    found = _median(seen, "neuron_norm_cv", stage, at)
    assert found is not None  # where it has a spectrum it has norms
    step = found[0][-1]
    evidence = [Evidence(layer, step, stage, "neuron_norm_cv", found[1], f"below {UNEVEN.value:g}")]
    if leverage is not None:
        where = "ns_input" if seen.has("ns_input") else "orthogonalized"
        expected = "0 for a wide matrix of full rank"
        evidence.append(
            Evidence(layer, leverage[0][-1], where, "leverage_cv", leverage[1], expected)
        )
    if error is not None:
        expected = f"below {ROW_ERROR.value:g}"
        evidence.append(
            Evidence(layer, error[0][-1], "orthogonalized", "ns_row_error", error[1], expected)
        )
    return Hit(at, found[0], tuple(evidence), found[1])


_ERROR_CAUSE = (
    "Newton-Schulz ends before small directions are lifted, and the rows that live "
    "in them come out short. It is not the leverage of the momentum."
)
_ERROR_ADVICE = (
    "Take more steps or a better polynomial. Evening out the neurons afterwards "
    "would hide the error."
)


def _error(seen: Seen, hits: Sequence[Hit]) -> list[Finding]:
    if not hits:
        return []
    errors = [one.evidence[-1].value or 0.0 for one in hits]
    return [
        finding(
            seen,
            "uneven_neurons",
            "warning",
            f"Neurons of {named(seen, hits)} are uneven because of the iteration: its row norms "
            f"are off by {span(errors)} of those of exact orthogonalization.",
            hits,
            cause=_ERROR_CAUSE,
            advice=_ERROR_ADVICE,
        )
    ]


_LEVERAGE_CAUSE = (
    "Rows of a momentum with more rows than columns, or without full rank, share "
    "directions unequally, and orthogonalizing keeps that: a row comes out with the square "
    "root of its leverage."
)
_LEVERAGE_ADVICE = (
    "Nothing is broken. NorMuon evens the neurons out; more steps of the iteration would not."
)


def _of_leverage(seen: Seen, hits: Sequence[Hit]) -> list[Finding]:
    if not hits:
        return []
    values = [one.evidence[0].value or 0.0 for one in hits]
    limit = number(ROW_ERROR.value)
    known = any(one.what == "ns_row_error" for hit in hits for one in hit.evidence)
    rest = f", and the iteration adds less than {limit}" if known else ""
    return [
        finding(
            seen,
            "uneven_neurons",
            "note",
            f"Neurons of {named(seen, hits)} are uneven (CV {span(values)}) because of their "
            f"leverage: exact orthogonalization would leave as much{rest}.",
            hits,
            cause=_LEVERAGE_CAUSE,
            advice=_LEVERAGE_ADVICE,
        )
    ]


UNEVEN_NEURONS = Rule(
    name="uneven_neurons",
    title="Nonuniformity that is leverage against nonuniformity that is Newton-Schulz error",
    severity="A warning where it is the iteration, a note where it is the leverage",
    looks_at="`neuron_norm_cv`, `leverage_cv` and `ns_row_error` of `ns_input`, `orthogonalized` "
    "and `update`, of layers given to Muon or NorMuon.",
    means="Uneven neurons are a warning where the iteration's row norms are far from those of "
    "exact orthogonalization, and a note where the leverage explains them: that is how Muon is. "
    "The two do not add up, so neither is ever given as a share.",
    cause=f"{_ERROR_CAUSE} Or: {_LEVERAGE_CAUSE[0].lower()}{_LEVERAGE_CAUSE[1:]}",
    advice=f"{_ERROR_ADVICE} Of leverage: {_LEVERAGE_ADVICE[0].lower()}{_LEVERAGE_ADVICE[1:]}",
    judge=_uneven,
)
