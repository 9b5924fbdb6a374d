"""What comparing runs gives: a table, the steps it is of, and what has to be said beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from optgeom.geometry.catalogue import METRICS
from optgeom.traces import markup

_DASH = "\N{EN DASH}"
_GAP = "\N{EM SPACE}"


class Shown(NamedTuple):
    """One run's numbers of a metric and a kind as text; "" where there is none."""

    median: str
    quartiles: str
    ratio: str


class Block(NamedTuple):
    """One metric: its title and name, and for each kind of layer a Shown per run."""

    title: str
    metric: str
    rows: tuple[tuple[str, tuple[Shown, ...]], ...]


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """Runs side by side, kind of layer by kind of layer; printed as a table.

    Attributes:
        table: One row per kind, metric and run, in the models' order:

            - kind, metric, run
            - median, q25, q75: over layers and steps, by linear interpolation; null without values
            - count: how many values that is, of how many layers and steps; left_out: how many more
              the run has, that not every compared run measured at the same step and layer
            - bounds: how many of the count are lower bounds, at the noise floor
            - median_is_bound, q25_is_bound, q75_is_bound: whether it would rise with them
            - ratio: the median over that of the reference, same kind and metric; null where not
              comparable. It is the number to publish, and follows from the published medians; it
              is not the median of the ratios of single cells.
            - comparable, and why: a sentence where it is false, else empty
        stage: What was compared.
        reference: The run that ratios are to.
        runs: All runs, in order.
        steps: That every run shares which shares any with the reference.
        findings: What was left out, what is a bound, what is not comparable; each a sentence.
    """

    table: pa.Table
    stage: str
    reference: str
    runs: tuple[str, ...]
    steps: tuple[int, ...]
    findings: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """Whether any run has a ratio to the reference."""
        return any(
            row["comparable"] for row in self.table.to_pylist() if row["run"] != self.reference
        )

    @property
    def title(self) -> str:
        """What the numbers are."""
        reach = "no shared step"
        if self.steps:
            reach = f"{len(self.steps):,} steps from {self.steps[0]:,} to {self.steps[-1]:,}"
        return f"{self.stage}, {reach}: median, quartiles, ratio to the median of {self.reference}"

    def blocks(self) -> tuple[Block, ...]:
        """The table as text, metric by metric: how it is printed everywhere."""
        found: dict[str, dict[str, dict[str, Shown]]] = {}
        for row in self.table.to_pylist():
            kinds = found.setdefault(row["metric"], {})
            kinds.setdefault(row["kind"], {})[row["run"]] = _shown(row, self.reference)
        return tuple(
            Block(
                METRICS[metric].title,
                metric,
                tuple((kind, tuple(one[run] for run in self.runs)) for kind, one in kinds.items()),
            )
            for metric, kinds in found.items()
        )

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {
            "stage": self.stage,
            "reference": self.reference,
            "runs": list(self.runs),
            "steps": list(self.steps),
            "findings": list(self.findings),
            "table": self.table.to_pylist(),
        }

    def __str__(self) -> str:
        """A heading, a table of one row per kind under each metric's name, and the findings."""
        lines = [self.title, "", *_plain(self.runs, self.blocks())]
        return "\n".join([*lines, "", *(f"- {finding}" for finding in self.findings)])

    __repr__ = __str__  # a notebook's last line, and the prompt, show the table

    def _repr_html_(self) -> str:
        return _html(self)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table, as Arrow hands it over: polars.DataFrame(found), duckdb.sql("from found")."""
        return self.table.__arrow_c_stream__(requested_schema)


def _shown(row: Mapping[str, Any], reference: str) -> Shown:
    if row["median"] is None:
        return Shown(_DASH, "", "")
    q25, q75 = (_bound(row[key], row[f"{key}_is_bound"]) for key in ("q25", "q75"))
    between = " to " if row["q25"] < 0 or row["q75_is_bound"] else _DASH
    ratio = _DASH if row["ratio"] is None else f"{number(row['ratio'], 2)} \N{MULTIPLICATION SIGN}"
    return Shown(
        _bound(row["median"], row["median_is_bound"]),
        f"{q25}{between}{q75}",
        "" if row["run"] == reference else ratio,
    )


def number(value: float, digits: int = 3) -> str:
    """Write a number for people, as the figures do: no more digits, whole ones up to a million.

    >>> number(0.08321), number(3.3), number(12412.0), number(1.23e6), number(0.25, 2)
    ('0.0832', '3.3', '12,400', '1.23e6', '0.25')
    """
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,g}".replace("e+0", "e").replace("e-0", "e-")


def _bound(value: float, is_bound: bool) -> str:
    written = number(value)
    return f"\N{GREATER-THAN OR EQUAL TO}{written}" if is_bound else written


def aligned(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Pad what is shown, so that medians, quartiles and ratios of a run stand below each other."""
    every = [shown for block in blocks for _, shown in block.rows]
    widths = [
        [max(map(len, part)) for part in zip(*column, strict=True)]
        for column in zip(*every, strict=True)
    ]

    def pad(one: Shown, width: Sequence[int]) -> Shown:
        median, quartiles, ratio = width
        return Shown(
            f"{one.median:>{median}}", f"{one.quartiles:<{quartiles}}", f"{one.ratio:>{ratio}}"
        )

    return tuple(
        block._replace(
            rows=tuple(
                (kind, tuple(pad(one, width) for one, width in zip(shown, widths, strict=True)))
                for kind, shown in block.rows
            )
        )
        for block in blocks
    )


def _plain(runs: Sequence[str], blocks: Sequence[Block]) -> list[str]:
    table = [["", *runs]]
    for block in aligned(blocks):
        table += [[f"{block.title} ({block.metric})"]]
        table += [[kind, *map("  ".join, shown)] for kind, shown in block.rows]
    rows = [row for row in table if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in table:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        lines += [""] if len(row) == 1 else []
        lines.append((row[0] if len(row) == 1 else "   ".join(cells)).rstrip())
    return lines


def _html(found: Comparison) -> str:
    heads = [markup.cell(run, tag="th", span=3) for run in found.runs]
    rows = [[markup.cell(""), *heads]]
    for block in found.blocks():
        title = f"{block.title} ({block.metric})"
        rows.append([markup.cell(title, tag="th", span=1 + 3 * len(found.runs))])
        for kind, shown in block.rows:
            row = [markup.cell(kind)]
            for one in shown:
                row += [
                    markup.cell(one.median, side="right"),
                    markup.cell(one.quartiles, dim=True),
                    markup.cell(f"{one.ratio}{_GAP}", side="right"),
                ]
            rows.append(row)
    return markup.shown(
        "Comparison", found.title, markup.table(rows), markup.listed(found.findings)
    )
