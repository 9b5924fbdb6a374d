"""What each number is held against, and where that was set: the one place for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound.

    Attributes:
        value: the bound.
        unit: printed behind it.
        source: the sentence that sets it, and where it stands.
        sense: on which side of it a number is kept.
    """

    value: float
    unit: str
    source: str
    sense: Literal["at most", "at least"] = "at most"

    def keeps(self, found: float) -> bool:
        """Whether a number is within it."""
        return found <= self.value if self.sense == "at most" else found >= self.value

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g}{self.unit}"


_STEP = "A captured step with norms and CV of every matrix, job small, costs at most this more"

LIMITS: Mapping[str, Limit] = {
    "step, adamw": Limit(4.0, " %", f"{_STEP} than its neighbours under AdamW."),
    "step, adamw-foreach": Limit(4.0, " %", f"{_STEP} than its neighbours under foreach AdamW."),
    "step, muon": Limit(8.0, " %", f"{_STEP} than its neighbours under torch's Muon."),
    "step, normuon": Limit(2.0, " %", f"{_STEP} than its neighbours under NorMuon."),
    "step, raw": Limit(
        8.0, " %", "Raw matrices cost a captured step and the next together at most this."
    ),
    "run, time": Limit(
        1.5, " %", "At its defaults watching takes at most this of a run, by the wall and counted."
    ),
    "run, budget": Limit(
        1.0, " %", "`optgeom.watch(budget=0.01)`, the default, thins captures to this share."
    ),
    "run, bought": Limit(
        50.0,
        " %",
        "The spectra that a run captures are worth half of what its budget buys from bare kernels.",
        "at least",
    ),
    "run, waits": Limit(
        2.0, "", "No layer waits for its spectrum more than twice as long as the mean layer."
    ),
    "memory": Limit(
        1.0, "", "A capture holds no copy of the model: less than a snapshot (docs/scale.md)."
    ),
    "submit": Limit(
        1000.0, " us", "The longest call that hands a matrix over is 1 ms (docs/keeping.md)."
    ),
    "analysis, spectra": Limit(
        1.25, "", "Spectra alone take at most this over bare LAPACK calls (docs/analysis.md)."
    ),
    "analysis, every column": Limit(
        1.6, "", "Every column takes at most this over bare LAPACK calls (docs/analysis.md)."
    ),
    "svdvals": Limit(
        1.5,
        "",
        "torch.linalg.svdvals takes at least this over ours (docs/analysis.md).",
        "at least",
    ),
    "WeightWatcher": Limit(
        4.0, "", "WeightWatcher takes at least this over ours (docs/analysis.md).", "at least"
    ),
    "normuon, 768": Limit(
        1.05, "", "At width 768 a NorMuon step takes at most 5 % more than a step of Muon."
    ),
    "dealt": Limit(
        1.6, "", "On two ranks dealt is this many times as fast as naive, width 768.", "at least"
    ),
    "state": Limit(0.51, "", "NorMuon's state is at most 51 % of AdamW's at the demo's shapes."),
    "dashboard, median": Limit(300.0, " ms", "Half of all interactions are drawn within 300 ms."),
    "dashboard, p95": Limit(1000.0, " ms", "95 of 100 interactions are drawn within 1,000 ms."),
}
