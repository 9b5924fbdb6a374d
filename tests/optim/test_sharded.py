"""Two ranks, weights sharded by rows: the same weights as one process, to 1e-5."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optgeom.optim.sharding import gather, is_sharded, local, take_back

WORKER = Path(__file__).with_name("fsdp_worker.py")
CASES = ["paper", "released", "dion", "larger-axis", "muon"]
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def worker() -> dict[str, Any]:
    return runpy.run_path(str(WORKER))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found, by case."""
    folder = tmp_path_factory.mktemp("fsdp")
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(rank), "2"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=180)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("case", CASES)
def test_weights_equal_those_of_one_process(case: str, ranks, worker) -> None:
    expected = worker["single"](case)
    start = dict(worker["Bag"]().named_parameters())
    for found in ranks:
        for name, weights in found[case]["weights"].items():
            moved = expected["weights"][name] - start[name]
            assert relative(weights - start[name], moved) < 1e-5, name


@pytest.mark.parametrize("case", CASES)
def test_state_equals_that_of_one_process(case: str, ranks, worker) -> None:
    expected = worker["single"](case)["state"]
    for found in ranks:
        for name, state in found[case]["state"].items():
            assert state.keys() == expected[name].keys()
            for key, value in state.items():
                assert value.shape == expected[name][key].shape
                assert relative(value, expected[name][key]) < 1e-5, (name, key)


@pytest.mark.parametrize("case", CASES)
def test_a_sharded_checkpoint_goes_on_with_the_same_bits(case: str, ranks) -> None:
    for found in ranks:
        straight, resumed = found[case], found[case]["resumed"]
        for name, weights in straight["weights"].items():
            assert torch.equal(weights, resumed["weights"][name])
            for key, value in straight["state"][name].items():
                assert torch.equal(value, resumed["state"][name][key]), (name, key)


def test_shards_were_uneven_and_empty_and_matrices_seen_whole(ranks, worker) -> None:
    first, second = (found["paper"]["local_rows"] for found in ranks)
    assert (first["uneven"], second["uneven"]) == (33, 32)
    assert (first["one_row"], second["one_row"]) == (1, 0)
    shapes = [shape for shape in worker["SHAPES"].values() if len(shape) > 1]
    for found in ranks:
        assert found["paper"]["seen"][: 2 * len(shapes)] == [s for s in shapes for _ in range(2)]


def test_plain_tensors_pass_through() -> None:
    p = nn.Parameter(torch.ones(3, 2))
    part = torch.zeros(3, 2)
    assert not is_sharded(p)
    assert local(p) is p
    assert gather(part, like=p) is part
    assert take_back(part, like=p) is part
