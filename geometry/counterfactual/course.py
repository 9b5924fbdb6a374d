"""What is to be computed: for every rule and layer the input, the second moment, the steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from optgeom.geometry.counterfactual.entering import IN_PIECES, Entering, entering, group_of
from optgeom.geometry.counterfactual.history import Basis, applied_at, bases
from optgeom.geometry.counterfactual.rule import INPUTS, Rule
from optgeom.geometry.counterfactual.wholes import Whole, apart, wholes
from optgeom.traces.errors import NotCaptured, OptgeomError
from optgeom.traces.info import LayerInfo
from optgeom.traces.reading.asked import Names, Steps, in_steps, names_in
from optgeom.traces.store import Trace

LEFT_TO_ADAMW = ("embedding", "head")
"""Kinds of layer that these rules leave to AdamW: computed only where they are named."""


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """One rule and one matrix.

    Attributes:
        rule: The rule.
        whole: The matrix, with the layers that it is made of.
        layers: Those of them that get rows.
        entering: What enters it.
        bases: What its second moment rests on, by step; None of a rule without one.
        recorded: Steps at which the run's own second moment is taken.
        wanted: Steps that get a row.
        applied: Steps at which the rule is applied: those, and what their second moments need.
    """

    rule: Rule
    whole: Whole
    layers: tuple[LayerInfo, ...]
    entering: Entering
    bases: Mapping[int, Basis] | None
    recorded: frozenset[int]
    wanted: frozenset[int]
    applied: frozenset[int]

    @property
    def steps(self) -> frozenset[int]:
        """Every step at which there is something to do."""
        return self.wanted | self.applied

    @property
    def caveats(self) -> tuple[str, ...]:
        """What the numbers of these layers lack."""
        return (*self.entering.caveats, *([IN_PIECES] if self.whole.is_part else []))


def courses(
    trace: Trace, rules: Iterable[Rule], steps: Steps = None, layers: Names = None
) -> list[Course]:
    """Plan what there is to compute; reads keys, and of each layer one recorded second moment.

    Args:
        trace: The run.
        rules: By whom.
        steps: As for `Trace.metrics`; None: every step with a raw input.
        layers: Layers by name; None: all but embeddings and heads.

    Raises:
        NotCaptured: there is no such step or layer, or nothing that could enter a rule; the message
            has the line that captures it.
        OptgeomError: the trace was itself computed.
    """
    _refuse_computed(trace)
    rules = list(rules)
    if layers is None:
        chosen = [one for one in trace.layers if one.kind not in LEFT_TO_ADAMW]
    else:
        chosen = [trace.layer(name) for name in dict.fromkeys(names_in(layers))]
    named = {one.name for one in chosen}
    matrices = [
        one for one in wholes(trace.layers) if not named.isdisjoint(x.name for x in one.layers)
    ]
    found = []
    for rule in rules:
        own = [pair for whole in matrices for pair in _entered(trace, rule, whole, named)]
        if not own:
            raise NotCaptured(_nothing_enters(trace, rules, chosen))
        there = np.unique([step for _, enters in own for step in enters.attempts])
        wanted = there if steps is None else there[in_steps(there, steps, trace.path)]
        if not len(wanted):
            raise NotCaptured(
                f"no raw matrix of {trace.path} is of the steps asked for: they are of "
                f"{there[0]:,} to {there[-1]:,}"
            )
        steps_wanted = set(wanted.tolist())
        for whole, enters in own:
            written = tuple(one for one in whole.layers if one.name in named)
            found.append(_course(trace, rule, whole, written, enters, steps_wanted))
    return found


def _entered(
    trace: Trace, rule: Rule, whole: Whole, named: set[str]
) -> list[tuple[Whole, Entering]]:
    """A matrix and what enters; its pieces one by one where they were not captured together."""
    each = [entering(trace, layer, rule) for layer in whole.layers]
    first = each[0]
    if first is not None and all(one == first for one in each):
        return [(whole, first)]
    return [
        (one, enters)
        for one, enters in zip(apart(whole.layers), each, strict=True)
        if enters is not None and one.layers[0].name in named
    ]


def capturing(trace: Trace, rules: Iterable[Rule]) -> str:
    """The line of code that captures what the rules need of a run like this."""
    rules = list(rules)
    ours = any(one.type.startswith("optgeom.optim.") for one in trace.info.optimizers)
    stages = ["update", "ns_input" if ours else "momentum"]
    moments = [rule for rule in rules if rule.second_moment is not None]
    needed = max(
        (one.second_moment.steps_needed for one in moments if one.second_moment), default=1
    )
    if moments and all(_keeps(trace, rule) for rule in moments):
        stages, needed = [*stages, "second_moment"], 1
    line = f"optgeom.watch(model, optimizer, out, stages={tuple(stages)!r}, updates_every="
    every = max(1000, -(-needed // 1000) * 1000)
    line = f"{line}{every}".replace("'", '"')
    return f"{line})" if needed == 1 else f"{line}, spectra_every={every}, burst={needed})"


def _keeps(trace: Trace, rule: Rule) -> bool:
    """Whether the run's optimizer keeps the rule's second moment of some layer."""
    return any(_is_same(trace, rule, layer) for layer in trace.layers)


def _course(
    trace: Trace,
    rule: Rule,
    whole: Whole,
    layers: tuple[LayerInfo, ...],
    enters: Entering,
    steps: set[int],
) -> Course:
    wanted = frozenset(steps & enters.attempts.keys())
    moment = rule.second_moment
    if moment is None:
        return Course(rule, whole, layers, enters, None, frozenset(), wanted, wanted)
    recorded = frozenset[int]()
    if len(whole.layers) == 1:
        recorded = _recorded(trace, rule, whole.layers[0], enters)
    found = bases(enters.attempts, recorded, moment.steps_needed, trace.info.attempts)
    applied = frozenset(applied_at(found, wanted))
    return Course(rule, whole, layers, enters, found, recorded, wanted, applied)


def _recorded(trace: Trace, rule: Rule, layer: LayerInfo, enters: Entering) -> frozenset[int]:
    """Where the run's own second moment is recorded, and the rule's too."""
    held = (layer.name, "second_moment") in trace.cell_names("updates")
    if not held or not _is_same(trace, rule, layer) or not _averages(trace, layer, enters):
        return frozenset()
    there = trace.attempts(layer.name, "second_moment")
    shared = sorted(step for step, one in there.items() if enters.attempts.get(step) == one)
    return frozenset(shared) if _has_shape(trace, rule, layer, shared) else frozenset()


def _averages(trace: Trace, layer: LayerInfo, enters: Entering) -> bool:
    """Whether the run's second moment is of what enters the rule: Nesterov's look-ahead or none."""
    if enters.stage == "ns_input":
        return True
    looks_ahead = bool(group_of(trace.info, layer)[1].get("nesterov"))
    return enters.stage == "momentum" and looks_ahead == (enters.mixing is not None)


def _has_shape(trace: Trace, rule: Rule, layer: LayerInfo, steps: Sequence[int]) -> bool:
    """Whether what is recorded has the shape of the rule's; the first that can be read tells."""
    assert rule.second_moment is not None
    for step in steps:
        with suppress(NotCaptured):
            found = trace.matrix(step, layer.name, "second_moment").shape
            return bool(found == rule.second_moment.shape(layer.shape))
    return False


