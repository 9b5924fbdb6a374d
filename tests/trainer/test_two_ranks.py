"""Two ranks, as torchrun starts them: the losses and the trace of one process."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optgeom.traces.store import open_trace
from optgeom.trainer import train
from tests.ranks import assert_ended_well, run_ranks

WORKER = Path(__file__).with_name("two_ranks.py")
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_text(tmp_path)


def with_text(folder: Path) -> Path:
    # Random bytes: full-rank gradients, so that no null space amplifies the last bits.
    noise = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8)
    (folder / "text.txt").write_bytes(noise.tobytes())
    return folder


def torchrun(folder: Path, *case: str) -> list[dict[str, Any]]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(WORKER), str(folder), *case],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return left_in(folder, 2)


def on_ranks(folder: Path, *case: str, ranks: int = 2) -> list[dict[str, Any]]:
    """The same from ranks that are started sooner than by torchrun, which imports torch thrice."""
    assert_ended_well(run_ranks(WORKER, folder, ranks, words=case, timeout=180))
    return left_in(folder, ranks)


def left_in(folder: Path, ranks: int) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize("case", ["normuon", "muon", "adamw"])
def test_two_ranks_lose_and_record_what_one_process_does(folder: Path, case: str) -> None:
    found = torchrun(folder, case) if case == "normuon" else on_ranks(folder, case)
    expected = train(runpy.run_path(str(WORKER))["config_of"](folder, case), out=folder / "one")
    assert [rank["world"] for rank in found] == [2, 2]
    assert found[0] == found[1]
    assert found[0]["losses"] == pytest.approx(expected.losses, rel=1e-5)
    assert found[0]["eval_loss"] == pytest.approx(expected.eval_loss, rel=1e-5)

    one, two = open_trace(str(folder / "one")), open_trace(str(folder / "trace"))
    assert (one.info.world_size, two.info.world_size) == (1, 2)
    assert two.closed
    assert len(one.layers) > 0
    assert [layer.name for layer in one.layers] == [layer.name for layer in two.layers]
    assert one.steps().tolist() == two.steps().tolist() == [0, 2, 4, 5]
    a, b = one.metrics(), two.metrics()
    assert a.num_rows == b.num_rows > 0
    for name in ("step", "layer", "stage", "lr", "decay", "status"):  # a shard is not tapped
        assert a.column(name).to_pylist() == b.column(name).to_pylist(), name
    for name in ("frobenius_norm", "spectral_norm", "update_rms", "stable_rank"):
        first, second = (np.array(t.column(name).to_pylist(), dtype=np.float64) for t in (a, b))
        np.testing.assert_allclose(first, second, rtol=1e-3, err_msg=name)
    for step in (0, 4, 5):
        for layer in one.layers:
            whole, gathered = (t.matrix(step, layer.name, "update") for t in (one, two))
            distance = np.linalg.norm(whole - gathered) / np.linalg.norm(whole)
            assert distance < 1e-3, (step, layer.name)


def test_ctrl_c_on_one_rank_ends_all_of_them(folder: Path) -> None:
    assert on_ranks(folder, "stopped") == [{"interrupted": True, "left": True}] * 2
    trace = open_trace(str(folder / "trace"))
    assert trace.closed
    assert trace.steps().tolist() == [0, 2, 4]


def test_a_batch_that_two_ranks_cannot_share_is_refused_by_both(folder: Path) -> None:
    found = on_ranks(folder, "uneven")
    assert all("multiple of the number of ranks (2), got 7" in one["refused"] for one in found)
    assert all(one["left"] for one in found)
    assert not (folder / "trace").exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder where two ranks have stopped at a checkpoint, and what they find who do not stop."""
    folder = with_text(tmp_path_factory.mktemp("saved"))
    (straight, _) = on_ranks(folder, "kept", "straight")
    assert on_ranks(folder, "kept", "stop") == [{"interrupted": True, "left": True}] * 2
    latest = json.loads((folder / "checkpoints" / "latest").read_text())
    assert latest == {"checkpoint": "step-00000005"}
    for left in ("checkpoints", "stop"):
        shutil.copytree(folder / left, folder / "as it was left" / left)
    return folder, straight


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_run_saved_on_two_ranks_is_resumed_on(
    ranks: int, saved: tuple[Path, dict[str, Any]]
) -> None:
    folder, straight = saved
    for left in ("checkpoints", "stop"):
        shutil.rmtree(folder / left)
        shutil.copytree(folder / "as it was left" / left, folder / left)
    found = on_ranks(folder, "kept", "resume", ranks=ranks)[0]
    assert found["world"] == ranks
    assert found["losses"] == pytest.approx(straight["losses"][5:], rel=1e-5)
    if ranks == 2:  # the same bits
        assert found["losses"] == straight["losses"][5:]
        assert found["eval_loss"] == straight["eval_loss"]
