"""What has to be said beside the numbers: what was left out, what is a bound, what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from optgeom.geometry.catalogue import METRICS
from optgeom.geometry.comparison.cells import DISTRUSTED, Cells, Steps, span
from optgeom.geometry.comparison.rows import BOUNDED, Row
from optgeom.geometry.comparison.rules import UNITLESS, differ, relative_floor

_DECAY_INSIDE = ("in_gradient", "in_direction", "unknown")


def findings(
    cells: Cells, rows: Sequence[Row], reference: str, damaged: Iterable[str]
) -> tuple[str, ...]:
    """Every finding as a sentence: first what is compared, then what is refused, and why.

    Args:
        cells: The runs on common axes.
        rows: All rows of the table.
        reference: The run that the others are compared with.
        damaged: Runs of the folder that could not be opened.
    """
    return (
        *_left_out(damaged),
        _steps(cells, reference),
        *_layers(cells),
        *_sparser(cells, rows, reference),
        *_thinned(cells, rows),
        *_distrusted(cells),
        *_bounds(rows),
        *_floors(cells, rows),
        *_rates(cells, rows, reference),
        *_decay(cells),
        *_refused(rows),
    )


def aligned_steps(cells: Cells, reference: str) -> Steps:
    """The steps that the reference shares with every run that shares any with it."""
    shared = cells.captured(reference)
    for run in _with_shared_steps(cells, reference):
        shared = np.intersect1d(shared, cells.captured(run))
    return shared


def _with_shared_steps(cells: Cells, reference: str) -> list[str]:
    base = cells.captured(reference)
    runs = [run for run in cells.present if run != reference]
    return [run for run in runs if len(np.intersect1d(base, cells.captured(run)))]


def _left_out(damaged: Iterable[str]) -> list[str]:
    return [f"{run} is left out: its run.json is damaged." for run in damaged]


def _steps(cells: Cells, reference: str) -> str:
    runs = [run for run in cells.traces if run in _with_shared_steps(cells, reference)]
    runs = [run for run in cells.traces if run in (reference, *runs)]
    shared = aligned_steps(cells, reference)
    if len(runs) < 2:
        return (
            f"No run shares a step with {reference}, which has {span(cells.captured(reference))}."
        )
    counts = {run: len(cells.captured(run)) for run in runs}
    if set(counts.values()) == {len(shared)}:
        return f"{_and(runs)} have the same {span(shared)}."
    each = ", ".join(
        f"{run} has {count:,} captures" if place == 0 else f"{run} {count:,}"
        for place, (run, count) in enumerate(counts.items())
    )
    told = f"{span(shared)} shared" if len(shared) else "no step is shared by all"
    return f"{each}: {told}."


def _layers(cells: Cells) -> list[str]:
    has = {run: cells.has(run) for run in cells.present}
    shared = np.logical_and.reduce(list(has.values()))
    if all((own == shared).all() for own in has.values()):
        return []
    each = ", ".join(
        f"{run} has {int(own.sum()):,} layers" if place == 0 else f"{run} {int(own.sum()):,}"
        for place, (run, own) in enumerate(has.items())
    )
    said = [f"{each}: {int(shared.sum()):,} layers of one name and kind are in all of them."]
    kinds: dict[str, dict[str, str]] = {}
    for run, own in has.items():
        for at in np.flatnonzero(own).tolist():
            kinds.setdefault(cells.layers[at].layer, {})[run] = cells.layers[at].kind
    odd = {name: found for name, found in kinds.items() if len(set(found.values())) > 1}
    for name, found in list(odd.items())[:1]:
        each = ", ".join(f"{kind} in {run}" for run, kind in found.items())
        more = f", and {len(odd) - 1:,} more" if len(odd) > 1 else ""
        said.append(f"Layers of different kinds are not compared: {name} is {each}{more}.")
    return said


def _sparser(cells: Cells, rows: Sequence[Row], reference: str) -> list[str]:
    """Metrics of another clock than the captures': measured at fewer steps."""
    shared = len(aligned_steps(cells, reference))
    told: dict[int, list[str]] = {}
    for metric in dict.fromkeys(row.metric for row in rows):
        compared = [row.steps for row in rows if row.metric == metric and row.ratio is not None]
        if compared and max(compared) < shared:
            told.setdefault(max(compared), []).append(metric)
    return [
        f"{_and(metrics)}: measured at {steps:,} of these {shared:,} steps."
        for steps, metrics in told.items()
    ]


