"""Findings as they are written: on the page, in its header and in the report alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from optgeom.figures.formats import number, whole
from optgeom.figures.names import layer_place, shorten
from optgeom.geometry.catalogue import METRICS
from optgeom.geometry.diagnosis.finding import SEVERITIES, Severity
from optgeom.geometry.diagnosis.registry import RULES

if TYPE_CHECKING:
    from optgeom.dashboard.findings import Looked
    from optgeom.geometry.diagnosis.finding import Evidence, Finding
    from optgeom.traces.store import Trace

FEW = 4
"""Layers that a finding names at once; all of them stand in its folded part, up to `MOST`."""
MOST = 60

WORDS: Mapping[Severity, str] = {"severe": "Severe", "warning": "Warning", "note": "Note"}

HELP = (
    "What the records of the runs under comparison say is wrong with their optimizers. Severe: the "
    "optimizer is not the one that was meant, or the weights hardly move. Warning: look at it. "
    "Note: worth knowing; nothing need be wrong. A rule that could not look is no good sign."
)


class Place(NamedTuple):
    """One layer of a finding, and where it shows.

    Attributes:
        layer: its name.
        label: as it is written where room is short.
        step: a capture that shows it.
        stage: the stage that shows it; "" where it is of no matrix.
    """

    layer: str
    label: str
    step: int
    stage: str


class Shown(NamedTuple):
    """One row of a finding's evidence; the place's layer is "" where it is of the whole run."""

    place: Place
    what: str
    value: str
    expected: str


class Told(NamedTuple):
    """One finding in words."""

    severity: Severity
    title: str
    layers: tuple[Place, ...]
    steps: str
    evidence: tuple[Shown, ...]
    cause: str
    advice: str

    @property
    def first(self) -> tuple[Place, ...]:
        """The layers that are named at once; all where only one would be left out."""
        return self.layers if len(self.layers) <= FEW + 1 else self.layers[:FEW]


class OfRun(NamedTuple):
    """What one run's section says.

    Attributes:
        summary: beside the run's name.
        findings: the worst first.
        nothing: where there are none: what that means.
        not_judged: titles of rules, and why they could not look.
    """

    run: str
    summary: str
    findings: tuple[Told, ...]
    nothing: str
    not_judged: tuple[tuple[str, str], ...]


def counts(looked: Sequence[Looked]) -> dict[Severity, int]:
    """Return how many findings there are of each severity, over some runs."""
    found = [one.diagnosis for one in looked if one.diagnosis is not None]
    return {severity: sum(one.count(severity) for one in found) for severity in SEVERITIES}


def counted(count: int, word: str) -> str:
    """Return a count and its word; severe ones have no plural.

    >>> counted(1, "warning"), counted(2, "warning"), counted(2, "severe")
    ('1 warning', '2 warnings', '2 severe')
    """
    return f"{whole(count)} {word}{'s' * (count != 1 and word != 'severe')}"


def of_run(trace: Trace, looked: Looked | None) -> OfRun:
    """Return what is said of one run.

    Args:
        trace: the run.
        looked: what is known of it; None where nobody looked yet.
    """
    if looked is None:
        return OfRun(trace.name, "", (), "Not looked at yet.", ())
    found = looked.diagnosis
    if found is None:
        return OfRun(trace.name, "", (), f"Could not be judged: {looked.problem}", ())
    labels = _labels(trace)
    titles = {rule.name: rule.title for rule in RULES}
    return OfRun(
        run=trace.name,
        summary=_summary(looked),
        findings=tuple(_told(one, labels) for one in found.findings),
        nothing="" if found.findings else _nothing(len(found.judged)),
        not_judged=tuple((titles[name], why) for name, why in found.not_judged.items()),
    )


def _nothing(judged: int) -> str:
    if not judged:
        return "No rule could look, so nothing is known."
    return f"Nothing was found by {counted(judged, 'rule')}."


def _summary(looked: Looked) -> str:
    found = counts([looked])
    said = [counted(count, severity) for severity, count in found.items() if count]
    if said and looked.diagnosis is not None:
        judged, missed = len(looked.diagnosis.judged), len(looked.diagnosis.not_judged)
        said.append(f"{judged} of {judged + missed} rules could look")
    if looked.is_late and looked.step is not None:
        said.append(f"as of step {whole(looked.step)}")
    return " \N{MIDDLE DOT} ".join(said)


def _told(finding: Finding, labels: Mapping[str, str]) -> Told:
    # A layer is opened where it is worst; where that is not told, at the last capture of all.
    worst: dict[str, Evidence] = {}
    for one in finding.evidence:
        worst.setdefault(one.layer, one)
    last = finding.steps[-1] if finding.steps else 0
    stage = next((one.stage for one in finding.evidence if one.stage), "")

    def place(layer: str) -> Place:
        seen = worst.get(layer)
        step = last if seen is None else seen.step
        return Place(layer, labels.get(layer, layer), step, (seen.stage if seen else "") or stage)

    return Told(
        severity=finding.severity,
        title=finding.title,
        layers=tuple(place(layer) for layer in finding.layers),
        steps=_steps(finding.steps),
        evidence=tuple(
            Shown(
                Place(one.layer, labels.get(one.layer, one.layer), one.step, one.stage),
                _what(one),
                number(one.value),
                one.expected,
            )
            for one in finding.evidence
        ),
        cause=finding.cause,
        advice=finding.advice,
    )


def _what(one: Evidence) -> str:
    metric = METRICS.get(one.what)
    what = metric.title if metric else one.what.replace("_", " ")
    stage = f" ({one.stage.replace('_', ' ')})" if one.stage not in ("", "update") else ""
    return f"{what[:1].upper()}{what[1:]}{stage}"


def _steps(steps: Sequence[int]) -> str:
    """Write the captures that show a finding.

    >>> _steps([10]), _steps([10, 20, 40]), _steps([])
    ('step 10', 'steps 10 to 40 (3 captures)', '')
    """
    if len(steps) < 2:
        return "".join(f"step {whole(step)}" for step in steps)
    return f"steps {whole(steps[0])} to {whole(steps[-1])} ({whole(len(steps))} captures)"


def _labels(trace: Trace) -> dict[str, str]:
    """Return a short label per layer; layers that would share one are written by name."""
    plain = {layer.name: layer_place(layer, limit=36) for layer in trace.layers}
    shared = Counter(plain.values())
    return {
        name: label if shared[label] == 1 else shorten(name, 48) for name, label in plain.items()
    }


class Piece(NamedTuple):
    """One piece of what the header says.

    Attributes:
        text: a count and its word.
        kind: ``severe``, ``warning`` (findings, not all of them severe), or ``quiet``.
    """

    text: str
    kind: str


def head(looked: Sequence[Looked | None]) -> tuple[Piece, ...] | None:
    """Return what the header says of the runs under comparison; None while one is not known.

    Notes count as findings nowhere but in their own section: nothing need be wrong.

    Args:
        looked: what is known of each run.
    """
    known = [one for one in looked if one is not None]
    if not known or len(known) < len(looked):
        return None
    found = counts(known)
    failed = sum(one.diagnosis is None for one in known)
    count = found["severe"] + found["warning"]
    pieces = []
    if count > found["severe"]:
        pieces.append(Piece(counted(count, "finding"), "warning"))
        if found["severe"]:
            pieces.append(Piece(counted(found["severe"], "severe"), "severe"))
    elif count:
        pieces.append(Piece(counted(count, "severe finding"), "severe"))
    if not count and found["note"]:
        pieces.append(Piece(counted(found["note"], "note"), "quiet"))
    if failed:
        pieces.append(Piece(f"{counted(failed, 'run')} not judged", "quiet"))
    return tuple(pieces) or (Piece("no findings", "quiet"),)
