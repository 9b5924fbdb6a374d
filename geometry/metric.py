"""What an entry of the catalogue is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optgeom.geometry.accuracy import Accuracy

Table = Literal["metrics", "spectra"]
Group = Literal["Balance", "Conditioning", "Rank", "Scale", "Direction", "Rounding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Where a value is expected to lie, and for what it is expected.

    Attributes:
        low: Lower end, or None where the band is open below.
        high: Upper end, or None where the band is open above.
        stage: The stage that the expectation is about; it holds for no other.
        rule: The update rule or polynomial that it is about.
        shape: The shapes that it is about.
        source: Theory or paper that gives it.
    """

    low: float | None
    high: float | None
    stage: str
    rule: str
    shape: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One column of a trace.

    Attributes:
        name: Column name.
        title: What a person reads above the figure.
        group: Where pickers list it.
        table: The clock it belongs to: "metrics" (norms) or "spectra".
        unit: Unit, "1" for pure numbers.
        range: Smallest and largest possible value; None where unbounded.
        formula: One line, in the symbols of `SYMBOLS`.
        reference: Paper it comes from; "this project" where it is ours; empty for textbook norms.
        help: How to read it, and how it misleads.
        healthy: Bands that theory or a source gives; empty where there is none.
        stages: Stages it is defined on; empty for every stage.
        by_turns: Where norms are captured every few steps, a layer's rows have it only when its
            turn has come, or with a spectrum.
        dtype: Arrow type of the column.
        accuracy: Bound of the distance from the formula, as it was measured against exact values.
    """

    name: str
    title: str
    group: Group
    table: Table
    unit: str
    range: tuple[float | None, float | None]
    formula: str
    reference: str
    help: str
    healthy: tuple[Band, ...] = ()
    stages: tuple[str, ...] = ()
    by_turns: bool = False
    dtype: Literal["float64", "int64"] = "float64"
    accuracy: Accuracy
