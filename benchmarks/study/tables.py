"""What the repository keeps of the study: small CSV files, which its page and figures come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks.study.arms import ARMS
from benchmarks.study.experiment import Runs
from benchmarks.study.statistics import Curve
from optgeom.traces.errors import NotCaptured
from optgeom.traces.store import Trace, open_trace

FIGURE_1 = {"seed": 0, "layer": "blocks.2.mlp.up", "step": 300}
"""Which matrix is drawn: an up-projection in the middle of the depth, at half of the run."""

FIGURE_1_ARMS = ("adamw", "muon", "normuon")

METRICS = ("neuron_norm_cv", "condition_number")
DIGITS = 6
"""Significant ones of every number that is kept."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The study's results.

    Attributes:
        trials: arm, phase ("search" or "final"), lr, adamw_lr, seed, loss: one row a run.
        curves: arm, seed, step, loss: held-out loss of the final runs, in nats per byte.
        geometry: arm, seed, step, stage, kind, and the medians of ``METRICS`` over the blocks.
        figure_1: arm, stage, quantity ("singular_value" or "neuron_norm"), index, value.
        cost: arm, step_ms, ratio, low, high, state_bytes.
        about: Date, machine, settings.
    """

    trials: pa.Table
    curves: pa.Table
    geometry: pa.Table
    figure_1: pa.Table
    cost: pa.Table
    about: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write ``NAME.csv`` of each and ``about.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _CSV:
            csv.write_csv(getattr(self, name), folder / f"{name}.csv")
        (folder / "about.json").write_text(json.dumps(self.about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Tables:
        """Read what ``save`` has written."""
        tables = {name: csv.read_csv(folder / f"{name}.csv") for name in _CSV}
        return cls(**tables, about=json.loads((folder / "about.json").read_text()))

    def rate(self, arm: str) -> float:
        """The learning rate of a rule's final runs."""
        (rate,) = {r["lr"] for r in self._trials(arm, "final")}
        return float(rate)

    def search(self, arm: str) -> dict[float, float]:
        """From learning rate to loss, ascending."""
        return {r["lr"]: r["loss"] for r in self._trials(arm, "search")}

    def losses(self, arm: str) -> list[float]:
        """After the last step, by seed."""
        return [r["loss"] for r in self._trials(arm, "final")]

    def curves_of(self, arm: str) -> list[Curve]:
        """By seed."""
        found: dict[int, list[tuple[int, float]]] = {}
        for row in self.curves.to_pylist():
            if row["arm"] == arm:
                found.setdefault(row["seed"], []).append((row["step"], row["loss"]))
        return [sorted(found[seed]) for seed in sorted(found)]

    def cost_of(self, arm: str) -> dict[str, float]:
        """The row of one rule."""
        (row,) = (row for row in self.cost.to_pylist() if row["arm"] == arm)
        return dict(row)

    def _trials(self, arm: str, phase: str) -> list[dict[str, Any]]:
        rows = self.trials.to_pylist()
        return [row for row in rows if row["arm"] == arm and row["phase"] == phase]


_CSV = ("trials", "curves", "geometry", "figure_1", "cost")


def collect(runs: Runs, folder: Path, *, cost: pa.Table, about: Mapping[str, Any]) -> Tables:
    """Bring together what the runs and their traces hold.

    Args:
        runs: All of them.
        folder: Of the study.
        cost: As in ``Tables``.
        about: As in ``Tables``.
    """
    trials, curves, geometry, figure_1 = [], [], [], []
    for arm in ARMS:
        for phase, outcomes in (("search", runs.searches[arm]), ("final", runs.finals[arm])):
            trials += [
                {
                    "arm": arm,
                    "phase": phase,
                    "lr": one.trial.lr,
                    "adamw_lr": one.trial.adamw_lr,
                    "seed": one.trial.seed,
                    "loss": _rounded(one.loss),
                }
                for one in outcomes
            ]
        for one in runs.finals[arm]:
            run = {"arm": arm, "seed": one.trial.seed}
            curves += [{**run, "step": step, "loss": _rounded(loss)} for step, loss in one.curve]
            trace = open_trace(folder / "traces" / one.trial.name)
            geometry += [{**run, **row} for row in _by_kind(trace)]
            if arm in FIGURE_1_ARMS and one.trial.seed == FIGURE_1["seed"]:
                figure_1 += [{"arm": arm, **row} for row in _one_matrix(trace)]
    return Tables(
        trials=pa.Table.from_pylist(trials),
        curves=pa.Table.from_pylist(curves),
        geometry=pa.Table.from_pylist(geometry),
        figure_1=pa.Table.from_pylist(figure_1),
        cost=cost,
        about=about,
    )


def _by_kind(trace: Trace) -> list[dict[str, Any]]:
    """The median over the blocks, for each captured step, stage and kind of layer."""
    columns = ["step", "stage", "kind", *METRICS]
    found: dict[tuple[Any, ...], list[list[float]]] = {}
    for row in trace.metrics().select(columns).to_pylist():
        key = tuple(row[name] for name in columns[:3])
        found.setdefault(key, []).append(
            [np.nan if row[name] is None else row[name] for name in METRICS]
        )
    rows = []
    for key in sorted(found):
        medians = np.median(np.array(found[key], np.float64), axis=0)
        values = dict(zip(METRICS, map(_rounded, medians), strict=True))
        rows.append({**dict(zip(columns[:3], key, strict=True)), **values})
    return rows


def _one_matrix(trace: Trace) -> list[dict[str, Any]]:
    step, layer = int(FIGURE_1["step"]), str(FIGURE_1["layer"])
    rows = []
    for stage in ("momentum", "update"):
        try:
            values = {
                "singular_value": trace.spectrum(step, layer, stage),
                "neuron_norm": trace.neuron_norms(step, layer, stage),
            }
        except NotCaptured:
            continue
        rows += [
            {"stage": stage, "quantity": name, "index": i, "value": _rounded(value)}
            for name, array in values.items()
            for i, value in enumerate(array)
        ]
    return rows


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
