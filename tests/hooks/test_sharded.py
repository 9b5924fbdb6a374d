"""Ranks under FSDP2 write one trace, and its numbers are those of one process."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optgeom
from tests.ranks import assert_ended_well, run_ranks

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


def run(folder: Path, world: int, *, timeout: float = 100.0, **plan: Any) -> list[tuple[int, str]]:
    (folder / "plan.json").write_text(json.dumps(plan))
    env = {"PYTHONFAULTHANDLER": "1"}
    return run_ranks(WORKER, folder, world, env=env, timeout=timeout)


def together(folder: Path, world: int = WORLD, **plan: Any) -> list[dict[str, Any]]:
    assert_ended_well(run(folder, world, **plan))
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]


def close(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-7)
    return first == second


KEPT = ["gradient", "weight", "applied", "update"]


@pytest.mark.parametrize(
    ("world", "plan"),
    [
        *((world, {"optimizer": name}) for name in ("adamw", "normuon") for world in (2, 3, 4)),
        *((3, {"optimizer": name, "spectra_every": 3}) for name in ("adamw", "normuon")),
        (4, {"optimizer": "normuon", "mesh": [2, 2]}),
        (2, {"optimizer": "adamw", "stages": KEPT}),
        (2, {"optimizer": "copying", "stages": ["gradient", "update"]}),
        *((2, {"optimizer": name, "ddp": True}) for name in ("adamw", "normuon")),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_the_trace_of_many_ranks_is_that_of_one(
    world: int, plan: dict[str, Any], tmp_path: Path
) -> None:
    worker = worker_module()
    alone = tmp_path / "alone"
    alone.mkdir()
    spectra_every = plan.get("spectra_every", 1)
    single = worker.go(plan, alone, 0, worker.Bag())
    ranks = together(tmp_path, world, **plan)
    assert [rank["failure"] for rank in ranks] == [None] * world
    for name, weights in single["weights"].items():
        assert np.allclose(ranks[0]["weights"][name], weights, rtol=1e-5, atol=1e-7)

    one, many = optgeom.open_trace(alone / "trace"), optgeom.open_trace(tmp_path / "trace")
    assert many.info.world_size == world
    placement = "replicate" if "ddp" in plan else "Shard(dim=0)"
    assert all(placement in layer.placement for layer in many.layers)
    found = {(r["step"], r["layer"], r["stage"]): r for r in many.metrics().to_pylist()}
    expected = {(r["step"], r["layer"], r["stage"]): r for r in one.metrics().to_pylist()}
    assert found.keys() == expected.keys()
    missing = {"ns_input", "orthogonalized"} if plan["optimizer"] == "adamw" else set()
    stages = set(plan.get("stages", worker.STAGES)) - missing
    assert {stage for _, _, stage in expected} == stages
    for cell, truth in expected.items():
        # one process takes our optimizers' updates from their hands
        differs = {"run", "source"}
        wrong = {
            name: (found[cell][name], value)
            for name, value in truth.items()
            if name not in differs and not close(found[cell][name], value)
        }
        assert not wrong, cell
        for source in (found[cell]["source"], truth["source"]) if cell[2] == "update" else ():
            assert (source == "difference") == (plan["optimizer"] == "copying")
    for step, layer, stage in expected:
        if step % spectra_every == 0:
            matrix, truth = many.matrix(step, layer, stage), one.matrix(step, layer, stage)
            assert matrix.shape == truth.shape
            assert np.allclose(matrix, truth, rtol=1e-4, atol=1e-6)
        norms = many.neuron_norms(step, layer, stage), one.neuron_norms(step, layer, stage)
        assert np.allclose(*norms, rtol=1e-5, atol=1e-8)


def test_a_rank_that_is_killed_inside_the_capture_leaves_nobody_waiting(tmp_path: Path) -> None:
    began = time.monotonic()
    first, second = run(tmp_path, 2, timeout=60, optimizer="normuon", broken=1, killed=True)
    assert second[0] == 9
    # its capture stops, and then training finds out by itself that a rank has gone
    assert first[0] not in (0, -9), first[1]
    assert time.monotonic() - began < 60
    assert optgeom.open_trace(tmp_path / "trace").info.world_size == 2


@pytest.mark.parametrize("how", ["broken", "broken_reading"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_whose_capture_fails_holds_nobody_up(how: str, which: int, tmp_path: Path) -> None:
    worker = worker_module()
    alone = tmp_path / "alone"
    alone.mkdir()
    single = worker.go({"optimizer": "normuon"}, alone, 0, worker.Bag())
    ranks = together(tmp_path, optimizer="normuon", **{how: which})
    assert ranks[which]["failure"] == "broken on purpose"
    assert ranks[1 - which]["failure"] == "capture failed on another rank, see its log"
    assert all(rank["seconds"] < 30 for rank in ranks)
    for name, weights in single["weights"].items():
        assert np.allclose(ranks[0]["weights"][name], weights, rtol=1e-5, atol=1e-7)


def test_an_existing_trace_raises_on_every_rank(tmp_path: Path) -> None:
    worker = worker_module()
    worker.go({"optimizer": "adamw"}, tmp_path, 0, worker.Bag())
    ranks = together(tmp_path, optimizer="adamw")
    assert [rank["error"] for rank in ranks] == ["TraceExists"] * WORLD
    assert all("start_step" in rank["message"] for rank in ranks)


def test_ranks_that_watch_different_layers_are_refused(tmp_path: Path) -> None:
    ranks = together(tmp_path, optimizer="adamw", other_layers=1)
    assert [rank["error"] for rank in ranks] == ["WatchError"] * WORLD
    assert "every rank must watch the same layers" in ranks[0]["message"]
    assert not (tmp_path / "trace").exists()
