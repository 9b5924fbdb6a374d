"""A folder of long runs of a wide model, to hold the dashboard and the reader against.

    python benchmarks/big_runs.py FOLDER    # 8 runs, 200 layers, 2,000 steps: 6 GB
    python benchmarks/reading.py FOLDER     # what reading it takes

`run.json` and the scalars go through `TraceWriter`. The other tables would take it an hour, row by
row, so they are made as whole columns and handed to `SegmentWriter`, which seals them as it does
those of the writer: at as many rows and bytes, in the same row groups.

Metrics are recorded at every step; norms of neurons and singular values every `--lists-every`
steps, of the update and of the momentum; in between, what is made of the spectra stands in a
derived analysis. Three facts are planted in every run, and printed: a dormant neuron, an exploding
one, and one step at which one layer's CV leaps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.derived import write_derived
from optgeom.traces.errors import TraceError
from optgeom.traces.format.segment import SegmentWriter
from optgeom.traces.info import LayerInfo, OptimizerInfo, RunInfo
from optgeom.traces.names import PartName
from optgeom.traces.schema import table_schema
from optgeom.traces.store import open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing.sink import SEAL_BYTES, SEAL_ROWS

Numbers = np.ndarray[Any, Any]

KINDS = ("attention.q", "attention.k", "attention.v", "attention.o", "mlp.up", "mlp.down")
STAGES = ("update", "momentum")
OPTIMIZERS = {
    "normuon": ("optgeom.optim.normuon.NorMuon", 0.01, 0.08),
    "muon": ("optgeom.optim.muon.Muon", 0.01, 0.35),
    "adamw": ("torch.optim.adamw.AdamW", 0.003, 0.55),
}
"""Algorithm -> class, learning rate, the level of its CV of neuron norms."""
COLUMNS = {
    "metrics": dict.fromkeys(
        ("neuron_norm_cv", "neuron_norm_max_min", "update_rms", "frobenius_norm"), "float64"
    ),
    "spectra": dict.fromkeys(
        ("condition_number", "stable_rank", "effective_rank", "spectral_norm", "noise_floor"),
        "float64",
    ),
}
CREATED = "2026-11-27T00:00:00+00:00"


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes the folder; written into every run.json."""

    runs: int = 8
    layers: int = 200
    steps: int = 2000
    width: int = 8192
    lists_every: int = 50
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Planted:
    """What every run has, and a reader should see."""

    dormant_layer: str
    dormant_neuron: int
    exploding_layer: str
    exploding_neuron: int
    spike_layer: str
    spike_step: int


def layer_names(count: int) -> list[str]:
    """Names like blocks.17.mlp.up.weight, in the model's order."""
    return [f"blocks.{i // len(KINDS)}.{KINDS[i % len(KINDS)]}.weight" for i in range(count)]


