"""What only several ranks show, on two of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import optgeom
from tests.ranks import assert_ended_well, run_ranks

WORKER = Path(__file__).with_name("ranks_worker.py")

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, optgeom.Trace]:
    folder = tmp_path_factory.mktemp("ranks")
    assert_ended_well(run_ranks(WORKER, folder, 2))
    names = ("sharded", "per_shard", "alike", "apart")
    return {name: optgeom.open_trace(folder / name) for name in names}


def test_shards_that_are_orthogonalized_by_themselves(
    runs: Mapping[str, optgeom.Trace],
) -> None:
    (found,) = optgeom.diagnose(runs["per_shard"]).findings
    assert (found.rule, found.severity) == ("orthogonalized_per_shard", "severe")
    assert len(found.layers) >= 8  # raw matrices of four, spectra of those that are not tall
    assert "row blocks" in found.title
    assert "raw matrices of 4" in found.title
    # the row norms look as healthy as those of the matrix that was gathered
    for name in ("per_shard", "sharded"):
        cv = runs[name].grid("neuron_norm_cv").values
        wide = [one.shape[0] <= one.shape[1] and one.kind != "head" for one in runs[name].layers]
        assert np.nanmedian(cv[:, wide]) < 0.1


def test_spectra_alone_show_it_where_the_scale_is_known(
    runs: Mapping[str, optgeom.Trace],
) -> None:
    without_raw = optgeom.diagnose(runs["per_shard"], steps=[5, 10, 15, 25])
    found = next(one for one in without_raw.findings if one.rule == "orthogonalized_per_shard")
    assert "stacked blocks" in found.title
    assert all(not layer.endswith("up") for layer in found.layers)
    assert len(found.layers) >= 6


def test_a_matrix_that_is_gathered_is_healthy(runs: Mapping[str, optgeom.Trace]) -> None:
    for steps in (None, [5, 10, 15, 25]):
        found = optgeom.diagnose(runs["sharded"], steps=steps)
        assert "orthogonalized_per_shard" in found.judged
        assert not found.found, str(found)
    assert "no weight is held by two ranks" in found.not_judged["ranks_disagree"]


def test_ranks_that_do_not_average_disagree(runs: Mapping[str, optgeom.Trace]) -> None:
    (found,) = optgeom.diagnose(runs["apart"]).findings
    assert (found.rule, found.severity) == ("ranks_disagree", "severe")
    assert len(found.layers) == 13
    assert found.steps == (5, 10, 15, 20, 25)  # all began with the same weights


def test_ranks_that_average_agree(runs: Mapping[str, optgeom.Trace]) -> None:
    found = optgeom.diagnose(runs["alike"])
    assert "ranks_disagree" in found.judged
    assert not found.found, str(found)
