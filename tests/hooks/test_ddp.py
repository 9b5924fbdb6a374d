"""Plain DDP on two ranks: one trace of the averaged gradients, and not a bit of the run changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import optgeom
from tests.ranks import assert_ended_well, run_ranks


@pytest.mark.distributed
def test_two_ranks_under_ddp_write_one_trace(tmp_path: Path) -> None:
    here = Path(__file__)
    root = {"PYTHONPATH": str(here.parents[2])}
    ended = run_ranks(here.with_name("ddp_worker.py"), tmp_path, 2, env=root)
    assert_ended_well(ended)
    said = [json.loads(out.splitlines()[-1]) for _, out in ended]
    assert said[0]["watched"] == said[0]["plain"] == said[1]["watched"]
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.closed
    assert [layer.name for layer in trace.layers] == ["up", "down"]
    assert trace.steps().tolist() == [0, 2, 4, 6]
    sent = [tuple(one) for one in said[0]["sent"]]
    rows = trace.metrics(layers="up", stages="update").to_pylist()
    wanted = [(row["step"], "optgeom/other/neuron_norm_cv_max") for row in rows]
    assert [one[:2] for one in sent if one[1] == wanted[0][1]] == wanted
    assert said[1]["sent"] == []  # rank 0 alone sends


@pytest.mark.distributed
def test_the_update_is_that_of_one_process(tmp_path: Path) -> None:
    here = Path(__file__)
    root = {"PYTHONPATH": str(here.parents[2])}
    for world in (1, 2):
        (tmp_path / str(world)).mkdir()
        assert_ended_well(
            run_ranks(here.with_name("ddp_worker.py"), tmp_path / str(world), world, env=root)
        )
    one, two = (optgeom.open_trace(tmp_path / world / "run") for world in ("1", "2"))
    for name in ("frobenius_norm", "neuron_norm_cv", "condition_number"):
        mine, theirs = (each.grid(name).values for each in (one, two))
        assert theirs == pytest.approx(mine, rel=1e-4), name
