"""What diagnosing gives: findings in plain words, each with its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from optgeom.traces import markup

Severity = Literal["severe", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("severe", "warning", "note")
"""From what makes a run worthless to what is only worth knowing."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One value that a finding rests on.

    Attributes:
        layer: Its name; "" for what concerns the whole run.
        step: Where it was captured.
        stage: Of which matrix; "" for what is no matrix's.
        what: A metric's name, or what the value is in a few words.
        value: The value; None where there is none.
        expected: What it would be if nothing were wrong, in a few words.
    """

    layer: str
    step: int
    stage: str
    what: str
    value: float | None
    expected: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        rule: The name of the rule that found it.
        severity: "severe": the optimizer is not the one that was meant; "warning": something
            should be looked at; "note": nothing need be wrong.
        title: One plain sentence, with numbers.
        layers: That it concerns, in the model's order; empty where it is the whole run.
        steps: The captures that show it, ascending.
        evidence: A few values, the worst first.
        cause: What it most likely comes from.
        advice: What to try.
    """

    rule: str
    severity: Severity
    title: str
    layers: tuple[str, ...]
    steps: tuple[int, ...]
    evidence: tuple[Evidence, ...]
    cause: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {
            **asdict(self),
            "layers": list(self.layers),
            "steps": list(self.steps),
            "evidence": [asdict(one) for one in self.evidence],
        }


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis:
    """What was found in one run, and what could not be looked for; printed as a line each.

    Attributes:
        run: Its name.
        findings: By severity, the worst first.
        judged: Names of the rules that could look.
        not_judged: From the names of the other rules to why they could not.
    """

    run: str
    findings: tuple[Finding, ...]
    judged: tuple[str, ...]
    not_judged: Mapping[str, str]

    @property
    def found(self) -> bool:
        """Whether anything severe or worth a warning was found: notes alone are none."""
        return any(one.severity != "note" for one in self.findings)

    def count(self, severity: Severity) -> int:
        """How many findings have a severity."""
        return sum(one.severity == severity for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {
            "run": self.run,
            "findings": [one.to_json() for one in self.findings],
            "judged": list(self.judged),
            "not_judged": dict(self.not_judged),
        }

    def __str__(self) -> str:
        """A line per finding."""
        lines = [f"{one.severity}: {one.title}" for one in self.findings]
        return "\n".join(lines or [f"{self.run}: nothing was found"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _html(self)

    @property
    def table(self) -> pa.Table:
        """A row per finding: rule, severity, title, layers, steps, evidence, cause, advice."""
        rows = [one.to_json() for one in self.findings]
        return pa.Table.from_pylist(rows, schema=_SCHEMA)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table, as Arrow hands it over: polars.DataFrame(found), duckdb.sql("from found")."""
        return self.table.__arrow_c_stream__(requested_schema)


_EVIDENCE = pa.struct(
    [
        ("layer", pa.string()),
        ("step", pa.int64()),
        ("stage", pa.string()),
        ("what", pa.string()),
        ("value", pa.float64()),
        ("expected", pa.string()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("rule", pa.string()),
        ("severity", pa.string()),
        ("title", pa.string()),
        ("layers", pa.list_(pa.string())),
        ("steps", pa.list_(pa.int64())),
        ("evidence", pa.list_(_EVIDENCE)),
        ("cause", pa.string()),
        ("advice", pa.string()),
    ]
)


def _html(found: Diagnosis) -> str:
    looked = f"{len(found.judged)} of {len(found.judged) + len(found.not_judged)} rules could look"
    heads = ("", "what was found", "most likely from", "try")
    rows = [(one.severity, one.title, one.cause, one.advice) for one in found.findings]
    table = markup.columns(heads, rows, wrap=(1, 2, 3)) if rows else ""
    counts = [f"{found.count(one)} {one}" for one in SEVERITIES if found.count(one)]
    said = f"{', '.join(counts) or 'nothing was found'}; {looked}"
    rules: dict[str, list[str]] = {}
    for rule, why in found.not_judged.items():
        rules.setdefault(why, []).append(rule)
    blind = [f"not judged: {', '.join(names)}: {why}" for why, names in rules.items()]
    return markup.shown(found.run, said, table, markup.listed(blind))
