"""What an audit found: answers with what was measured, and expectations for anyone's CI."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from optgeom.hooks.auditing.subject import AuditError
from optgeom.traces import markup

UNKNOWN = "unknown"
NOTHING = "Nothing was found that you should know before training."
Severity = Literal["severe", "warning", "note"]


class ExpectationFailed(AuditError, AssertionError):
    """The optimizer does something else than `expect` was told; the message lists what."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question and what was found.

    Attributes:
        value: of JSON's types; "unknown" rather than the nearest name; None where there is no such
            thing, as the second moment of an optimizer that does not normalize.
        measured: what was seen, in words.
        tolerance: relative, of numbers: how far an expectation may be from the value.
    """

    value: Any
    measured: str
    tolerance: float = 0.01

    def meets(self, wanted: Any) -> bool:
        """Whether an expectation is met; lists of two numbers number by number."""
        if isinstance(wanted, list | tuple) and isinstance(self.value, list):
            pairs = zip(self.value, wanted, strict=False)
            return len(wanted) == len(self.value) and all(self._near(*pair) for pair in pairs)
        return self._near(self.value, wanted)

    def _near(self, value: Any, wanted: Any) -> bool:
        if _is_number(value) and _is_number(wanted):
            return bool(abs(value - wanted) <= self.tolerance * max(abs(wanted), abs(value)))
        return type(value) is type(wanted) and bool(value == wanted)


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """Something that a user should know before training with it.

    Attributes:
        severity: "severe" it does not do what it says; "warning" it does what hardly anyone means;
            "note" good to know.
        text: what, in one or two plain sentences.
    """

    severity: Severity
    text: str


@dataclass(frozen=True, slots=True, repr=False)
class AuditReport:
    """What an optimizer really does; printed as a table.

    Attributes:
        optimizer: the class's name.
        settings: of its first group.
        answers: by question; `report["momentum"]` is the value alone.
        gradients: what became of zero, missing, tiny, huge, ... gradients.
        ranks: what became of each case of two ranks.
        curve: singular values in, over the Frobenius norm, and out; empty where it does not act on
            singular values.
        findings: the most severe first.
    """

    optimizer: str
    settings: Mapping[str, Any]
    answers: Mapping[str, Answer]
    gradients: Mapping[str, str]
    ranks: Mapping[str, str]
    curve: tuple[tuple[float, ...], tuple[float, ...]]
    findings: tuple[AuditFinding, ...]

    def __getitem__(self, name: str) -> Any:
        return self._answer(name).value

    def __str__(self) -> str:
        """A line per answer, and the findings below."""
        rows = [(name, plain(one.value), one.measured) for name, one in self.answers.items()]
        name, value = (max((len(row[place]) for row in rows), default=0) for place in (0, 1))
        lines = [f"{row[0]:{name}}  {row[1]:{value}}  {row[2]}".rstrip() for row in rows]
        said = [f"- {one.severity}: {one.text}" for one in self.findings]
        return "\n".join([self.optimizer, "", *lines, "", *(said or [f"- {NOTHING}"])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        settings = ", ".join(f"{name}={plain(value)}" for name, value in self.settings.items())
        rows = [(name, plain(one.value), one.measured) for name, one in self.answers.items()]
        table = markup.columns(("", "answer", "measured"), rows, wrap=(2,))
        said = [f"{one.severity}: {one.text}" for one in self.findings] or [NOTHING]
        beside = {"gradient": self.gradients, "two ranks": self.ranks}
        for title, cases in beside.items():
            said += [f"{title}, {one}: {text.partition('. ')[0]}" for one, text in cases.items()]
        return markup.shown(self.optimizer, settings, table, markup.listed(said))

    @property
    def table(self) -> pa.Table:
        """A row per answer: its name, its value as text (null where there is none), measured."""
        found = list(self.answers.items())
        return pa.table(
            {
                "answer": pa.array([name for name, _ in found], pa.string()),
                "value": pa.array([_text(one.value) for _, one in found], pa.string()),
                "measured": pa.array([one.measured for _, one in found], pa.string()),
            }
        )

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table, as Arrow hands it over: polars.DataFrame(found), duckdb.sql("from found")."""
        return self.table.__arrow_c_stream__(requested_schema)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is worse than a note."""
        return all(finding.severity == "note" for finding in self.findings)

    def expect(self, **wanted: Any) -> None:
        """Assert what the optimizer should do, in anyone's CI.

        Numbers may differ by the tolerance of their answer, 1 % unless the measurement is coarser.

        Args:
            **wanted: values by the names of the answers: `neuron_axis="rows"`, `momentum=0.95`.

        Raises:
            ExpectationFailed: something else was found, or nothing could be.
            AuditError: there is no such answer; names the nearest.
        """
        failed = [
            f"{name}: expected {value!r}, found {answer.value!r} ({answer.measured})"
            for name, value in wanted.items()
            if not (answer := self._answer(name)).meets(value)
        ]
        if failed:
            raise ExpectationFailed(f"{self.optimizer}: {'; '.join(failed)}")

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types: the answers' values, and beside them how they were found."""
        return {
            "optimizer": self.optimizer,
            "settings": dict(self.settings),
            **{name: answer.value for name, answer in self.answers.items()},
            "measured": {name: answer.measured for name, answer in self.answers.items()},
            "gradients": dict(self.gradients),
            "ranks": dict(self.ranks),
            "curve": {"in": list(self.curve[0]), "out": list(self.curve[1])},
            "findings": [asdict(finding) for finding in self.findings],
        }

    def _answer(self, name: str) -> Answer:
        if name not in self.answers:
            near = difflib.get_close_matches(name, self.answers, n=2) or list(self.answers)[:3]
            raise AuditError(f"no answer is called {name!r}: try {' or '.join(near)}")
        return self.answers[name]


def plain(value: object) -> str:
    """A value of an audit or of settings, for people.

    >>> [plain(value) for value in (None, True, [0.68, 1.13], 0.95, "rows")]
    ['-', 'yes', '0.68 to 1.13', '0.95', 'rows']
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        is_band = len(value) == 2 and all(isinstance(one, float) for one in value)
        return f"{value[0]:g} to {value[1]:g}" if is_band else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str | None:
    """A word as it is, and JSON of what is none, for answers are of several types."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
