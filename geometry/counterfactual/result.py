"""What computing rules gives: traces, a summary by layer or kind, and the answer in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from optgeom.geometry.compare import compare
from optgeom.geometry.comparison.result import Comparison, number
from optgeom.geometry.counterfactual.findings import findings
from optgeom.geometry.counterfactual.rule import Rule
from optgeom.geometry.counterfactual.summary import Row, spread, summarized
from optgeom.traces import markup
from optgeom.traces.store import Trace

By = Literal["layer", "kind"]

_DASH = "\N{EN DASH}"
_ARROW = "\N{RIGHTWARDS ARROW}"

_COLUMNS: Mapping[str, pa.DataType] = {
    "rule": pa.string(),
    "layer": pa.string(),
    "kind": pa.string(),
    "block": pa.int16(),
    "layers": pa.int64(),
    "cells": pa.int64(),
    "computed": pa.int64(),
    "compared": pa.int64(),
    "young": pa.int64(),
    "neuron_norm_cv_applied": pa.float64(),
    "neuron_norm_cv_computed": pa.float64(),
    "condition_number_applied": pa.float64(),
    "condition_number_applied_is_bound": pa.bool_(),
    "condition_number_computed": pa.float64(),
    "condition_number_computed_is_bound": pa.bool_(),
    "update_rms_ratio": pa.float64(),
    "cosine_applied": pa.float64(),
    "why": pa.string(),
}


@dataclass(frozen=True, slots=True, repr=False)
class WhatIf:
    """What rules would have applied at the captured steps of a run; printed as a table.

    Attributes:
        trace: The run.
        traces: The computed trace of each rule, open, by the rule's name.
        rules: The rules.
        line: The line of code that captures what they need of a run like this one.
    """

    trace: Trace
    traces: Mapping[str, Trace]
    rules: Mapping[str, Rule]
    line: str

    @property
    def answers(self) -> bool:
        """Whether any rule has an update that a median is of."""
        return any(map(self.has_answer, self.traces))

    def has_answer(self, rule: str) -> bool:
        """Whether one of them has."""
        return any(row.computed > row.young for row in self.rows(rule, "kind"))

    def summary(self, by: By = "layer") -> pa.Table:
        """Applied against computed, medians over the steps at which both have the number.

        Args:
            by: "layer", or "kind" of layer; layers of the kind "other" have a row each, for nothing
                says that they are alike.

        Returns:
            A row for each rule and layer (or kind, with layer and block null), in the model's
            order:

            - rule, layer, kind, block, and layers: of how many it is
            - cells: captured steps of them; computed: of those, how many have a computed update;
              young: how many of these are in no median, for they are of the run's first steps, at
              which a second moment that began at zero, the rule's or the run's own, evens
              everything out; compared: how many have the CV of both
            - neuron_norm_cv_applied, _computed; condition_number_applied, _computed, and whether
              these medians are lower bounds, at the noise floor
            - update_rms_ratio: the median of computed over applied, at the run's own lr
            - cosine_applied: the median cosine of the computed to the applied update, where raw
              updates are recorded
            - why: why there is no number, or what the numbers lack; else empty
        """
        rows = [row for name in self.traces for row in self.rows(name, by)]
        return pa.table(
            {
                name: pa.array([getattr(row, name) for row in rows], kind)
                for name, kind in _COLUMNS.items()
            }
        )

    def rows(self, rule: str, by: By = "kind") -> tuple[Row, ...]:
        """The rows of one rule's summary."""
        return summarized(self.trace, self.traces[rule], rule, by)

    def findings(self, rule: str) -> tuple[str, ...]:
        """Would this rule change anything, and in which layers? A sentence each.

        Args:
            rule: A name among `rules`.
        """
        return findings(
            self.rules[rule],
            self.trace.name,
            self.traces[rule].info.computed,
            self.rows(rule, "kind"),
            self.rows(rule, "layer"),
            self.line,
        )

    def compare(self, **asked: Any) -> Comparison:
        """The run and all computed traces side by side, by kind of layer.

        Args:
            **asked: metrics, steps, as of `optgeom.compare`.
        """
        computed = {trace.name: trace for trace in self.traces.values()}
        return compare(
            {self.trace.name: self.trace, **computed}, reference=self.trace.name, **asked
        )

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {
            "run": self.trace.name,
            "rules": [
                {
                    "rule": name,
                    "trace": trace.path,
                    "computed": dict(trace.info.computed),
                    "findings": list(self.findings(name)),
                }
                for name, trace in self.traces.items()
            ],
            "summary": self.summary().to_pylist(),
        }

    def __str__(self) -> str:
        """A table of one row per kind for each rule, and the answer below."""
        parts = []
        for name, rule in self.rules.items():
            lines = [f"{rule.title}, computed from {self.trace.name}", ""]
            rows = self.rows(name, "kind") if self.has_answer(name) else ()
            texts = [HEADS, *map(shown, rows)] if rows else []
            widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
            for kind, *numbers in texts:
                padded = [f"{one:>{w}}" for one, w in zip(numbers, widths[1:], strict=True)]
                lines.append("   ".join([f"{kind:<{widths[0]}}", *padded]).rstrip())
            lines += [""] if rows else []
            lines += [f"- {finding}" for finding in self.findings(name)]
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(self._shown(name) for name in self.rules)

    def _shown(self, rule: str) -> str:
        rows = self.rows(rule, "kind") if self.has_answer(rule) else ()
        numbers = range(1, len(HEADS))
        table = markup.columns(HEADS, map(shown, rows), right=numbers) if rows else ""
        beside = f"computed from {self.trace.name}"
        beside += f": applied {_ARROW} computed, medians" if rows else ": no medians"
        return markup.shown(
            self.rules[rule].title, beside, table, markup.listed(self.findings(rule))
        )

    @property
    def table(self) -> pa.Table:
        """`summary()`: a row for each rule and layer."""
        return self.summary()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table, as Arrow hands it over: polars.DataFrame(found), duckdb.sql("from found")."""
        return self.table.__arrow_c_stream__(requested_schema)


HEADS = ("", "cells used", "CV of neuron norms", "condition number", "RMS ratio", "cosine")
"""What stands above the columns of `shown`."""


def shown(row: Row) -> tuple[str, ...]:
    """A row as text: applied, an arrow, computed; a dash where there is no number."""
    return (
        row.name,
        f"{row.computed - row.young:,} of {row.cells:,}",
        _both(row.neuron_norm_cv_applied, row.neuron_norm_cv_computed),
        _both(
            row.condition_number_applied,
            row.condition_number_computed,
            row.condition_number_applied_is_bound,
            row.condition_number_computed_is_bound,
        ),
        _DASH if row.update_rms_ratio is None else f"{number(row.update_rms_ratio, 2)} \u00d7",
        _DASH if row.cosine_applied is None else f"{row.cosine_applied:.2f}",
    )


def _both(
    applied: float | None, computed: float | None, low: bool = False, high: bool = False
) -> str:
    def one(value: float | None, is_bound: bool) -> str:
        if value is None:
            return _DASH
        return f"\N{GREATER-THAN OR EQUAL TO}{number(value)}" if is_bound else spread(value)

    if applied is None and computed is None:
        return _DASH
    return f"{one(applied, low)} {_ARROW} {one(computed, high)}"
