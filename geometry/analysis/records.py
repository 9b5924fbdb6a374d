"""What is recorded of raw matrices, and which of it an analysis may fill in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from optgeom.geometry.catalogue import columns
from optgeom.traces.info import LayerInfo
from optgeom.traces.schema import KEYS
from optgeom.traces.store import Trace

ANALYSIS_VERSION = 1
"""Raised when the analysis computes more: rows of a lower version are analyzed again."""

MARK = "analysis_version"
COLUMNS: Mapping[str, str] = {
    **columns("metrics"),
    **columns("spectra"),
    "status": "string",
    "spectrum_status": "string",
    "spectrum_method": "string",
}
"""What an analysis may fill in, with Arrow types."""

_FACTS = (
    "lr",
    "source",
    "status",
    "spectrum_status",
    "noise_floor",
    "lost_update_fraction",
    "condition_number",
    "nuclear_norm",
    "operand_dtype",
)
_NO_SPECTRUM = frozenset({"lost", "zero", "non_finite"})


@dataclass(frozen=True, slots=True)
class Record:
    """What is recorded of a cell.

    Attributes:
        keys: Its key columns.
        facts: The values that measuring looks at.
        there: Names of the columns that are not null.
    """

    keys: Mapping[str, Any]
    facts: Mapping[str, Any]
    there: frozenset[str]

    def lacks(self, *names: str) -> bool:
        """Whether one of the columns is null."""
        return not self.there.issuperset(names)

    @property
    def is_measurable(self) -> bool:
        """Whether the capture found a finite matrix that is not zero, or did not look."""
        return self.facts.get("status") not in ("zero", "non_finite")

    @property
    def may_have_spectrum(self) -> bool:
        """Whether the capture did not refuse a spectrum for good."""
        return self.facts.get("spectrum_status") not in _NO_SPECTRUM

    @property
    def is_done(self) -> bool:
        """Whether an analysis of this version has measured it."""
        return (self.facts.get(MARK) or 0) >= ANALYSIS_VERSION


def unrecorded(trace: Trace, layer: LayerInfo, step: int, stage: str, attempt: int) -> Record:
    """The record of a cell of which there is only the raw matrix."""
    keys = {
        "run": trace.info.run,
        "attempt": attempt,
        "step": step,
        "optimizer": layer.optimizer,
        "layer": layer.name,
        "kind": layer.kind,
        "block": layer.block,
        "stage": stage,
    }
    return Record(keys, {}, frozenset())


def records_of(trace: Trace) -> dict[tuple[int, str, str], Record]:
    """What is recorded, and derived, of the steps with raw matrices, by step, layer and stage."""
    steps = trace.steps(stage=None, table="updates")
    table = trace.metrics()
    table = table.filter(pc.is_in(table["step"], value_set=pa.array(steps, pa.int64())))
    names = [name for name in COLUMNS if name in table.schema.names]
    there = np.array([table[name].is_valid().to_numpy() for name in names]).reshape(len(names), -1)
    seen: dict[bytes, frozenset[str]] = {}
    read = [name for name in (*KEYS, *_FACTS, MARK) if name in table.schema.names]
    found = {}
    for row, valid in zip(table.select(read).to_pylist(), there.T, strict=True):
        which = valid.tobytes()
        if which not in seen:
            seen[which] = frozenset(np.array(names)[valid].tolist())
        keys = {name: row[name] for name in KEYS}
        facts = {name: row[name] for name in row if name not in KEYS}
        found[row["step"], row["layer"], row["stage"]] = Record(keys, facts, seen[which])
    return found