def _thinned(cells: Cells, rows: Sequence[Row]) -> list[str]:
    """Values that are not used, for not every compared run measured them."""
    told: dict[str, list[str]] = {}
    for metric in dict.fromkeys(row.metric for row in rows):
        mine = [row for row in rows if row.metric == metric]
        if not any(row.left_out for row in mine):
            continue
        whole = {
            run: sum(row.count + row.left_out for row in mine if row.run == run)
            for run in cells.traces
        }
        used = {run: sum(row.count for row in mine if row.run == run) for run in whole}
        each = ", ".join(
            f"{used[run]:,} of {run}'s {count:,}" for run, count in whole.items() if count
        )
        told.setdefault(each, []).append(metric)
    return [
        f"{_and(metrics)}: used are {each} values, those of the same layer and step."
        for each, metrics in told.items()
    ]


def _distrusted(cells: Cells) -> list[str]:
    everywhere = np.ones((len(cells.steps), len(cells.layers)), bool)
    found = {run: cells.counted(run, "status", everywhere) for run in cells.present}
    return [
        f"{counts[word]:,} rows of {run} are {word}, and left out."
        for run, counts in found.items()
        for word in DISTRUSTED
        if word in counts
    ]


def _bounds(rows: Sequence[Row]) -> list[str]:
    mine = [row for row in rows if row.metric == BOUNDED and row.count]
    told = []
    for run in dict.fromkeys(row.run for row in mine):
        bounds = sum(row.bounds for row in mine if row.run == run)
        if bounds:
            count = sum(row.count for row in mine if row.run == run)
            told.append(f"{bounds:,} of {run}'s {count:,}")
    if not told:
        return []
    return [f"{BOUNDED}: {_and(told)} values are lower bounds, at the noise floor."]


def _floors(cells: Cells, rows: Sequence[Row]) -> list[str]:
    if not any(row.metric == BOUNDED and row.count for row in rows):
        return []
    everywhere = np.ones((len(cells.steps), len(cells.layers)), bool)
    floors = {run: relative_floor(cells, run, everywhere) for run in cells.present}
    floors = {run: floor for run, floor in floors.items() if np.isfinite(floor)}
    if not floors or not differ(min(floors.values()), max(floors.values())):
        return []
    each = _and([f"{floor:.2g} s_1 in {run}{_read(cells, run)}" for run, floor in floors.items()])
    return [
        f"The noise floors differ: {each}. A {BOUNDED} above its own floor compares; one at the "
        "floor is a bound."
    ]


def _read(cells: Cells, run: str) -> str:
    everywhere = np.ones((len(cells.steps), len(cells.layers)), bool)
    sources = cells.counted(run, "source", everywhere)
    dtypes = dict.fromkeys(layer.dtype for layer in cells.traces[run].layers)
    words = [*sorted(sources, key=lambda word: -sources[word])[:2], *dtypes]
    return f" ({', '.join(words)})" if words else ""


