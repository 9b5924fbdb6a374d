"""The sentence at the top of Balance: computed, and saying the opposite when that is so."""

from __future__ import annotations

from typing import Literal, NamedTuple

from optgeom.dashboard.data import Value
from optgeom.figures.formats import ratio, short, whole
from optgeom.figures.statuses import words

Variant = Literal["more", "less", "same", "alone", "missing"]

# Within 10 % the page claims no difference.
CLEAR = 1.1

_SUBJECT = {
    "update": "",
    "applied": "what was applied to ",
    "gradient": "the gradient of ",
    "momentum": "the momentum of ",
    "ns_input": "the orthogonalization's input of ",
    "orthogonalized": "the orthogonalized momentum of ",
    "weight": "the weight of ",
}


class Side(NamedTuple):
    """One run in the sentence.

    Attributes:
        run: its written name.
        cv: its CV, None where there is none.
        why: why it has none, as in "is WHY"; empty where it was not captured.
    """

    run: str
    cv: float | None
    why: str = ""


class Sentence(NamedTuple):
    """A sentence and which of its variants it is."""

    variant: Variant
    text: str


def sentence_side(run: str, one: Value, step: int | None) -> Side:
    """Return a run's side of the sentence about one step.

    Only that step's value may stand in it, and none that its own row says not to trust.

    Args:
        run: its written name.
        one: its CV at the step or the nearest earlier capture.
        step: the step that the sentence names.
    """
    if one.step != step or one.step is None:
        return Side(run, None)
    if one.status != "ok":
        return Side(run, None, words(one.status))
    return Side(run, one.value)


def sentence(
    a: Side, b: Side | None, *, layer: str, step: int | None, stage: str = "update"
) -> Sentence:
    """Compare how evenly two runs move the neurons of one layer.

    Args:
        a: the run compared with.
        b: the run the sentence is about; None where only one run is shown.
        layer: the layer inside a sentence, such as ``mlp.up of block 3``.
        step: the step looked at; None where nothing was captured.
        stage: the captured stage.

    Returns:
        The variant: ``more`` evenly, ``less`` evenly (the opposite), ``same`` within 10 %,
        ``alone`` for one run, ``missing`` where a side was not captured or has no usable number.

    >>> a, b = Side("Muon", 0.43), Side("NorMuon", 0.083)
    >>> sentence(a, b, layer="mlp.up of block 3", step=400).variant
    'more'
    """
    what = f"{_SUBJECT.get(stage, f'the {stage} of ')}{layer}"
    at = "" if step is None else f"At step {whole(step)} "
    sides = (a,) if b is None else (b, a)
    absent = [side for side in sides if side.cv is None]
    if absent:
        return Sentence("missing", _missing(absent, stage, what, step))
    if b is None:
        spreads = f"{at}{a.run} spreads {what} over its neurons"
        return Sentence("alone", f"{spreads} with a CV of\N{NO-BREAK SPACE}{short(a.cv)}.")
    mine, other = _pair(a, b)
    shown = f"(CV\N{NO-BREAK SPACE}{short(mine)} against {short(other)})"
    low, high = min(mine, other), max(mine, other)
    if high == 0 or (low > 0 and high / low <= CLEAR):
        text = f"{at}there is no clear difference in how evenly {b.run} and {a.run} spread {what}"
        return Sentence("same", f"{_capital(text)} over its neurons {shown}.")
    by = f"{ratio(high / low)} " if low > 0 else ""
    variant: Variant = "more" if mine < other else "less"
    text = f"{at}{b.run} spreads {what} over its neurons {by}{variant} evenly than {a.run} {shown}."
    return Sentence(variant, text)


def _missing(absent: list[Side], stage: str, what: str, step: int | None) -> str:
    """Say which runs hold no number: not captured, or captured with nothing to compare."""
    when = "at this step" if step is None else f"at step {whole(step)}"
    reasons: dict[str, list[str]] = {}
    for side in absent:
        reasons.setdefault(f"is {side.why}" if side.why else "was not captured", []).append(
            side.run
        )
    if stage == "update" and any(side.why for side in absent):
        what = f"the update of {what}"
    parts = [
        f"{reason} {when} in {_join(runs) if reason == 'was not captured' else ' and '.join(runs)}"
        for reason, runs in reasons.items()
    ]
    return f"{_capital(what)} {' and '.join(parts)}."


def _pair(a: Side, b: Side) -> tuple[float, float]:
    assert a.cv is not None
    assert b.cv is not None
    return b.cv, a.cv


def _join(names: list[str]) -> str:
    return " or ".join(names)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
