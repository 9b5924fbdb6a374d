"""A rule: a pure function of what is seen, and what docs/diagnose.md says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optgeom.geometry.diagnosis.finding import Finding
from optgeom.geometry.diagnosis.seen import NotJudged, Seen

Judge = Callable[[Seen], Sequence[Finding] | NotJudged]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing to look for.

    Attributes:
        name: As in `Finding.rule`.
        title: What is looked for, in a few words.
        severity: Of its findings, in words.
        looks_at: Which records it reads, and of which layers.
        means: When it finds something, and what that says.
        cause: What it most likely comes from.
        advice: What to try.
        judge: The findings, none of which is a good sign; or why it could not look.
    """

    name: str
    title: str
    severity: str
    looks_at: str
    means: str
    cause: str
    advice: str
    judge: Judge