def _rates(cells: Cells, rows: Sequence[Row], reference: str) -> list[str]:
    """Values per unit of lr that have a ratio, of runs whose lr is not the same."""
    if cells.stage != "update":
        return []
    told: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.ratio is None or row.run == reference or METRICS[row.metric].unit in UNITLESS:
            continue
        columns = cells.columns(row.kind)
        rates = [cells.numbers(run, "lr")[:, columns] for run in (row.run, reference)]
        if not np.isfinite(rates).any(axis=(1, 2)).all():
            continue
        mine, other = (float(np.nanmax(rate)) for rate in rates)
        if not np.isclose(mine, other, rtol=1e-9, atol=0.0):
            said = f"up to {mine:.3g}, against {other:.3g} in {reference}"
            told.setdefault((row.metric, said), []).append(row)
    kinds = list(dict.fromkeys(row.kind for row in rows))
    return [
        f"{metric} of {_which([row.kind for row in mine], kinds, 'kinds')} in "
        f"{_and(list(dict.fromkeys(row.run for row in mine)))} is per unit of lr, which is {said}; "
        "update_to_weight includes it."
        for (metric, said), mine in told.items()
    ]


def _decay(cells: Cells) -> list[str]:
    if cells.stage != "update":
        return []
    everywhere = np.ones((len(cells.steps), len(cells.layers)), bool)
    inside: dict[str, str] = {}
    for run in cells.present:
        forms = cells.counted(run, "decay_form", everywhere)
        setting = cells.numbers(run, "weight_decay")
        form = next((one for one in _DECAY_INSIDE if one in forms), None)
        if form is not None and (setting > 0).any():
            inside[run] = form
    if not inside or len(inside) == len(cells.present):
        return []
    return [
        f"The updates of {run} contain its weight decay (decay_form {form})."
        for run, form in inside.items()
    ]


def _refused(rows: Sequence[Row]) -> list[str]:
    """One sentence per cause, with the metrics, runs and kinds that it holds for."""
    metrics, kinds = (
        list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("metric", "kind")
    )
    by_cause: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.why is not None:
            by_cause.setdefault((row.why.cause, row.run), []).append(row)
    alike: dict[tuple[str, frozenset[tuple[str, str]]], list[Row]] = {}
    for (cause, _), refused in by_cause.items():
        where = frozenset((row.metric, row.kind) for row in refused)
        alike.setdefault((cause, where), []).extend(refused)
    return [
        f"Not comparable: {_which([row.metric for row in refused], metrics, 'metrics')} of "
        f"{_which([row.kind for row in refused], kinds, 'kinds')} in "
        f"{_and(list(dict.fromkeys(row.run for row in refused)))}: {cause}{_details(refused)}."
        for (cause, _), refused in alike.items()
    ]


def _which(some: Iterable[str], every: Sequence[str], noun: str) -> str:
    some = list(dict.fromkeys(some))
    rest = [one for one in every if one not in some]
    if len(every) > 1 and not rest:
        return f"all {noun}"
    return f"all {noun} but {_and(rest)}" if len(some) > 2 * len(rest) > 0 else _and(some)


def _details(refused: Sequence[Row]) -> str:
    """What was found, once where it is the same for all, else by run, by kind, or by both."""
    whys = [(row.run, row.kind, row.why.detail) for row in refused if row.why and row.why.detail]
    if not whys:
        return ""
    by_all: dict[tuple[str, ...], set[str]] = {(): {detail for _, _, detail in whys}}
    by_run: dict[tuple[str, ...], set[str]] = {}
    by_kind: dict[tuple[str, ...], set[str]] = {}
    by_both: dict[tuple[str, ...], set[str]] = {}
    for run, kind, detail in whys:
        by_run.setdefault((run,), set()).add(detail)
        by_kind.setdefault((kind,), set()).add(detail)
        by_both.setdefault((run, kind), set()).add(detail)
    ways = (by_all, by_run, by_kind)
    plain = (way for way in ways if all(len(details) == 1 for details in way.values()))
    each = [
        f"{' '.join(key)}: {detail}" if key else detail
        for key, details in next(plain, by_both).items()
        for detail in sorted(details)
    ]
    return f" ({'; '.join(each)})"


def _and(words: Sequence[str]) -> str:
    """Words in a row: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
