"""docs/optimizers.md: every optimizer that was tried, how it was read, and how exactly.

Run `make table`; it needs the packages of `make optimizers`.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

import optgeom
from tests.optimizers.case import STEPS, Case
from tests.optimizers.examine import Finding, examine

DOCUMENT = Path(__file__).parents[2] / "docs" / "optimizers.md"
COLUMNS = ("optimizer", "form", "source", "decay_form", "largest error", "held against", "notes")


@dataclass(frozen=True)
class Row:
    """A line of the table: the forms of one optimizer that came out alike.

    Attributes:
        error: not compared, for its digits are one machine's.
    """

    package: str
    optimizer: str
    form: str
    source: str
    decay_form: str
    oracle: str
    notes: str
    error: float | None = None

    @property
    def said(self) -> tuple[str, ...]:
        """Everything but the number."""
        kept = (self.optimizer, self.form, self.source, self.decay_form, self.oracle, self.notes)
        return (self.package, *map(_cell, kept))

    @property
    def line(self) -> str:
        """As Markdown."""
        error = "" if self.error is None else f"{self.error:.1e}"
        cells = (*self.said[1:5], error, *self.said[5:])
        return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").strip()


def notes_of(case: Case, found: Finding) -> str:
    """Why a row is not read from operations, not held against a twin, or not to 1e-4."""
    notes = [f"not understood: {', '.join(f'`{name}`' for name in found.why)}"] if found.why else []
    if found.unverified:
        notes.append(f"{found.unverified} rows `unverified`")
    if case.stand_in:
        notes.append("by `applying()`")
    notes += filter(None, (case.why_oracle, case.why_tolerance))
    return "; ".join(notes)


def rows_of(cases: Iterable[Case]) -> list[Row]:
    """Examine cases; those of one optimizer that came out alike share a row, and like errors do."""
    alike: dict[tuple[str, ...], list[tuple[Case, Finding]]] = {}
    cannot: dict[tuple[str, str, str], list[str]] = {}
    for case in cases:
        found = examine(case)
        form = case.form or "as published"
        if found.cannot:
            cannot.setdefault((case.package, form, found.cannot), []).append(case.optimizer)
            continue
        said = (found.source, found.decay_form, case.oracle, notes_of(case, found))
        key = (case.package, case.optimizer, *said)
        alike.setdefault(key, []).append((case, found))
    rows = []
    for (package, optimizer, *said), members in alike.items():
        form = "; ".join(case.form or "as published" for case, _ in members)
        largest = max(found.error for _, found in members)
        rows.append(Row(package, optimizer, form, *said, largest))
    for (package, form, error), optimizers in cannot.items():
        notes = f"raises ``{error}``"
        rows.append(Row(package, ", ".join(optimizers), form, "cannot", "", "", notes))
    return rows


def packages_of(rows: Sequence[Row]) -> list[str]:
    """The packages in the order of the rows."""
    return list(dict.fromkeys(row.package for row in rows))


def said_in(text: str) -> set[tuple[str, ...]]:
    """What a document says of every row, its numbers left out."""
    said, package = set(), ""
    for line in text.splitlines():
        if line.startswith("## "):
            package = line[3:]
        elif line.startswith("| ") and not line.startswith(f"| {COLUMNS[0]} |"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            said.add((package, *cells[:4], *cells[5:]))
    return said


def document(rows: Sequence[Row]) -> str:
    """The page, from all rows."""
    parts = [_introduction(rows)]
    for package in packages_of(rows):
        parts += ["", f"## {package}", "", f"| {' | '.join(COLUMNS)} |", "|---" * 7 + "|"]
        parts += [row.line for row in rows if row.package == package]
    return "\n".join(parts) + "\n"


def _introduction(rows: Sequence[Row]) -> str:
    counts = "\n".join(_count(package, rows) for package in packages_of(rows))
    names = {"torch.optim": "torch", "pytorch-optimizer with einops": "einops"}
    versions = ", ".join(f"{names.get(p, p)} {version(names.get(p, p))}" for p in packages_of(rows))
    template = (Path(__file__).parent / "introduction.md").read_text()
    return template.format(
        steps=STEPS,
        today=date.today().isoformat(),
        machine=f"{platform.machine()}, Python {platform.python_version()}, a CPU, one thread",
        versions=f"optgeom {optgeom.__version__}, {versions}",
        counts=counts,
    )


def _count(package: str, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row.package == package]
    steps = {row.optimizer for row in own if row.source != "cannot"}
    otherwise = {row.optimizer for row in own if row.source not in ("cannot", "dispatch", "state")}
    never = {name for row in own for name in row.optimizer.split(", ")} - steps
    largest = max((row.error for row in own if row.error is not None), default=0.0)
    return (
        f"| {package} | {len(steps)} | {len(steps - otherwise)} | {len(otherwise)} "
        f"| {len(never)} | {largest:.1e} |"
    )


def main() -> None:
    """Examine everything and write the page."""
    from tests.optimizers import package_cases, pytorch_optimizer_cases, torch_cases

    torch.set_num_threads(1)
    modules = (torch_cases, pytorch_optimizer_cases, package_cases)
    DOCUMENT.write_text(document([row for module in modules for row in rows_of(module.CASES)]))


if __name__ == "__main__":
    main()
