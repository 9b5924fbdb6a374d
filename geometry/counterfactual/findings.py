"""Would a rule change anything for this model, and in which layers? Sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optgeom.geometry.comparison.result import number
from optgeom.geometry.counterfactual.rule import Rule
from optgeom.geometry.counterfactual.summary import EVEN, WHY, Row, spread

CHANGE = 1.1
"""Ratios nearer to 1 than this factor are called the same."""

UNLIKE = 1.25
"""A layer that goes another way than its kind is named where their ratios are this far apart."""

NAMED = 6
"""Kinds, or layers of unknown kind, that a sentence names at most."""

_ARROW = "\N{RIGHTWARDS ARROW}"
_TIMES = "\N{MULTIPLICATION SIGN}"


def findings(
    rule: Rule,
    run: str,
    computed: Mapping[str, Any],
    kinds: Sequence[Row],
    layers: Sequence[Row],
    line: str,
) -> tuple[str, ...]:
    """Every finding as a sentence: what it rests on last.

    Args:
        rule: The rule.
        run: The run that it was computed from.
        computed: What the computed trace's run.json says of it.
        kinds: The summary by kind.
        layers: The summary by layer.
        line: The line of code that captures what is missing.
    """
    said = (
        *_balance(rule, run, kinds, layers),
        *_conditioning(rule, kinds),
        *_direction(rule, kinds),
        *_input(computed),
        *_second_moment(rule, computed, layers, line),
        *_others(layers),
    )
    if any(row.computed > row.young for row in layers) or any(line in one for one in said):
        return said
    return (*said, f"Nothing is left to take a median of. To capture what it needs: {line}")


def _balance(rule: Rule, run: str, kinds: Sequence[Row], layers: Sequence[Row]) -> list[str]:
    """Kinds that would be spread more evenly, less evenly, as they are; most change first."""
    compared = sorted(
        (row for row in kinds if row.evening is not None), key=lambda row: -abs(_change(row))
    )
    evened = [row for row in compared if (row.evening or 0.0) >= CHANGE]
    roughened = [row for row in compared if (row.evening or 0.0) <= 1.0 / CHANGE]
    same = [row for row in compared if row not in evened and row not in roughened]
    if not compared:
        return []
    if len(same) == len(compared):
        return [
            f"{rule.title} would leave the balance of neurons as it is in {run}: no kind of layer "
            f"changes by a factor of {CHANGE:g} or more.",
            *_unlike(compared, layers),
        ]
    said, subject = [], rule.title
    for rows, word in ((evened, "more"), (roughened, "less")):
        if not rows:
            continue
        first, rest = rows[0], rows[1:NAMED]
        more = "".join(f", {row.name} {_times(row)} ({_cv(row)})" for row in rest)
        left = len(rows) - NAMED
        more += f", and {left:,} more that change less" if left > 0 else ""
        said.append(
            f"{subject} would spread {first.name} over its neurons {_times(first)} {word} evenly "
            f"(median CV {_cv(first)}){more}."
        )
        said += _most(first, layers)
        subject = "It"
    if same:
        names = [row.name for row in same]
        if len(names) > NAMED:
            names = [*names[: NAMED - 1], f"{len(names) - NAMED + 1:,} more"]
        said.append(f"It would leave the balance of {_and(names)} as it is.")
    return said + _unlike(compared, layers)


def _change(row: Row) -> float:
    return (row.neuron_norm_cv_applied or 0.0) - (row.neuron_norm_cv_computed or 0.0)


def _way(row: Row) -> int:
    """1 where the norms come out more even, -1 where less even, 0 where they stay as they are."""
    factor = row.evening or 1.0
    return int(factor >= CHANGE) - int(factor <= 1.0 / CHANGE)


def _most(kind: Row, layers: Sequence[Row]) -> list[str]:
    """The layers of a kind that change most and least, of those that go no other way."""
    if kind.layer is not None:
        return []
    own = [
        row
        for row in layers
        if row.kind == kind.kind and row.evening is not None and _way(row) != -_way(kind)
    ]
    if len(own) < 2:
        return []
    ranked = sorted(own, key=_change)
    least, most = (ranked[0], ranked[-1]) if _way(kind) > 0 else (ranked[-1], ranked[0])
    return [
        f"Of {kind.kind} most in {most.layer} ({_cv(most)}), least in {least.layer} ({_cv(least)})."
    ]


def _unlike(kinds: Sequence[Row], layers: Sequence[Row]) -> list[str]:
    """Layers that go another way than the median of their kind: those hide in it."""
    kept = {row.kind: row for row in kinds if row.layer is None}
    found = []
    for row in layers:
        kind = kept.get(row.kind)
        if kind is None or not _way(row) or _way(row) == _way(kind):
            continue
        if abs(math.log((row.evening or 1.0) / (kind.evening or 1.0))) >= math.log(UNLIKE):
            found.append(row)
    if not found:
        return []
    found.sort(key=lambda row: -abs(math.log(row.evening or 1.0)))
    each = [
        f"{row.layer} {_times(row)} {'more' if _way(row) > 0 else 'less'} evenly ({_cv(row)})"
        for row in found[:3]
    ]
    left = len(found) - len(each)
    more = [f"{left:,} more layers" if left > 1 else "1 more layer"] if left else []
    return [f"Unlike the median of their kind: {_and([*each, *more])}."]


def _conditioning(rule: Rule, kinds: Sequence[Row]) -> list[str]:
    changes = []
    for row in kinds:
        before, after = row.condition_number_applied, row.condition_number_computed
        if not before or not after:
            continue
        if row.condition_number_applied_is_bound or row.condition_number_computed_is_bound:
            continue
        if max(before, after) >= CHANGE * min(before, after):
            changes.append((max(before, after) / min(before, after), row, before, after))
    if not changes:
        return []
    changes.sort(key=lambda one: -one[0])
    each = [f"{row.name} {number(b)} {_ARROW} {number(a)}" for _, row, b, a in changes[:3]]
    most = "" if len(changes) <= 3 else ", most"
    return [f"Median condition numbers would change{most}: {', '.join(each)}."]


def _direction(rule: Rule, kinds: Sequence[Row]) -> list[str]:
    known = [row for row in kinds if row.cosine_applied is not None]
    if not known:
        return []
    low = min(known, key=lambda row: row.cosine_applied or 0.0)
    high = max(known, key=lambda row: row.cosine_applied or 0.0)
    if low is high or f"{low.cosine_applied:.2f}" == f"{high.cosine_applied:.2f}":
        return [f"Median cosine to the update that was applied: {low.cosine_applied:.2f}."]
    return [
        f"Median cosine to the update that was applied: from {low.cosine_applied:.2f} in "
        f"{low.name} to {high.cosine_applied:.2f} in {high.name}."
    ]


def _input(computed: Mapping[str, Any]) -> list[str]:
    inputs = computed.get("input") or {}
    each = [f"{what} of {_layers(count)}" for what, count in inputs.items()]
    said = [f"Computed from the recorded {_and(each)}."] if each else []
    for caveat, count in (computed.get("caveats") or {}).items():
        said.append(f"In {_layers(count)}, {caveat}.")
    return said


def _cells(count: int) -> str:
    return "is 1 cell" if count == 1 else f"are {count:,} cells"


def _second_moment(
    rule: Rule, computed: Mapping[str, Any], layers: Sequence[Row], line: str
) -> list[str]:
    said = []
    own_young = sum(row.own_young for row in layers)
    young = sum(row.young for row in layers) - own_young
    if own_young:
        said.append(
            f"In no median {_cells(own_young)} of the run's first steps: the second moment of "
            "its own rule had just begun at zero there, which evens out everything."
        )
    moment = computed.get("second_moment")
    if not moment or rule.second_moment is None:
        return said
    needed = rule.second_moment.steps_needed
    total = sum(count for how, count in moment.items() if how != "steps_needed")
    if young:
        said.append(
            f"In no median {_cells(young)} of the run's first {needed:,} steps: what is there is "
            "exact, but a second moment that has just begun at zero evens out everything."
        )
    short = moment.get("short", 0)
    if short:
        which = "Null everywhere" if short == total else f"Null in {short:,} of {total:,} cells"
        steps = "1 step" if needed == 1 else f"{needed:,} consecutive captured steps"
        said.append(
            f"{which}: the second moment is known after {steps}, or from the run's own, which is "
            f"not recorded there. To capture it: {line}"
        )
    if moment.get("burst"):
        weight = rule.second_moment.beta**needed
        said.append(
            f"In {moment['burst']:,} cells the second moment is averaged from an unknown start, of "
            f"which at most {100.0 * weight:.2g} % is left."
        )
    return said


def _others(layers: Sequence[Row]) -> list[str]:
    """Rows without a number for another reason than too few steps for the second moment."""
    odd = []
    for row in layers:
        why = "; ".join(one for one in row.why.split("; ") if WHY["no_second_moment"] not in one)
        if why:
            odd.append((row.layer, why))
    if not odd:
        return []
    more = f", and {len(odd) - 1:,} more layers" if len(odd) > 1 else ""
    return [f"Without a number in {odd[0][0]} ({odd[0][1]}){more}."]


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count:,} layers"


def _cv(row: Row) -> str:
    before, after = row.neuron_norm_cv_applied, row.neuron_norm_cv_computed
    return f"{spread(before or 0.0, 2)} {_ARROW} {spread(after or 0.0, 2)}"


def _times(row: Row) -> str:
    """How many times more or less evenly; at least so, where nothing of a spread is left."""
    factor = row.evening or 1.0
    is_least = min(row.neuron_norm_cv_computed or 0.0, row.neuron_norm_cv_applied or 0.0) < EVEN
    return f"{'more than ' if is_least else ''}{_factor(max(factor, 1.0 / factor))}"


def _factor(value: float | None) -> str:
    return f"{number(value or 0.0, 2)} {_TIMES}"


def _and(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
