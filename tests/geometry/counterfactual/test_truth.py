"""What-if against truth: an independent rule, and an optimizer that saw the same momenta."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import optgeom
from optgeom.geometry.counterfactual.rule import UNKNOWN_SHARE
from optgeom.rules import muon as muon_rule
from optgeom.rules import normuon as normuon_rule
from tests.geometry.counterfactual.training import (
    LAYERS,
    STEPS,
    UP,
    PlainNorMuon,
    apart,
    newton_schulz,
    train,
)


def test_the_updates_are_those_of_the_rule_fed_the_same_momenta(
    muon: optgeom.Trace, whatif: optgeom.Trace
) -> None:
    for name in LAYERS:
        rule = PlainNorMuon(muon.layer(name).shape[0])
        errors = [
            apart(whatif.matrix(step, name), rule(muon.matrix(step, name, "ns_input")))
            for step in range(STEPS)
        ]
        assert max(errors) < 1e-5, name


def test_the_updates_are_those_of_an_optimizer_with_the_same_gradients(
    normuon: optgeom.Trace, whatif: optgeom.Trace
) -> None:
    for name in LAYERS:
        errors = [apart(whatif.matrix(s, name), normuon.matrix(s, name)) for s in range(STEPS)]
        assert max(errors) < 1e-5, name


@pytest.mark.parametrize(
    "metric",
    [
        "neuron_norm_cv",
        "neuron_norm_gini",
        "column_norm_cv",
        "condition_number",
        "stable_rank",
        "update_rms",
        "svd_entropy",
        "second_moment_steps",
    ],
)
def test_so_are_their_metrics(normuon: optgeom.Trace, whatif: optgeom.Trace, metric: str) -> None:
    true, found = normuon.grid(metric), whatif.grid(metric)
    assert found.layers == true.layers
    assert (found.steps == true.steps).all()
    assert np.isfinite(found.values).all()
    # CVs of the first steps are rounding alone: v is all of the matrix's own there
    np.testing.assert_allclose(found.values, true.values, rtol=2e-5, atol=2e-7)


def test_norms_and_spectra_are_there_too(normuon: optgeom.Trace, whatif: optgeom.Trace) -> None:
    for step in (0, 64, STEPS - 1):
        np.testing.assert_allclose(
            whatif.neuron_norms(step, UP), normuon.neuron_norms(step, UP), rtol=2e-5
        )
        np.testing.assert_allclose(whatif.spectrum(step, UP), normuon.spectrum(step, UP), rtol=2e-5)


def test_a_rule_of_the_run_itself_changes_nothing(muon: optgeom.Trace, tmp_path: Path) -> None:
    found = optgeom.whatif(muon, "muon", out=tmp_path, updates=True, steps=slice(0, 10))
    same = found.traces["muon"]
    for name in LAYERS:
        assert (same.matrix(9, name) == muon.matrix(9, name)).all()
    rows = found.summary().to_pylist()
    assert [row["cosine_applied"] for row in rows] == pytest.approx([1.0] * 3)
    assert [row["update_rms_ratio"] for row in rows] == pytest.approx([1.0] * 3)
    assert "as it is in muon" in found.findings("muon")[0]


def test_an_adamw_run_enters_with_its_first_moment(tmp_path: Path) -> None:
    trace = train(tmp_path / "a", "adamw", 70, stages=("update", "momentum"))
    found = optgeom.whatif(trace, (normuon_rule(ns_dtype="float32"),), updates=True)
    computed = found.traces["normuon"]
    assert computed.info.computed["input"] == {"momentum": 3}
    assert computed.info.computed["caveats"] == {}  # the paper's NorMuon has no Nesterov
    assert computed.name == "a+normuon"
    rule = PlainNorMuon(24)
    errors = [
        apart(computed.matrix(step, UP), rule(trace.matrix(step, UP, "momentum")))
        for step in range(70)
    ]
    assert max(errors) < 1e-5


def test_a_rule_with_nesterov_is_given_the_gradient_where_it_is_there(tmp_path: Path) -> None:
    with_it = train(tmp_path / "a", "adamw", 5, stages=("update", "momentum", "gradient"))
    without = train(tmp_path / "b", "adamw", 5, stages=("update", "momentum"))
    alone = train(tmp_path / "c", "adamw", 5, stages=("update", "gradient"))
    rule = (muon_rule(scale="none", ns_dtype="float32"),)
    found = {
        t.name: optgeom.whatif(t, rule, updates=True).traces["muon:none"]
        for t in (with_it, without, alone)
    }
    m, g = (with_it.matrix(4, UP, stage) for stage in ("momentum", "gradient"))
    for name, enters in (("a", 0.9 * m + np.float32(0.1) * g), ("b", m), ("c", g)):
        assert apart(found[name].matrix(4, UP), newton_schulz(enters)) < 1e-5
    said = {name: list(trace.info.computed["caveats"]) for name, trace in found.items()}
    assert said["a"] == []
    assert "look-ahead is missing" in said["b"][0]
    assert "momentum is missing" in said["c"][0]


def test_sparse_captures_are_null_and_say_why(tmp_path: Path) -> None:
    trace = train(tmp_path / "muon", "muon", 101, every=50, updates_every=50)
    found = optgeom.whatif(trace)
    computed = found.traces["normuon"]
    assert computed.steps().tolist() == [0, 50, 100]
    for step in (50, 100):
        for row in computed.metrics(steps=step).to_pylist():
            assert row["status"] == row["spectrum_status"] == "no_second_moment"
            assert row["neuron_norm_cv"] is row["condition_number"] is row["update_rms"] is None
            assert row["lr"] == 0.01
    # the run's first step is exact: v begins at zero, and evens everything out
    assert computed.grid("neuron_norm_cv").values[0] == pytest.approx(0.0, abs=1e-5)
    assert not found.answers
    for one in found.summary().to_pylist():
        assert one["neuron_norm_cv_computed"] is None
        assert (one["cells"], one["computed"], one["young"], one["compared"]) == (3, 1, 1, 0)
        assert one["why"] == ("2 of 3: too few consecutive captured steps for the second moment")
    (said,) = (one for one in found.findings("normuon") if one.startswith("Null"))
    assert "burst=60" in said
    assert 'stages=("update", "ns_input")' in said


def test_sixty_consecutive_steps_are_within_the_bound(
    tmp_path: Path, muon: optgeom.Trace, whatif: optgeom.Trace
) -> None:
    """What is left of the start is missing from v, so that row j comes out too large.

    By (1 - beta^60 a_j)^-1/2, where a_j is its v before over its v now; what all rows share goes
    with the rescale, so that the error is the spread of that. Here rows change size by factors.
    """
    burst = train(tmp_path / "muon", "muon", every=1, spectra_every=65, updates_every=65, burst=60)
    computed = optgeom.whatif(burst, updates=True).traces["normuon"]
    last = 65 + 59
    assert (
        computed.grid("neuron_norm_cv").values[-2, 0]
        != computed.grid("neuron_norm_cv").values[-2, 0]
    )
    row = computed.metrics(steps=last, layers=UP).to_pylist()[0]
    assert (row["status"], row["second_moment_from"], row["second_moment_steps"]) == (
        "ok",
        "burst",
        60,
    )
    for name in LAYERS:
        rule, before = PlainNorMuon(muon.layer(name).shape[0]), None
        for step in range(last + 1):
            if step == 65:
                before = rule.v.copy()
            rule(muon.matrix(step, name, "ns_input"))
        assert before is not None
        too_large = (1 - UNKNOWN_SHARE * before / rule.v) ** -0.5
        bound = too_large.max() / too_large.min() - 1
        begun_at_zero = PlainNorMuon(len(rule.v))
        for step in range(65, last + 1):
            expected = begun_at_zero(muon.matrix(step, name, "ns_input"))
        assert apart(computed.matrix(last, name), expected) < 1e-5
        error = apart(computed.matrix(last, name), whatif.matrix(last, name))
        assert 1e-4 < error <= bound
        assert error < 0.05


def test_the_second_moment_of_the_run_is_taken_where_it_is_the_rules(tmp_path: Path) -> None:
    trace = train(
        tmp_path / "own",
        "normuon",
        90,
        every=30,
        updates_every=30,
        stages=("update", "ns_input", "second_moment"),
    )
    other = normuon_rule(beta2=0.9, ns_dtype="float32")
    found = optgeom.whatif(trace, updates=True)
    computed = found.traces["normuon"]
    for step in (0, 30, 60):
        for name in LAYERS:
            assert apart(computed.matrix(step, name), trace.matrix(step, name)) < 1e-5
    rows = computed.metrics(steps=60).to_pylist()
    assert {(row["second_moment_from"], row["second_moment_steps"]) for row in rows} == {
        ("recorded", 61)
    }
    assert found.answers
    another = optgeom.whatif(trace, (other,), overwrite=True).traces["normuon"]
    assert set(another.metrics(steps=60)["status"].to_pylist()) == {"no_second_moment"}
