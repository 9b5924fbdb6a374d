"""What a run's records say is wrong with its optimizer, in plain words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from optgeom.geometry.diagnosis.finding import SEVERITIES, Diagnosis, Finding
from optgeom.geometry.diagnosis.registry import RULES
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.traces.errors import OptgeomError
from optgeom.traces.store import Trace


def diagnose(
    trace: Trace,
    *,
    steps: int | Iterable[int] | slice | None = None,
    rules: str | Iterable[str] | None = None,
) -> Diagnosis:
    """Look for what goes wrong with optimizers, by the rules of docs/diagnose.md.

    It reads columns, lists of a few captures, and raw matrices only of sharded layers: cheap enough
    for every capture of a running job. The trace is taken as it is: refresh it first where a run
    is alive. Rows that could not be verified count for nothing.

    Args:
        trace: The run.
        steps: As for `Trace.metrics`; None: all captured.
        rules: Names of rules; None: all.

    Returns:
        The findings, the worst first; and which rules could not look, and why.

    Raises:
        OptgeomError: there is no such rule.
        NotCaptured: a named step was not captured.
    """
    chosen = _chosen(rules)
    seen = Seen.of(trace, steps)
    findings: list[Finding] = []
    judged: list[str] = []
    not_judged: dict[str, str] = {}
    for rule in chosen:
        found = rule.judge(seen) if len(seen.steps) else NotJudged("nothing was captured")
        if isinstance(found, NotJudged):
            not_judged[rule.name] = found.why
        else:
            judged.append(rule.name)
            findings += found
    findings.sort(key=lambda one: SEVERITIES.index(one.severity))  # stable: then by rule
    return Diagnosis(trace.info.run, tuple(findings), tuple(judged), not_judged)


def _chosen(names: str | Iterable[str] | None) -> tuple[Rule, ...]:
    if names is None:
        return RULES
    wanted = [names] if isinstance(names, str) else list(names)
    known = {rule.name: rule for rule in RULES}
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise OptgeomError(
                f"no rule {name!r}{f' (did you mean {near[0]!r}?)' if near else ''}: "
                f"there are {', '.join(known)}"
            )
    return tuple(rule for rule in RULES if rule.name in wanted)
