"""What other rules would have applied at the captured steps of a run, and how that would look."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

from optgeom.geometry.analysis.engine import reader_of
from optgeom.geometry.counterfactual.computing import computed
from optgeom.geometry.counterfactual.course import capturing, courses
from optgeom.geometry.counterfactual.measuring import Measuring, Recorded
from optgeom.geometry.counterfactual.placing import clear_dead, folder_of, target_of
from optgeom.geometry.counterfactual.result import WhatIf
from optgeom.geometry.counterfactual.rule import Rule
from optgeom.geometry.counterfactual.writing import ComputedTrace
from optgeom.traces.errors import OptgeomError
from optgeom.traces.reading.asked import Names, Steps
from optgeom.traces.store import Trace, open_trace


def whatif(
    trace: Trace,
    rules: Mapping[str, Rule],
    *,
    out: str | os.PathLike[str] | None = None,
    steps: Steps = None,
    layers: Names = None,
    overwrite: bool = False,
    updates: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> WhatIf:
    """Compute what other rules would have applied, from the raw matrices of a run.

    Each rule's updates become a trace of their own, measured as any update is. It appears when it
    is whole. A rule with a second moment takes the run's own where that is recorded, else averages
    the captured steps: exactly from the run's first step on, and with an unknown start of 4.6 %
    after `SecondMoment.steps_needed` consecutive ones. Elsewhere its rows are null, with the status
    ``no_second_moment``. docs/whatif.md says what is exact.

    In memory are the matrices of one layer at one step, and the next ones, read meanwhile.

    Args:
        trace: A run with raw matrices (`updates_every`) of ns_input, momentum or gradient; it is
            refreshed, and left as it is.
        rules: What to compute, by name; `optgeom.rules` makes them.
        out: The local folder to write the traces into; None: the one that the run stands in. They
            are called NAME+RULE.
        steps: As for `Trace.metrics`; None: every step with a raw input.
        layers: Layers by name; None: all but embeddings and heads, which are left to AdamW.
        overwrite: Replace what was computed from this run before; nothing else is ever replaced.
        updates: Store the computed updates themselves too, 4 bytes a number.
        progress: Called with (done, total) cells, at first with (0, total).

    Returns:
        The computed traces, and what they say.

    Raises:
        NotCaptured: nothing that could enter a rule is recorded; no such step or layer.
        TraceExists: a target is there, before or after computing, and is not to be replaced.
        TraceError: the run is in an object store and `out` is None, or `out` cannot be written, is
            a trace or within the run.
        OptgeomError: no rule was named, two would be written to one folder, or the trace was
            itself computed.
    """
    if not rules:
        raise OptgeomError("no rule was named: pass one, such as normuon")
    _refuse_one_folder(rules.values())
    trace.refresh()
    plan = courses(trace, rules.values(), steps, layers)
    folder = folder_of(trace, out)
    targets = {
        name: target_of(trace, rule, folder, overwrite=overwrite) for name, rule in rules.items()
    }
    clear_dead(folder)
    tell = progress or _silent
    total = sum(len(course.wanted) * len(course.layers) for course in plan)
    tell(0, total)
    recorded = Recorded(trace)
    with ExitStack() as stack:
        writing = {}
        for name, rule in rules.items():
            own = [course for course in plan if course.rule is rule]
            writing[id(rule)] = made = ComputedTrace(trace, rule, own, targets[name])
            stack.callback(made.abandon)
        measuring = {id(rule): Measuring(recorded) for rule in rules.values()}
        for done, cell in enumerate(computed(reader_of(trace.place), plan), 1):
            rule = cell.course.rule
            rows = measuring[id(rule)].rows(cell)
            writing[id(rule)].add(cell.layer, cell.step, rows, raw=updates)
            tell(done, total)
        for made in writing.values():
            made.finish(overwrite=overwrite)
    return WhatIf(
        trace,
        {name: open_trace(targets[name]) for name in rules},
        dict(rules),
        capturing(trace, rules.values()),
    )


def _refuse_one_folder(rules: Iterable[Rule]) -> None:
    """Refuse rules whose folders would have one name, also where letters' case does not count."""
    seen: dict[str, str] = {}
    for rule in rules:
        other = seen.setdefault(rule.suffix.casefold(), rule.name)
        if other != rule.name:
            raise OptgeomError(
                f"the rules {other} and {rule.name} would both be written to a folder that ends in "
                f"+{rule.suffix}: give one of them another name"
            )


def _silent(done: int, total: int) -> None:
    """Tell nobody."""
