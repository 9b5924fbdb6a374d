"""The arrays of cells: spectra, neuron norms and raw matrices, read when they are asked for.

Files may be replaced between the looking up of a cell and the reading of its bytes, or between two
matrices of a walk through all. So whatever reads does both inside one question, which is asked
again where a file went and another stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from optgeom.traces.errors import NotCaptured
from optgeom.traces.reading.asked import Names, Steps, in_steps, names_in, stage_rank, steps_there
from optgeom.traces.reading.cells import CellIndex, Rows
from optgeom.traces.reading.keys import Codes
from optgeom.traces.reading.matrices import neuron_count, neuron_norms, read_matrix, refuse_many
from optgeom.traces.reading.naming import Naming
from optgeom.traces.reading.part import Floats, Part
from optgeom.traces.reading.reader import TraceFiles
from optgeom.traces.schema import Cell

Spectrum = np.ndarray[Any, np.dtype[np.float64]]
_CELL_FIELDS = ("step", "optimizer", "layer", "kind", "block", "stage")


class Arrays:
    """Reads the arrays of one trace.

    Args:
        files: the trace's.
        naming: of its layers and stages.
    """

    def __init__(self, files: TraceFiles, naming: Naming):
        self._files, self._naming = files, naming

    def spectrum(self, step: int, layer: str, stage: str) -> Spectrum:
        """See Trace.spectrum."""

        def read() -> Spectrum:
            index, rows = self._cell("spectra", step, layer, stage)
            part, row = _last(index, rows)
            values = part.list_at("singular_values", row)
            if values is None:
                status = part.columns(["spectrum_status"]).column(0)[row].as_py()
                raise NotCaptured(
                    f"the spectrum of {layer} {stage} at step {step} is null: {status}"
                )
            made: Spectrum = values.astype(np.float64)
            return made

        return self._files.anew(read)

    def spectra(self, layer: str, stage: str, steps: Steps) -> tuple[Codes, list[Spectrum]]:
        """See Trace.spectra."""

        def read() -> tuple[Codes, list[Spectrum]]:
            index, found = self._over_steps("spectra", layer, stage, steps)
            kept, arrays = [], []
            for step, rows in found:
                part, row = _last(index, rows)
                values = part.list_at("singular_values", row)
                if values is not None:
                    kept.append(step)
                    arrays.append(values.astype(np.float64))
            return np.array(kept, np.int64), arrays

        return self._files.anew(read)

    def neuron_norms(self, step: int, layer: str, stage: str) -> Floats:
        """See Trace.neuron_norms."""

        def read() -> Floats:
            index, rows = self._cell("neurons", step, layer, stage)
            return neuron_norms(index.parts, rows, self._count(index, rows, layer)).copy()

        return self._files.anew(read)

    def neurons(self, layer: str, stage: str, steps: Steps) -> tuple[Codes, Floats]:
        """See Trace.neurons."""

        def read() -> tuple[Codes, Floats]:
            index, found = self._over_steps("neurons", layer, stage, steps)
            length = max((self._count(index, rows, layer) for _, rows in found), default=0)
            refuse_many(index.parts, len(found), length)
            norms = np.full((len(found), length), np.nan, np.float32)
            for at, (_, rows) in enumerate(found):
                norms[at] = neuron_norms(index.parts, rows, length)
            return np.array([step for step, _ in found], np.int64), norms

        return self._files.anew(read)

    def matrix(self, step: int, layer: str, stage: str) -> Floats:
        """See Trace.matrix."""

        def read() -> Floats:
            found = self._near(step, layer, stage)
            if found is not None:
                return found
            index, rows = self._cell("updates", step, layer, stage)
            return read_matrix(index.parts, rows, (layer, stage, step), self._naming.shape(layer))

        return self._files.anew(read)

    def _near(self, step: int, layer: str, stage: str) -> Floats | None:
        """A whole matrix by the segments of its step alone; None where that does not give one."""
        index = self._files.at_step("updates", step)
        if index is None:
            return None
        find = self._files.vocabulary.find
        rows = index.rows(find(layer), find(stage)).at(step)
        try:
            if len(rows):
                return read_matrix(
                    index.parts, rows, (layer, stage, step), self._naming.shape(layer)
                )
        except NotCaptured:
            pass  # the other blocks may be in files that were not opened, or are not there
        return None

    def matrices(self, stages: Names, layers: Names, steps: Steps) -> Iterator[tuple[Cell, Floats]]:
        """See Trace.matrices."""
        raw = _Raw(self._files)
        for step, layer, stage in self._raw_cells(raw, stages, layers, steps):

            def read(
                step: int = step, layer: int = layer, stage: int = stage
            ) -> tuple[Cell, Floats] | None:
                rows = raw.rows(layer, stage).at(step)
                return self._raw(raw.parts, rows) if len(rows) else None

            found = self._files.anew(read, raw.forget)
            # where there is nothing any more, a newer attempt has come to the step without it
            if found is not None:
                yield found

    def _raw_cells(
        self, raw: _Raw, stages: Names, layers: Names, steps: Steps
    ) -> list[tuple[int, int, int]]:
        """Step, layer and stage of what is asked for, by step, the model's layers, and stage."""
        words = self._files.vocabulary.words
        for_layers = None if layers is None else [*map(self._naming.layer, names_in(layers))]
        for_stages = None if stages is None else [*map(self._naming.stage, names_in(stages))]
        order = {layer.name: number for number, layer in enumerate(self._files.info.layers)}
        cells = []
        for layer, stage in raw.pairs:
            if for_layers is not None and layer not in for_layers:
                continue
            if for_stages is not None and stage not in for_stages:
                continue
            name = words[layer]
            place = (order.get(name, len(order)), name, stage_rank(words[stage]), words[stage])
            there = np.unique(raw.rows(layer, stage).steps).tolist()
            cells += [(step, place, layer, stage) for step in there]
        if steps is not None:
            of_each = np.array([step for step, *_ in cells], np.int64)
            kept = in_steps(of_each, steps, self._files.place.shown)
            cells = [cell for cell, keep in zip(cells, kept, strict=True) if keep]
        return [(step, layer, stage) for step, _, layer, stage in sorted(cells)]

    def _raw(self, parts: Sequence[Part], rows: Rows) -> tuple[Cell, Floats]:
        ((number, row), *_) = rows
        (key,) = parts[number].columns(_CELL_FIELDS).slice(row, 1).to_pylist()
        cell = Cell(**key)
        shape = self._naming.shape(cell.layer)
        return cell, read_matrix(parts, rows, (cell.layer, cell.stage, cell.step), shape)

    def _cell(self, table: str, step: int, layer: str, stage: str) -> tuple[CellIndex, Rows]:
        index = self._files.index(table)
        there = index.rows(self._naming.layer(layer), self._naming.stage(stage))
        rows = there.at(step)
        if not len(rows):
            raise NotCaptured(
                f"{table} hold no {layer} {stage} at step {step}: "
                f"{steps_there(np.unique(there.steps))}"
            )
        return index, rows

    def _over_steps(
        self, table: str, layer: str, stage: str, steps: Steps
    ) -> tuple[CellIndex, list[tuple[int, Rows]]]:
        index = self._files.index(table)
        found = index.rows(self._naming.layer(layer), self._naming.stage(stage)).by_step()
        if steps is None:
            return index, found
        there = np.array([step for step, _ in found], np.int64)
        kept = in_steps(there, steps, self._files.place.shown)
        return index, [one for one, keep in zip(found, kept, strict=True) if keep]

    def _count(self, index: CellIndex, rows: Rows, layer: str) -> int:
        known = self._naming.shape(layer)
        return neuron_count(index.parts, rows) if known is None else known[0]


class _Raw:
    """Where the raw matrices are, as of one listing until a file of it goes.

    Args:
        files: the trace's.
    """

    def __init__(self, files: TraceFiles):
        self._files = files
        self.forget()

    def forget(self) -> None:
        """Look all up anew."""
        index = self._files.index("updates")
        self._index, self.parts, self.pairs = index, index.parts, index.pairs
        self._rows: dict[tuple[int, int], Rows] = {}

    def rows(self, layer: int, stage: int) -> Rows:
        """Those of a layer's stage."""
        if (layer, stage) not in self._rows:
            self._rows[layer, stage] = self._index.rows(layer, stage)
        return self._rows[layer, stage]


def _last(index: CellIndex, rows: Rows) -> tuple[Part, int]:
    *_, (number, row) = rows
    return index.parts[number], row
