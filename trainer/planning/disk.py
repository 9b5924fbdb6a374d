"""What a trace takes on the disk: rows are counted, bytes of a row are measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optgeom.hooks.describe import values_of
from optgeom.traces.writing.sink import SEAL_BYTES, SEAL_ROWS
from optgeom.trainer.config import TrainConfig
from optgeom.trainer.planning.constants import (
    MEMORY_ROW,
    METRICS,
    NEURONS,
    RUN_FILE,
    RUN_LAYER,
    SCALARS,
    SCALARS_CAPTURE,
    SCALARS_STEP,
    SPECTRA,
    UPDATES,
)
from optgeom.trainer.planning.course import Course
from optgeom.trainer.planning.dealing import capture_owners, rows_of_ranks
from optgeom.trainer.planning.shapes import Shapes


@dataclass(frozen=True, slots=True)
class Disk:
    """Of a whole run, over all ranks.

    Attributes:
        rows: By table, where the budget thins on average.
        files: By table, when the run is closed.
        bytes: By table, and ``run.json``.
    """

    rows: dict[str, float]
    files: dict[str, int]
    bytes: dict[str, float]

    @property
    def total(self) -> float:
        """Bytes of all tables."""
        return sum(self.bytes.values())


def disk_of(shapes: Shapes, config: TrainConfig, course: Course, world: int) -> Disk:
    """Count a run's rows and files.

    Args:
        shapes: Of the run.
        config: Its settings.
        course: How often what was captured.
        world: Ranks, each with files of its own.
    """
    layers, owners = shapes.layers, capture_owners(shapes.layers, world)
    values = [values_of(shape) for shape in layers]
    neurons, singular, entries = (sum(each) for each in zip(*values, strict=True))
    holders = [int(np.count_nonzero(rows_of_ranks(rows, world))) for rows, _ in layers]
    norms = len(layers) * shapes.stages * course.norms
    spectra = len(layers) * shapes.spectral * course.spectra
    blocks = sum(holders) * shapes.stages * course.updates
    each_capture = SCALARS_CAPTURE + (world > 1)
    scalars = SCALARS_STEP * config.schedule.steps + each_capture * course.norms
    scalars += _evaluations(config)
    rows = {"metrics": norms, "neurons": norms, "spectra": spectra}
    rows |= {"updates": blocks, "scalars": scalars}
    numbers = {"neurons": shapes.stages * course.norms * neurons, "metrics": 0.0}
    numbers["spectra"] = shapes.spectral * course.spectra * singular
    files = {
        table: _files(rows[table], 4 * numbers[table], len(layers), owners)
        for table in ("metrics", "neurons", "spectra")
    }
    files["updates"] = math.ceil(course.raw_steps) * max(holders)
    files["scalars"] = math.ceil(scalars / SEAL_ROWS)
    found = {
        "metrics": METRICS.bytes(files["metrics"], norms),
        "neurons": NEURONS.bytes(files["neurons"], norms, numbers["neurons"]),
        "spectra": SPECTRA.bytes(files["spectra"], spectra, numbers["spectra"]),
        "updates": UPDATES.bytes(
            files["updates"], blocks, shapes.stages * course.updates * entries
        ),
        "scalars": SCALARS.bytes(files["scalars"], scalars),
        "run.json": 2 * (RUN_FILE + RUN_LAYER * len(layers)),
    }
    return Disk(rows, files, found)


def _files(rows: float, nbytes: float, layers: int, owners: Sequence[int]) -> int:
    """Segments of a small table: each owner seals one where it is full, and one at the end."""
    if not rows:
        return 0
    found = 0
    for owned in np.bincount(owners):
        if part := owned / layers:
            full = max(rows / SEAL_ROWS, (nbytes + MEMORY_ROW * rows) / SEAL_BYTES)
            found += math.ceil(part * full)
    return found


def _evaluations(config: TrainConfig) -> int:
    every = config.eval_every
    return 1 + (config.schedule.steps - 1) // every if every else 1
