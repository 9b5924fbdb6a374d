"""Bytes of a trace's files, measured.

`python benchmarks/plan.py --constants` fits those of segments to small real runs and prints them
with the machine and the date; run.json's were read off two traces by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = "2026-11-28"
"""When."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What a table's sealed files take.

    Attributes:
        file: Bytes of a file: its footer and page headers.
        row: Of a row, keys and scalars.
        value: Of a number in the row's list or matrix.
    """

    file: float
    row: float
    value: float

    def bytes(self, files: float, rows: float, values: float = 0.0) -> float:
        """Of so many files, rows and numbers."""
        return self.file * files + self.row * rows + self.value * values


METRICS = Segment(file=14.3e3, row=80.7, value=0.0)
NEURONS = Segment(file=5.35e3, row=50.3, value=2.59)
SPECTRA = Segment(file=7.49e3, row=102.0, value=3.17)
UPDATES = Segment(file=9.16e3, row=43.9, value=4.0)
SCALARS = Segment(file=2.14e3, row=5.5, value=0.0)
"""2026-11-28, AMD EPYC, torch 2.13.0 CPU, `--constants --steps 10`; the worst run is 9.4 % off."""

RUN_FILE, RUN_LAYER = 3.6e3, 372.0
"""run.json, of which there are two copies: of itself, and of every layer."""

MEMORY_ROW = 512
"""Bytes of a row before it is written, from which it follows when a file is full: assumed."""

SCALARS_STEP, SCALARS_CAPTURE = 6, 8
"""Scalars of every step (train's five, elapsed_seconds) and of a captured one (the recorder's)."""
