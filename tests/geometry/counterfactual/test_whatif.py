"""The computed trace: what it says, where it stands, what it may replace, who opens it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import optgeom
from optgeom import figures
from optgeom.figures.identity import algorithm, computed_from, run_slots, titled
from optgeom.rules import muon as muon_rule
from optgeom.traces import Cell, TraceWriter
from optgeom.traces.errors import NotCaptured, OptgeomError, TraceExists
from tests.geometry.counterfactual.training import LAYERS, STEPS, UP, train


def test_run_json_says_what_it_is(muon: optgeom.Trace, whatif: optgeom.Trace) -> None:
    said = whatif.info.computed
    assert (said["from"], said["from_created"]) == ("muon", muon.info.created)
    assert (said["rule"], said["input"]) == ("normuon", {"ns_input": 3})
    assert said["second_moment"] == {"steps_needed": 60, "start": 3 * STEPS}
    assert said["settings"]["ns_dtype"] == "float32"  # the run's, so that only the rule differs
    assert whatif.closed
    assert muon.info.computed == {}
    assert not (muon.folder() / "updates+normuon").exists()
    assert {layer.algorithm for layer in whatif.layers} == {"normuon"}
    assert {layer.neuron_axis for layer in whatif.layers} == {"rows"}
    assert (algorithm(whatif), titled(whatif)) == ("normuon", "Muon+NorMuon (computed)")
    assert computed_from(whatif) == "muon"
    assert not whatif.scalars().num_rows  # the loss belongs to another rule


def test_what_is_known_of_the_step_is_measured(muon: optgeom.Trace, whatif: optgeom.Trace) -> None:
    row = whatif.metrics(steps=100, layers=UP).to_pylist()[0]
    update, weight, gradient, applied = (
        trace.matrix(100, UP, stage).astype(np.float64)
        for trace, stage in (
            (whatif, "update"),
            (muon, "weight"),
            (muon, "gradient"),
            (muon, "update"),
        )
    )

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))

    assert row["update_to_weight"] == pytest.approx(
        0.01 * np.linalg.norm(update) / np.linalg.norm(weight), rel=1e-5
    )
    assert row["radial_fraction"] == pytest.approx(cosine(update, weight), abs=1e-5)
    assert row["cosine_gradient"] == pytest.approx(cosine(update, gradient), abs=1e-5)
    assert row["cosine_applied"] == pytest.approx(cosine(update, applied), abs=1e-5)
    assert row["descent_efficiency"] is not None
    assert row["steps_since_previous"] == 1
    assert (row["source"], row["entering"], row["lr"]) == ("computed", "ns_input", 0.01)


def test_the_relative_step_needs_no_raw_weight(muon: optgeom.Trace, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", "muon", 3)
    rule = (muon_rule(scale="none"),)
    found = optgeom.whatif(plain, rule).traces["muon:none"].grid("update_to_weight").values
    with_it = optgeom.whatif(muon, rule, out=tmp_path, steps=slice(0, 3)).traces["muon:none"]
    np.testing.assert_allclose(found, with_it.grid("update_to_weight").values, rtol=1e-5)


def test_the_answer_in_words(muon: optgeom.Trace, tmp_path: Path) -> None:
    found = optgeom.whatif(muon, ("normuon", "aurora"), out=tmp_path)
    (first, *_) = found.findings("normuon")
    assert first.startswith("NorMuon would spread mlp.up over its neurons")
    assert "more evenly (median CV 0." in first
    assert found.answers
    rows = {row["layer"]: row for row in found.summary().to_pylist() if row["rule"] == "normuon"}
    assert list(rows) == list(LAYERS)
    applied = muon.grid("neuron_norm_cv").values[59:, 1]
    computed = found.traces["normuon"].grid("neuron_norm_cv").values[59:, 1]
    assert rows[UP]["neuron_norm_cv_applied"] == pytest.approx(np.median(applied))
    assert rows[UP]["neuron_norm_cv_computed"] == pytest.approx(np.median(computed))
    assert (rows[UP]["compared"], rows[UP]["young"]) == (STEPS - 59, 59)
    assert "NorMuon, computed from muon" in str(found)
    assert "mlp.up" in str(found)
    runs = found.compare(metrics="neuron_norm_cv").runs
    assert runs == ("muon", "muon+normuon", "muon+aurora")
    assert found.to_json()["rules"][1]["rule"] == "aurora"


def test_nothing_but_its_own_is_replaced(tmp_path: Path, muon: optgeom.Trace) -> None:
    run = train(tmp_path / "a", "muon", 2)
    first = optgeom.whatif(run, "muon").traces["muon"]
    assert first.folder() == tmp_path / "a+muon"
    with pytest.raises(TraceExists, match=r"already holds what muon makes of a: pass overwrite"):
        optgeom.whatif(run, "muon")
    again = optgeom.whatif(run, "muon", overwrite=True, steps=1).traces["muon"]
    assert again.steps().tolist() == [1]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "a+muon"]
    shutil.rmtree(tmp_path / "a+muon")
    shutil.copytree(run.folder(), tmp_path / "a+muon")  # a real run of that name
    with pytest.raises(TraceExists, match="was not computed from a"):
        optgeom.whatif(run, "muon", overwrite=True)
    assert optgeom.open_trace(tmp_path / "a+muon").cell_names("updates")
    # of another run called a
    other = train(tmp_path / "else" / "a", "muon", 2)
    optgeom.whatif(other, "polar")
    shutil.move(tmp_path / "else" / "a+polar", tmp_path / "a+polar")
    found = optgeom.open_trace(tmp_path / "a+polar").info
    if found.computed["from_created"] != run.info.created:
        with pytest.raises(TraceExists, match="was not computed from a"):
            optgeom.whatif(run, "polar", overwrite=True)


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    run = train(tmp_path / "a", "muon", 3)

    def breaks(*_: object) -> object:
        raise RuntimeError("out of luck")

    rule = replace(muon_rule(), apply=breaks)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="out of luck"):
        optgeom.whatif(run, (rule,))
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_wrong_use_says_the_way_out(tmp_path: Path, whatif: optgeom.Trace) -> None:
    with pytest.raises(OptgeomError, match="itself computed from muon"):
        optgeom.whatif(whatif)
    none = train(tmp_path / "none", "muon", 2, updates_every=0)
    with pytest.raises(NotCaptured, match=r"there are none.*\"ns_input\".*burst=60\)"):
        optgeom.whatif(none)
    only = train(tmp_path / "only", "adamw", 2, stages=("update",))
    with pytest.raises(NotCaptured, match=r"of update alone.*\"momentum\"\), updates_every=1000\)"):
        optgeom.whatif(only, "muon")
    run = train(tmp_path / "a", "muon", 2)
    with pytest.raises(NotCaptured, match="no step 7"):
        optgeom.whatif(run, steps=7)
    with pytest.raises(NotCaptured, match="did you mean"):
        optgeom.whatif(run, layers="blocks.0.mlp")
    with pytest.raises(OptgeomError, match="two rules are called muon"):
        optgeom.whatif(run, ("muon", muon_rule(ns_steps=6)))
    with pytest.raises(OptgeomError, match="no rule was named"):
        optgeom.whatif(run, ())


def test_a_sharded_run_is_assembled_and_a_missing_block_is_said(
    tmp_path: Path, muon: optgeom.Trace
) -> None:
    """Two ranks wrote their rows; the second died before the last step."""
    info = replace(muon.info, attempts=(), world_size=2)
    layer = muon.layer(UP)
    for rank in (0, 1):
        with TraceWriter(tmp_path / "sharded", info, rank=rank, wait=True) as writer:
            for step in range(4 - rank):
                key = Cell(step, layer.optimizer, UP, layer.kind, layer.block, "ns_input")
                rows = muon.matrix(step, UP, "ns_input")[(0, 11)[rank] : (11, 24)[rank]]
                writer.update(key, np.ascontiguousarray(rows), row_start=(0, 11)[rank])
                writer.end_step(step)
    sharded = optgeom.open_trace(tmp_path / "sharded")
    found = optgeom.whatif(sharded, updates=True, out=tmp_path / "out")
    computed = found.traces["normuon"]
    whole = optgeom.whatif(muon, updates=True, out=tmp_path, layers=UP, steps=slice(0, 4))
    for step in range(3):
        true = whole.traces["normuon"].matrix(step, UP)
        assert (computed.matrix(step, UP) == true).all()
    assert computed.metrics(steps=3)["status"].to_pylist() == ["incomplete"]
    assert any("not complete" in one for one in found.findings("normuon"))


def test_embeddings_and_heads_are_left_to_adamw_unless_named(
    tmp_path: Path, muon: optgeom.Trace
) -> None:
    folder = shutil.copytree(muon.folder(), tmp_path / "muon")
    from optgeom.traces.writing.runfile import read_run, replace_run

    info = read_run(folder)
    layers = tuple(
        replace(layer, kind="head") if layer.name == LAYERS[0] else layer for layer in info.layers
    )
    replace_run(folder, replace(info, layers=layers))
    trace = optgeom.open_trace(folder)
    found = optgeom.whatif(trace, "muon", steps=slice(0, 2)).traces["muon"]
    assert [layer.name for layer in found.layers] == list(LAYERS[1:])
    named = optgeom.whatif(trace, "muon", steps=slice(0, 2), layers=LAYERS[0], overwrite=True)
    assert [layer.name for layer in named.traces["muon"].layers] == [LAYERS[0]]


def test_every_figure_draws_it_beside_the_original(
    muon: optgeom.Trace, whatif: optgeom.Trace
) -> None:
    both = {"muon": muon, "muon+normuon": whatif}
    drawn = {
        name: getattr(figures, name)(both, UP)
        for name in ("neuron_norms", "spectrum", "metric_over_steps")
    }
    drawn |= {name: getattr(figures, name)(both) for name in ("layer_pairs", "loss")}
    for name, figure in drawn.items():
        text = figure.to_json()
        assert "Muon+NorMuon" in text or name == "loss", name
    alone = [
        figures.neuron_heatmap(whatif, UP),
        figures.spectrum_heatmap(whatif, UP),
        figures.layer_map(whatif),
    ]
    assert all(len(figure.data) for figure in alone)
    told = figures.loss(whatif).to_json()
    assert "computed from" in told.replace("<br>", " ")


def test_a_trained_run_keeps_its_colour(
    muon: optgeom.Trace, normuon: optgeom.Trace, whatif: optgeom.Trace
) -> None:
    found = run_slots([muon, whatif, normuon])
    assert (found["true"], found["muon"]) == (0, 1)
    assert run_slots([muon, whatif])["muon+normuon"] == 0
