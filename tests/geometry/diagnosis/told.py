"""What tests ask of a diagnosis."""

from __future__ import annotations

from optgeom.geometry import Diagnosis, Finding


def only(found: Diagnosis, rule: str) -> Finding:
    """The one finding of a rule; what else was found is in the message."""
    mine = [one for one in found.findings if one.rule == rule]
    assert len(mine) == 1, str(found)
    (one,) = mine
    assert one.cause
    assert one.advice
    assert one.evidence
    assert one.evidence[0].value is not None
    assert one.steps == tuple(sorted(one.steps))
    return one


def warned(found: Diagnosis) -> set[str]:
    return {one.rule for one in found.findings if one.severity != "note"}