def planted(settings: Settings) -> Planted:
    """Where the facts are, in a folder of any size."""
    names = layer_names(settings.layers)
    return Planted(
        dormant_layer=names[settings.layers // 3],
        dormant_neuron=settings.width // 5,
        exploding_layer=names[2 * settings.layers // 3],
        exploding_neuron=settings.width // 2 + 1,
        spike_layer=names[settings.layers // 2],
        # no step at which lists are captured: only a picture of all steps shows it
        spike_step=settings.steps * 5 // 8 + 1,
    )


@dataclass(frozen=True)
class Run:
    """One run's numbers, as functions of layers and steps."""

    name: str
    algorithm: str
    number: int
    settings: Settings

    @property
    def info(self) -> RunInfo:
        """What run.json shall say."""
        one, shape = self.settings, (self.settings.width, self.settings.width)
        kind, rate, _ = OPTIMIZERS[self.algorithm]
        layers = tuple(
            LayerInfo(
                name=name,
                kind=KINDS[i % len(KINDS)],
                block=i // len(KINDS),
                shape=shape,
                dtype="bfloat16",
                optimizer="optimizer",
                group=0,
                algorithm=self.algorithm,
                neuron_axis="rows",
            )
            for i, name in enumerate(layer_names(one.layers))
        )
        return RunInfo(
            self.name,
            created=CREATED,
            versions={"optgeom": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
            command=("python", "benchmarks/big_runs.py"),
            capture={"every": 1, "spectra_every": one.lists_every, "stages": list(STAGES)},
            optimizers=(
                OptimizerInfo("optimizer", kind, ({"algorithm": self.algorithm, "lr": rate},)),
            ),
            layers=layers,
            config={"steps": one.steps, "big_runs": asdict(one)},
            columns=COLUMNS,
        )

    def random(self, *what: int) -> np.random.Generator:
        """Random numbers of this run alone, the same ones whenever they are asked."""
        return np.random.default_rng([self.settings.seed, self.number, *what])

    @property
    def list_steps(self) -> Numbers:
        """The steps at which lists are captured."""
        return np.arange(0, self.settings.steps, self.settings.lists_every)

    @cached_property
    def cv(self) -> Numbers:
        """The CV of neuron norms, (steps, layers): a level per layer that drifts, and one leap."""
        found = OPTIMIZERS[self.algorithm][2] * self._smooth(1, 0.25)
        names, spot = layer_names(self.settings.layers), planted(self.settings)
        found[spot.spike_step, names.index(spot.spike_layer)] *= 6
        return found

    @cached_property
    def spectra(self) -> dict[str, Numbers]:
        """Columns of spectra, (steps, layers) each."""
        width = self.settings.width
        decay = 5.5 * self._smooth(2, 0.1)
        largest = 0.2 * np.sqrt(width) * self._smooth(3, 0.2)
        return {
            "condition_number": np.exp(decay),
            "stable_rank": width / (2 * decay) * self._smooth(4, 0.02),
            "effective_rank": width / (1 + 0.3 * decay) * self._smooth(5, 0.02),
            "spectral_norm": largest,
            "noise_floor": largest * 1.2e-7,
        }

    @cached_property
    def metrics(self) -> dict[str, Numbers]:
        """Columns of metrics, (steps, layers) each."""
        width, spread = self.settings.width, np.sqrt(np.log1p(self.cv**2))
        rms = 0.2 * self._smooth(6, 0.1)
        return {
            "neuron_norm_cv": self.cv,
            "neuron_norm_max_min": np.exp(7.6 * spread),
            "update_rms": rms,
            "frobenius_norm": rms * width,
        }

    def norms(self, layer: int, stage: int, step: int) -> Numbers:
        """Norms of a layer's neurons at a step, (width,) float32."""
        width, phase = self.settings.width, step / self.settings.steps
        base = self.random(7, layer, stage).standard_normal(width)
        drift = self.random(8, layer, stage).standard_normal(width)
        noise = self.random(9, layer, stage, step).standard_normal(width)
        mixed = base * np.cos(0.5 * phase) + drift * np.sin(0.5 * phase) + 0.05 * noise
        spread = np.sqrt(np.log1p(self.cv[step, layer] ** 2))
        scale = self.metrics["update_rms"][step, layer] * np.sqrt(width)
        found = scale * np.exp(spread * mixed - spread**2 / 2)
        name, spot = layer_names(self.settings.layers)[layer], planted(self.settings)
        if name == spot.dormant_layer:
            found[spot.dormant_neuron] *= 1e-4
        if name == spot.exploding_layer:
            found[spot.exploding_neuron] *= 200.0**phase
        return np.asarray(found, np.float32)

    def singular_values(self, layer: int, stage: int, step: int) -> Numbers:
        """A layer's singular values at a step, (width,) float32, descending."""
        gaps = self.random(10, layer, stage).exponential(size=self.settings.width)
        depth = np.cumsum(gaps) - gaps[0]
        decay = np.log(self.spectra["condition_number"][step, layer])
        # a momentum's spectrum falls further than that of the update that is made of it
        decay *= 2.0 if STAGES[stage] == "momentum" else 1.0
        largest = self.spectra["spectral_norm"][step, layer]
        return np.asarray(largest * np.exp(-decay * depth / depth[-1]), np.float32)

    def _smooth(self, what: int, spread: float) -> Numbers:
        """Numbers about 1, (steps, layers): a level, a slow wave and little noise."""
        steps, layers = self.settings.steps, self.settings.layers
        dice = self.random(what)
        level = np.exp(spread * dice.standard_normal(layers))
        turns, starts = dice.uniform(3, 12, layers), dice.uniform(0, 6, layers)
        wave = 0.3 * spread * np.sin(np.arange(steps)[:, None] / steps * turns + starts)
        found: Numbers = level * (1 + wave + 0.02 * spread * dice.standard_normal((steps, layers)))
        return found


def runs_of(settings: Settings) -> list[Run]:
    """The runs of a folder."""
    names = list(OPTIMIZERS)
    return [
        Run(f"{names[i % len(names)]}-{i // len(names) + 1}", names[i % len(names)], i, settings)
        for i in range(settings.runs)
    ]


def words(places: Numbers, known: Sequence[str]) -> pa.Array:
    """A text column of places among known words."""
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), list(known))


def constant(word: str, n: int) -> pa.Array:
    """A text column of one word."""
    return words(np.zeros(n, np.int32), [word])


def keys(run: Run, steps: Numbers, layers: Numbers, stages: Numbers) -> dict[str, pa.Array]:
    """Key columns of rows, (n,) each: steps, and places among the layers and STAGES."""
    n = len(steps)
    return {
        "run": constant(run.name, n),
        "attempt": pa.array(np.zeros(n, np.int32)),
        "step": pa.array(steps, pa.int64()),
        "optimizer": constant("optimizer", n),
        "layer": words(layers, layer_names(run.settings.layers)),
        "kind": words(layers % len(KINDS), KINDS),
        "block": pa.array(layers // len(KINDS), pa.int16()),
        "stage": words(stages, STAGES),
    }


def column_rows(
    run: Run, steps: Numbers, columns: dict[str, Numbers], texts: dict[str, str]
) -> dict[str, pa.Array]:
    """Rows of the update of all layers at some steps, of columns (steps, layers)."""
    layers = np.arange(run.settings.layers)
    n = len(steps) * len(layers)
    found = keys(run, np.repeat(steps, len(layers)), np.tile(layers, len(steps)), np.zeros(n, int))
    found |= {name: pa.array(values[steps].reshape(-1)) for name, values in columns.items()}
    return found | {name: constant(word, n) for name, word in texts.items()}


def list_rows(run: Run, step: int) -> Iterator[tuple[str, dict[str, pa.Array]]]:
    """Rows of spectra and neurons of one step."""
    width = run.settings.width
    cells = [(i, stage) for i in range(run.settings.layers) for stage in range(len(STAGES))]
    layers, stages = (np.array(one) for one in zip(*cells, strict=True))
    n = len(cells)
    shared = keys(run, np.full(n, step), layers, stages)
    offsets = pa.array(np.arange(0, (n + 1) * width, width), pa.int32())

    def lists(arrays: list[Numbers]) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(arrays)))

    spectra = {"singular_values": lists([run.singular_values(*cell, step) for cell in cells])}
    spectra |= {name: pa.array(values[step][layers]) for name, values in run.spectra.items()}
    spectra |= {"spectrum_status": constant("ok", n), "spectrum_method": constant("gram", n)}
    yield "spectra", shared | spectra
    zero, whole = pa.array(np.zeros(n, np.int32)), pa.array(np.full(n, width, np.int32))
    block = {"row_start": zero, "rows": whole, "col_start": zero, "cols": whole, "rank": zero}
    norms = lists([run.norms(*cell, step) for cell in cells])
    yield "neurons", shared | block | {"neuron_norms": norms}


class Table:
    """Seals one table's segments when the writer would."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._next = folder / name, PartName(0, 0, 0)
        self._schema = table_schema(name, COLUMNS)
        self._waiting: list[pa.Table] = []
        self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, columns: dict[str, pa.Array]) -> None:
        """Take rows; columns that they lack are null."""
        n = len(columns["step"])
        arrays = [columns.get(one.name, pa.nulls(n, one.type)) for one in self._schema]
        self._waiting.append(pa.table(arrays, schema=self._schema))
        rows = sum(one.num_rows for one in self._waiting)
        if rows >= SEAL_ROWS or sum(one.nbytes for one in self._waiting) >= SEAL_BYTES:
            self.seal()

    def seal(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).unify_dictionaries().combine_chunks()
        segment = SegmentWriter(self._folder, self._next, self._schema)
        segment.write_sorted(table)
        segment.seal()
        self._waiting = []
        self._next = PartName(0, 0, self._next.sequence + 1)


def write_run(folder: Path, run: Run) -> None:
    """Write one run; it is closed once everything is there."""
    one, dice = run.settings, run.random(11)
    with TraceWriter(folder / run.name, run.info, wait=True) as writer:
        for step in range(one.steps):
            loss = 1.6 + 3.9 * float(np.exp(-step / (0.1 * one.steps))) * (1 + 0.01 * run.number)
            writer.scalar(step, "loss", loss + 0.02 * dice.standard_normal())
            writer.scalar(step, "tokens", (step + 1) * 524288.0)
            writer.scalar(step, "elapsed_seconds", 1.7 * (step + 1))
            writer.scalar(step, "capture_seconds", 0.03)
            writer.scalar(step, "capture_share", 0.018)
        rates = np.full_like(run.cv, OPTIMIZERS[run.algorithm][1])
        metrics = Table(writer.path, "metrics")
        for steps in np.array_split(np.arange(one.steps), max(1, one.steps // 20)):
            texts = {"source": "dispatch", "status": "ok"}
            metrics.add(column_rows(run, steps, {**run.metrics, "lr": rates}, texts))
        metrics.seal()
        tables = {name: Table(writer.path, name) for name in ("spectra", "neurons")}
        for step in run.list_steps.tolist():
            for name, rows in list_rows(run, step):
                tables[name].add(rows)
        for table in tables.values():
            table.seal()
        between = np.setdiff1d(np.arange(one.steps), run.list_steps)
        if len(between):
            texts = {"spectrum_status": "ok", "spectrum_method": "gram"}
            rows = column_rows(run, between, run.spectra, texts)
            write_derived(open_trace(writer.path), "analysis", pa.table(rows))


def is_complete(folder: Path, settings: Settings) -> bool:
    """Whether the folder holds all runs of these settings.

    Raises:
        SystemExit: it holds something else, or a run that was cut off.
    """
    there = [one for one in sorted(folder.glob("*")) if one.is_dir()]
    for one in there:
        try:
            trace = open_trace(one)
        except TraceError as error:
            raise SystemExit(f"{folder} holds other things: {error}") from error
        if not trace.closed or trace.info.config.get("big_runs") != asdict(settings):
            raise SystemExit(f"{one} is another run, or was cut off: remove {folder}")
    if there and len(there) != settings.runs:
        raise SystemExit(f"{folder} has {len(there)} runs of {settings.runs}: remove it")
    return bool(there)


def write_big(folder: Path, settings: Settings | None = None) -> Planted:
    """Write a folder of runs, unless it is there.

    Args:
        folder: new or empty, or written with the same settings.
        settings: by default the large ones.

    Returns:
        What is planted in every run.

    Raises:
        SystemExit: the folder holds something else, or a run that was cut off.
    """
    settings = settings or Settings()
    if not is_complete(folder, settings):
        for run in runs_of(settings):
            write_run(folder, run)
            print(f"{run.name} is written", flush=True)
    return planted(settings)


def main() -> None:
    """Write the folder that the command line names, and print what is planted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    asked = vars(parser.parse_args())
    facts = write_big(asked.pop("folder"), Settings(**asked))
    print(json.dumps(asdict(facts), indent=1))


if __name__ == "__main__":
    main()
