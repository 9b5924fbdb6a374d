from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.files import place
from optgeom.traces.info import LayerInfo, OptimizerInfo, RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import mirror
from tests.traces.objects import Objects

COLUMNS = {
    "metrics": {"neuron_norm_cv": "float64", "rank_of_it": "int64", "note": "string"},
    "spectra": {"condition_number": "float64"},
}
UP = LayerInfo("blocks.0.up.weight", "mlp.up", 0, (8, 4), "float32", "muon", 0, "muon", "rows")
DOWN = LayerInfo("blocks.0.down.weight", "mlp.down", 0, (4, 8), "float32", "muon", 0, "muon")
HEAD = LayerInfo("head.weight", "head", None, (6, 4), "float32", "adam", 1, "adamw")


@pytest.fixture
def info() -> RunInfo:
    return RunInfo(
        "a",
        versions={"optgeom": "0", "torch": "2", "python": "3.11"},
        command=("train.py", "--lr", "1"),
        capture={"every": 10, "stages": ["update"]},
        optimizers=(OptimizerInfo("muon", "torch.optim.Muon", ({"lr": 0.1, "nesterov": True},)),),
        layers=(UP, DOWN, HEAD),
        config={"model": {"width": 4}},
        columns=COLUMNS,
    )


@pytest.fixture
def cell() -> Callable[..., Cell]:
    def make(step: int, layer: LayerInfo = UP, stage: str = "update") -> Cell:
        return Cell(step, layer.optimizer, layer.name, layer.kind, layer.block, stage)

    return make


@pytest.fixture
def layers() -> tuple[LayerInfo, ...]:
    return (UP, DOWN, HEAD)


@pytest.fixture
def norms() -> Callable[[int, LayerInfo], np.ndarray]:
    """Norms that tell their step and layer."""

    def make(step: int, layer: LayerInfo) -> np.ndarray:
        return (np.arange(layer.shape[0]) + 100 * step + len(layer.name)).astype(np.float32)

    return make


@pytest.fixture
def record(
    cell: Callable[..., Cell], norms: Callable[[int, LayerInfo], np.ndarray]
) -> Callable[..., None]:
    """Everything about some steps: three layers, two stages, raw matrices where asked."""

    def make(
        writer: TraceWriter,
        steps: list[int],
        *,
        raw: tuple[int, ...] = (),
        layers: tuple[LayerInfo, ...] = (UP, DOWN, HEAD),
        plus: float = 0.0,
    ) -> None:
        for step in steps:
            for layer in layers:
                for stage in ("momentum", "update"):
                    key = cell(step, layer, stage)
                    values = {"neuron_norm_cv": step + plus, "status": "ok", "lr": 0.1}
                    writer.metrics(key, values)
                    singular = np.arange(min(layer.shape), 0, -1) + step + plus
                    writer.spectrum(key, singular, {"condition_number": 2.0 + plus})
                    writer.neurons(key, norms(step, layer))
                    if step in raw:
                        matrix = np.full(layer.shape, step + plus, np.float32)
                        writer.update(key, matrix)
            writer.scalar(step, "loss", 1.0 / (1 + step) + plus)
            writer.end_step(step)

    return make


@pytest.fixture
def trace_path(tmp_path: Path, info: RunInfo, record: Callable[..., None]) -> Path:
    """A closed trace of steps 0, 10, 20, 30; raw matrices at 0 and 20."""
    with TraceWriter(tmp_path / "a", info) as writer:
        record(writer, [0, 10, 20, 30], raw=(0, 20))
    assert writer.failure is None
    assert not writer.dropped
    return tmp_path / "a"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A store is asked once, soon again after a failure; spools in the test's own folder."""
    monkeypatch.setattr(place, "_ATTEMPTS", 1)
    monkeypatch.setattr(mirror, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(mirror, "_ASKED_WAIT", 0.05)
    monkeypatch.setattr(mirror, "_STOP_SECONDS", 0.1)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def uri(objects: Objects, request: pytest.FixtureRequest) -> str:
    """A run in the bucket that is this test's alone, keys and all."""
    test = str(request.node.name).replace("[", "-").replace("]", "")
    return objects.uri(f"{test}/a")
