"""Ranks that share matrices, by rows or as replicas: the same update as one process."""

from __future__ import annotations

import runpy
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optgeom.optim.dealing import orthogonalization_cost
from tests.ranks import assert_ended_well, run_ranks

WORKER = Path(__file__).with_name("fsdp_worker.py")
CASES = ["paper", "released", "dion", "larger-axis", "muon", "float32", "float32 in bfloat16"]
WORLDS = [1, 2, 3, 4]
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def worker() -> dict[str, Any]:
    return runpy.run_path(str(WORKER))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``ranks(world)``: what each of that many ranks found."""

    @cache
    def run(world: int) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp(f"world{world}")
        assert_ended_well(run_ranks(WORKER, folder, world))
        return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]

    return run


@pytest.fixture(scope="module")
def alone(worker: dict[str, Any]) -> Any:
    """``alone(case)``: what one process without any ranks makes of it."""
    return cache(worker["single"])


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


def assert_same(found: dict[str, Any], expected: dict[str, Any], start: dict[str, Tensor]) -> None:
    for name, weights in found["weights"].items():
        moved = expected["weights"][name] - start[name]
        assert relative(weights - start[name], moved) < 1e-5, name
        state = found["state"][name]
        assert state.keys() == expected["state"][name].keys()
        for key, value in state.items():
            assert value.shape == expected["state"][name][key].shape
            assert relative(value, expected["state"][name][key]) < 1e-5, (name, key)


@pytest.fixture(scope="module")
def start(worker: dict[str, Any]) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in worker["Bag"]().named_parameters()}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", CASES)
def test_shards_move_like_one_process(case: str, world: int, ranks, alone, start) -> None:
    for found in ranks(world):
        assert_same(found["sharded"][case], alone(case), start)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", ["paper", "muon", "larger-axis"])
def test_replicas_move_like_one_process(case: str, world: int, ranks, alone, start) -> None:
    for found in ranks(world):
        assert_same(found["replicated"][case], alone(case), start)


@pytest.mark.parametrize("case", ["paper", "dion", "muon"])
def test_replicas_of_shards_move_like_one_process(case: str, ranks, alone, start) -> None:
    for found in ranks(4):
        assert_same(found["hybrid"][case], alone(case), start)


@pytest.mark.parametrize("world", WORLDS[1:])
def test_replicas_are_equal_to_the_bit_after_many_steps(world: int, ranks) -> None:
    found = ranks(world)
    for case, first in found[0]["replicated"].items():
        for other in found[1:]:
            for name, weights in first["own"].items():
                assert torch.equal(weights, other["replicated"][case]["own"][name]), (case, name)


def test_replicas_of_shards_are_equal_to_the_bit_after_many_steps(ranks) -> None:
    found = ranks(4)
    for case, first in found[0]["hybrid"].items():
        for rank in (0, 1):  # ranks 0 and 2 hold the same rows, 1 and 3 the others
            for name in first["own"]:
                mine, theirs = (found[r]["hybrid"][case]["own"][name] for r in (rank, rank + 2))
                assert torch.equal(mine, theirs), (case, name)


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_gradient_that_a_rank_lacks_counts_as_zero(everywhere, ranks, worker, start) -> None:
    expected = worker["single"]("paper", worker["missing"](everywhere))
    for found in ranks(2):
        assert_same(found["silent"][everywhere], expected, start)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", CASES)
def test_a_sharded_checkpoint_goes_on_with_the_same_bits(case: str, world: int, ranks) -> None:
    for found in ranks(world):
        straight = found["sharded"][case]
        for name, weights in straight["weights"].items():
            assert torch.equal(weights, straight["resumed"]["weights"][name])
            for key, value in straight["state"][name].items():
                assert torch.equal(value, straight["resumed"]["state"][name][key]), (name, key)


@pytest.mark.parametrize("world", WORLDS[1:])
def test_a_weight_travels_as_two_bytes_out_and_two_back(world: int, ranks) -> None:
    every = [found["even"] for found in ranks(world)]
    sent = sum(
        call["bytes"]
        for found in every
        for call in found["calls"]
        if call.get("name") == "all_to_all_single"
    )
    weights = sum(rows * cols for rows, cols in every[0]["shapes"])
    flags = len(every[0]["shapes"]) * world  # whether a rank has a gradient
    assert sent == (weights + flags) * (2 + 2) * (world - 1) // world
    for found in every:  # two numbers a matrix are added up
        reduced = [c["bytes"] for c in found["calls"] if c.get("name") == "all_reduce"]
        assert sum(reduced) == len(found["shapes"]) * 2 * 4


@pytest.mark.parametrize("world", WORLDS[1:])
def test_the_work_is_dealt_and_nobody_does_it_twice(world: int, ranks, worker) -> None:
    def done(found: dict[str, Any]) -> list[tuple[int, ...]]:
        made = [c["shape"] for c in found["calls"] if c["what"] == "orthogonalize"]
        return [tuple(shape[1:]) for shape in made for _ in range(shape[0])]

    every = [done(found["even"]) for found in ranks(world)]
    assert sorted(chain.from_iterable(every)) == sorted(ranks(world)[0]["even"]["shapes"])
    costs = [sum(map(orthogonalization_cost, one)) for one in every]
    dearest = max(map(orthogonalization_cost, chain.from_iterable(every)))
    assert max(costs) - min(costs) <= dearest
    replicas = [done(found["replicated"]["muon"]) for found in ranks(world)]
    matrices = [shape for shape in worker["SHAPES"].values() if len(shape) > 1]
    assert sorted(chain.from_iterable(replicas), key=str) == sorted(matrices, key=str)


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("way", ["sharded", "even"])
def test_the_next_matrices_are_under_way_while_these_are_computed(way, world, ranks) -> None:
    for found in ranks(world):
        calls = (found[way]["paper"] if way == "sharded" else found[way])["calls"]
        under_way, computed = set(), []
        for call in calls:
            if call["what"] == "launch":
                under_way.add(call["number"])
            elif call["what"] == "wait":
                under_way.remove(call["number"])
            elif len(call["shape"]) == 3:  # a stack stays where it is
                computed.append(set(under_way))
        # each waited for its own alone: the next one's rows were sent before, and not awaited
        assert all(computed[:-1])
        assert not under_way


@pytest.mark.parametrize("world", WORLDS)
def test_a_matrix_that_one_rank_alone_has_changes_nobody_s_order(world: int, ranks) -> None:
    assert all(found["odd one out"] < 1e-6 for found in ranks(world))


def test_shards_were_uneven_and_empty(ranks) -> None:
    rows = {
        world: {
            name: [found["sharded"]["paper"]["local"][name][0] for found in ranks(world)]
            for name in ("uneven", "one_row", "two_rows", "stack")
        }
        for world in (2, 4)
    }
    assert rows[2] == {"uneven": [33, 32], "one_row": [1, 0], "two_rows": [1, 1], "stack": [2, 1]}
    assert rows[4]["uneven"] == [17, 17, 17, 14]
    assert rows[4]["two_rows"] == [1, 1, 0, 0]
    assert rows[4]["stack"] == [1, 1, 1, 0]


@pytest.mark.parametrize("world", WORLDS)
def test_state_is_sharded(world: int, ranks, worker) -> None:
    for name, (*stack, rows, cols) in (
        (name, shape) for name, shape in worker["SHAPES"].items() if len(shape) > 1
    ):
        held = sum(found["sharded"]["paper"]["held"][name] for found in ranks(world))
        assert held == (stack[0] if stack else 1) * rows * (cols + 1)


def test_stages_are_handed_over_as_the_rows_that_a_rank_has(ranks, worker) -> None:
    for found in ranks(2):
        case = found["sharded"]["paper"]
        for stage in ("ns_input", "orthogonalized", "update"):
            shapes = sorted(shape for what, shape in case["seen"] if what == stage)
            names = [n for n, s in worker["SHAPES"].items() if len(s) > 1 or stage == "update"]
            assert shapes == sorted(case["local"][name] for name in names)


def test_other_placements_are_refused_by_name(ranks) -> None:
    for found in ranks(4):
        said = found["refused"]
        assert said.keys() == {
            "columns",
            "rows and columns",
            "rows twice",
            "copies twice",
            "downwards",
            "unsummed gradient",
        }
        assert "placed as (Shard(dim=1)) on a mesh of shape (4,)" in said["columns"]
        assert "(Shard(dim=0), Shard(dim=1)) on a mesh of shape (2, 2)" in said["rows and columns"]
        assert "Partial" in said["unsummed gradient"]
        assert "numbers its ranks upwards, got [3, 2, 1, 0]" in said.pop("downwards")
        assert all(
            "mark its group algorithm='adamw'" in said[name]
            for name in said
            if name != "unsummed gradient"
        )