def _is_same(trace: Trace, rule: Rule, layer: LayerInfo) -> bool:
    """Whether a run's second moment is a rule's: the same algorithm, and settings that say so."""
    moment = rule.second_moment
    _, group = group_of(trace.info, layer)
    if moment is None or layer.algorithm != rule.algorithm or group.get("beta2") != moment.beta:
        return False
    is_per_row = moment.shape(layer.shape) == (layer.shape[0], 1)
    if not is_per_row or layer.neuron_axis not in (None, "rows") or layer.parameter is not None:
        return False
    return all(name not in group or group[name] == value for name, value in moment.same.items())


def _refuse_computed(trace: Trace) -> None:
    if trace.info.computed:
        source = trace.info.computed.get("from")
        raise OptgeomError(
            f"{trace.path} was itself computed from {source}: pass that run, which has the "
            "matrices that enter a rule"
        )


def _nothing_enters(trace: Trace, rules: Iterable[Rule], layers: list[LayerInfo]) -> str:
    names = {layer.name for layer in layers}
    held = trace.cell_names("updates")
    stages = [stage for stage in trace.stages if any((name, stage) in held for name in names)]
    there = f"there are raw matrices of {', '.join(stages)} alone" if stages else "there are none"
    return (
        f"{trace.path} holds no raw {', '.join(INPUTS[:-1])} or {INPUTS[-1]} of these layers, "
        f"which a rule could be computed from ({there}): capture them in a run with "
        f"{capturing(trace, rules)}"
    )
