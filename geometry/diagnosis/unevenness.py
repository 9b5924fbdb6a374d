"""Uneven neurons: is it the leverage of the momentum, or the error of Newton-Schulz?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optgeom.geometry.comparison.result import number
from optgeom.geometry.diagnosis.finding import Evidence, Finding
from optgeom.geometry.diagnosis.flatness import promised
from optgeom.geometry.diagnosis.hits import Hit, finding, middle, named, nearest, span
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
        if error is not None and error.middle >= ROW_ERROR.value:
            by_error.append(_hit(seen, at, "orthogonalized", leverage, error))
        elif leverage is not None and leverage.middle >= UNEVEN.value:
            # of NorMuon's update the division of the neurons has removed it
            found = _median(seen, "neuron_norm_cv", "update", at)
            if found is not None and found.middle >= UNEVEN.value:
                by_leverage.append(_hit(seen, at, "update", leverage, error))
    if not judged:
        return NotJudged(
            "neither ns_input nor orthogonalized was captured with spectra: add them to stages"
        )
    return [*_error(seen, by_error), *_of_leverage(seen, by_leverage)]


@dataclass(frozen=True, slots=True)
class _Median:
    """The median of a column, and the capture that is nearest to it."""

    steps: list[int]
    middle: float
    step: int
    value: float


def _median(seen: Seen, column: str, stage: str, at: int) -> _Median | None:
    steps, values = seen.numbers(column, stage).of(at)
    if not len(values):
        return None
    step, value = nearest(steps.tolist(), values.tolist())
    return _Median(steps.tolist(), middle(values.tolist()), step, value)


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
    rows, cols = seen.layers[at].shape
    told = [(stage, "neuron_norm_cv", found, f"below {UNEVEN.value:g}")]
    if leverage is not None:
        where = "ns_input" if seen.has("ns_input") else "orthogonalized"
        tall = "what its momentum has: the matrix is tall"
        expected = "0, were the matrix of full rank" if rows <= cols else tall
        told.append((where, "leverage_cv", leverage, expected))
    if error is not None:
        told.append(("orthogonalized", "ns_row_error", error, f"below {ROW_ERROR.value:g}"))
    evidence = tuple(
        Evidence(layer, one.step, where, what, one.value, expected)
        for where, what, one, expected in told
    )
    return Hit(at, found.steps, evidence, found.middle)


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
