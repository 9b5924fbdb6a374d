"""What a recorder says of itself before the run: every parameter, and what it will cost on disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from optgeom.hooks.clock import Clocks
from optgeom.hooks.layers import Decision, Layer
from optgeom.traces import markup

ROW_BYTES = 80
"""Bytes on disk of a row of metrics, or of spectra without its values: 76 in the demo's traces."""

ROWS = 200
"""Parameters that a notebook shows."""

_NAMES = 60
"""Characters of a name's column; longer names push their line to the right, uncut."""


@dataclass(frozen=True, slots=True, repr=False)
class Description:
    """Every parameter's decision, and the expected size of the trace; printed as a table."""

    decisions: tuple[Decision, ...]
    megabytes_per_1000_steps: float

    def __str__(self) -> str:
        """One line per parameter under a heading, then what is captured and left out in short."""
        rows = [
            ("parameter", "stored", "captured as", "what it is, or why not"),
            *(
                (d.name, _size(d.shape), _matrices(d), "; ".join([d.reason, *d.notes]))
                for d in self.decisions
            ),
        ]
        name = min(_NAMES, max(len(row[0]) for row in rows))
        stored, matrices = (max(len(row[i]) for row in rows) for i in (1, 2))
        lines = [
            f"{row[0]:{name}}  {row[1]:>{stored}}  {row[2]:>{matrices}}  {row[3]}" for row in rows
        ]
        return "\n".join([*lines, "", *self._summary()])

    __repr__ = __str__  # the prompt shows the table, and a notebook a page of it

    def _repr_html_(self) -> str:
        rows = [
            (d.name, _size(d.shape), _matrices(d), "; ".join([d.reason, *d.notes]))
            for d in self.decisions[:ROWS]
        ]
        heads = ("parameter", "stored", "captured as", "what it is, or why not")
        more = len(self.decisions) - ROWS
        said = [f"{more:,} more parameters: print() shows all"] if more > 0 else []
        said += [line for line in self._summary() if line]
        table = markup.columns(heads, rows, right=(1, 2), wrap=(0, 3))
        return markup.shown("What is captured", "", table, markup.listed(said))

    @property
    def table(self) -> pa.Table:
        """A row per parameter: name, shape, captured, matrices (kind and shape), reason, notes."""
        shape = pa.list_(pa.int64())
        matrices = pa.list_(pa.struct([("kind", pa.string()), ("shape", shape)]))
        each = self.decisions
        return pa.table(
            {
                "parameter": pa.array([d.name for d in each], pa.string()),
                "shape": pa.array([list(d.shape) for d in each], shape),
                "captured": pa.array([d.captured for d in each], pa.bool_()),
                "matrices": pa.array(
                    [[{"kind": k, "shape": list(s)} for k, s in d.matrices] for d in each],
                    matrices,
                ),
                "reason": pa.array([d.reason for d in each], pa.string()),
                "notes": pa.array([list(d.notes) for d in each], pa.list_(pa.string())),
            }
        )

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table, as Arrow hands it over: polars.DataFrame(found), duckdb.sql("from found")."""
        return self.table.__arrow_c_stream__(requested_schema)

    def _summary(self) -> list[str]:
        kinds = Counter(kind for d in self.decisions for kind, _ in d.matrices)
        reasons = Counter(d.reason for d in self.decisions if not d.captured)
        held = sum(d.captured for d in self.decisions)
        lines = [
            f"captured: {_count(kinds.total(), 'matrix', 'matrices')} of "
            f"{_count(held, 'parameter')}: {_counted(kinds)}"
        ]
        if reasons:
            left_out = _count(reasons.total(), "parameter")
            lines.append(f"left out: {left_out}: {_counted(reasons, ' x', '; ')}")
        return [*lines, f"about {self.megabytes_per_1000_steps:.3g} MB per 1000 steps"]


def describe(
    decisions: tuple[Decision, ...],
    layers: Sequence[Layer],
    clocks: Clocks | Sequence[Clocks],
    stages: int,
) -> Description:
    """Put the decisions and the expected size together.

    Args:
        decisions: one per parameter.
        layers: the captured ones.
        clocks: the cadences of all layers, or of each; the budget may make the trace smaller,
            never larger, and so may their start and stop.
        stages: how many stages each layer records.
    """
    each = [clocks] * len(layers) if isinstance(clocks, Clocks) else clocks
    total = sum(_bytes_per_step(layer, own) for layer, own in zip(layers, each, strict=True))
    return Description(decisions, stages * total * 1000 / 1e6)


def values_of(shape: tuple[int, int]) -> tuple[int, int, int]:
    """How many numbers a capture of a matrix stores: of its neurons, spectrum, entries.

    >>> values_of((4, 3))
    (4, 3, 12)
    """
    return shape[0], min(shape), math.prod(shape)


def _bytes_per_step(layer: Layer, clocks: Clocks) -> float:
    neurons, singular, entries = values_of(layer.shape)
    norms = (4 * neurons + ROW_BYTES) / clocks.every
    spectra = clocks.burst * (4 * singular + ROW_BYTES) / clocks.spectra_every
    if not clocks.updates_every:
        return norms + spectra
    return norms + spectra + clocks.burst * 4 * entries / clocks.updates_every


def _size(shape: Iterable[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _matrices(decision: Decision) -> str:
    """The captured matrices, those of one shape together: "(2048, 64) + 2 x (512, 64)"."""
    sizes = Counter(_size(shape) for _, shape in decision.matrices)
    return " + ".join(size if n == 1 else f"{n} x {size}" for size, n in sizes.items()) or "-"


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _counted(what: Counter[str], times: str = "", between: str = ", ") -> str:
    return between.join(f"{number}{times} {name}" for name, number in what.items())
