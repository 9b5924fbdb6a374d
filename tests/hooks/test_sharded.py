"""Two ranks under FSDP2 write one trace, and its numbers are those of one process."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optgeom

WORKER = Path(__file__).with_name("fsdp_worker.py")
WORLD = 2

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def worker_module() -> Any:
    spec = importlib.util.spec_from_file_location("hooks_fsdp_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def two_ranks(folder: Path, **plan: Any) -> list[dict[str, Any]]:
    (folder / "plan.json").write_text(json.dumps(plan))
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(rank), str(WORLD)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        outputs = [rank.communicate(timeout=100)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * WORLD, "\n".join(outputs)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(WORLD)]


def close(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-7)
    return first == second


@pytest.mark.parametrize("optimizer", ["adamw", "normuon"])
def test_the_trace_of_two_ranks_is_that_of_one(optimizer: str, tmp_path: Path) -> None:
    worker = worker_module()
    alone = tmp_path / "alone"
    alone.mkdir()
    model = worker.Bag()
    single = worker.go({"optimizer": optimizer}, alone, 0, model)
    ranks = two_ranks(tmp_path, optimizer=optimizer)
    assert [rank["failure"] for rank in ranks] == [None, None]
    for name, weights in single["weights"].items():
        assert np.allclose(ranks[0]["weights"][name], weights, rtol=1e-5, atol=1e-7)

    one, two = optgeom.open_trace(alone / "trace"), optgeom.open_trace(tmp_path / "trace")
    assert two.info.world_size == WORLD
    assert {layer.placement for layer in two.layers} == {"Shard(dim=0)"}
    rows, expected = two.metrics().to_pylist(), one.metrics().to_pylist()
    not_its = {"ns_input", "orthogonalized"} if optimizer == "adamw" else set()
    stages = set(worker.STAGES) - not_its
    cells = {(layer, stage) for layer in worker.SHAPES for stage in stages}
    if optimizer == "normuon":
        cells.remove(("one_row", "second_moment"))  # a single number
    assert {(row["layer"], row["stage"]) for row in rows} == cells
    assert len(rows) == len(expected) == worker.STEPS * len(cells)
    for row, truth in zip(rows, expected, strict=True):
        # one process takes our optimizers' updates from their hands
        differs = {"run", "source"}
        wrong = {
            k: (row[k], v) for k, v in truth.items() if k not in differs and not close(row[k], v)
        }
        assert not wrong, (row["step"], row["layer"], row["stage"])
        assert row["source"] != "difference"
        assert truth["source"] != "difference"
    for layer, stage in cells:
        found, truth = two.matrix(3, layer, stage), one.matrix(3, layer, stage)
        per_neuron = (optimizer, stage) == ("normuon", "second_moment")
        rows_of, cols = worker.SHAPES[layer]
        assert found.shape == (rows_of, 1 if per_neuron else cols)
        assert np.allclose(found, truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["broken", "broken_reading"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_whose_capture_fails_holds_nobody_up(how: str, which: int, tmp_path: Path) -> None:
    worker = worker_module()
    alone = tmp_path / "alone"
    alone.mkdir()
    single = worker.go({"optimizer": "normuon"}, alone, 0, worker.Bag())
    ranks = two_ranks(tmp_path, optimizer="normuon", **{how: which})
    assert ranks[which]["failure"] == "broken on purpose"
    assert ranks[1 - which]["failure"] == "capture failed on another rank, see its log"
    assert all(rank["seconds"] < 30 for rank in ranks)
    for name, weights in single["weights"].items():
        assert np.allclose(ranks[0]["weights"][name], weights, rtol=1e-5, atol=1e-7)


def test_an_existing_trace_raises_on_every_rank(tmp_path: Path) -> None:
    worker = worker_module()
    worker.go({"optimizer": "adamw"}, tmp_path, 0, worker.Bag())
    ranks = two_ranks(tmp_path, optimizer="adamw")
    assert [rank["error"] for rank in ranks] == ["TraceExists"] * WORLD
    assert all("start_step" in rank["message"] for rank in ranks)


def test_ranks_that_watch_different_layers_are_refused(tmp_path: Path) -> None:
    ranks = two_ranks(tmp_path, optimizer="adamw", other_layers=1)
    assert [rank["error"] for rank in ranks] == ["WatchError"] * WORLD
    assert "every rank must watch the same layers" in ranks[0]["message"]
    assert not (tmp_path / "trace").exists()
