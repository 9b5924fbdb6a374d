"""The result object, what rules may be asked, and what they say when they cannot look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optgeom
from optgeom.geometry.diagnosis.declared import declared
from optgeom.geometry.diagnosis.flatness import Spectra, band_share, spectra_of
from optgeom.geometry.diagnosis.page import diagnose_page
from optgeom.geometry.diagnosis.registry import RULES
from optgeom.geometry.diagnosis.seen import NotJudged, Seen
from optgeom.geometry.diagnosis.thresholds import THRESHOLDS
from optgeom.geometry.diagnosis.uses import thresholds_of
from optgeom.traces import LayerInfo, RunInfo, TraceWriter
from optgeom.traces.errors import NotCaptured, OptgeomError
from optgeom.traces.info import OptimizerInfo
from tests.geometry.diagnosis.loops import hidden, train

ROOT = Path(__file__).parents[3]


def test_the_page_is_in_step_with_the_rules() -> None:
    assert (ROOT / "docs" / "diagnose.md").read_text() == diagnose_page()


def test_every_threshold_has_a_source_and_a_rule_that_uses_it() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    used = {one.name for rule in RULES for one in thresholds_of(rule)}
    for one in THRESHOLDS:
        assert one.source
        assert one.name in used
    assert len({one.name for one in THRESHOLDS}) == len(THRESHOLDS)


def test_thresholds_are_found_in_the_code_of_rules() -> None:
    """Against a list by hand, of rules that reach theirs by functions, lambdas and properties."""
    found = {rule.name: [one.name for one in thresholds_of(rule)] for rule in RULES}
    assert found["ascends"] == ["stays", "lasting", "ascends"]
    assert found["uneven_neurons"] == ["uneven", "row_error", "enough"]
    assert found["decay_twice"] == ["lasting", "decay_seen", "decay_twice"]
    assert {"slowest", "repeats", "same_size", "repeated_share"} <= set(found["repeated_update"])
    assert {"reach", "tail", "full_steps"} <= set(found["not_converged"])


def test_the_result_is_json(healthy: Mapping[str, optgeom.Trace]) -> None:
    found = optgeom.diagnose(healthy["muon-0"])
    again = json.loads(json.dumps(found.to_json()))
    assert again["run"] == "muon-0"
    assert [one["rule"] for one in again["findings"]] == ["uneven_neurons"]
    assert again["findings"][0]["evidence"][0]["what"] == "neuron_norm_cv"
    assert set(again["judged"]) | set(again["not_judged"]) == {rule.name for rule in RULES}


def test_some_rules_alone(healthy: Mapping[str, optgeom.Trace]) -> None:
    trace = healthy["muon-0"]
    assert optgeom.diagnose(trace, rules="uneven_neurons").judged == ("uneven_neurons",)
    two = optgeom.diagnose(trace, rules=["muon_scale", "not_orthogonal"])
    assert two.judged == ("not_orthogonal", "muon_scale")
    with pytest.raises(OptgeomError, match=r"no rule 'muon_scal' \(did you mean 'muon_scale'\?\)"):
        optgeom.diagnose(trace, rules=["muon_scal"])


def test_some_steps_alone(healthy: Mapping[str, optgeom.Trace]) -> None:
    trace = healthy["muon-0"]
    (note,) = optgeom.diagnose(trace, steps=slice(30, None)).findings
    assert min(note.steps) >= 30
    with pytest.raises(NotCaptured, match="no step 7"):
        optgeom.diagnose(trace, steps=7)
    nothing = optgeom.diagnose(trace, steps=slice(1000, None))
    assert not nothing.judged
    assert set(nothing.not_judged.values()) == {"nothing was captured"}


def test_without_spectra_nothing_is_said_of_orthogonality(tmp_path: Path) -> None:
    import torch

    trace = train(
        tmp_path / "run",
        lambda net: torch.optim.Muon(hidden(net), lr=0.02),
        steps=12,
        spectra_every=20,
        updates_every=0,
    )
    later = optgeom.diagnose(trace, steps=slice(1, None))
    for rule in ("not_orthogonal", "muon_scale", "not_converged"):
        assert later.not_judged[rule] == (
            "no spectra of update were captured at these steps: spectra_every=20"
        )


def test_an_empty_trace_is_not_judged(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "run", RunInfo("run")):
        pass
    found = optgeom.diagnose(optgeom.open_trace(tmp_path / "run"))
    assert not found.findings
    assert not found.judged


def test_of_a_computed_trace_no_step_is_judged(
    healthy: Mapping[str, optgeom.Trace], tmp_path: Path
) -> None:
    made = optgeom.whatif(healthy["muon-0"], ("polar",), out=tmp_path).traces["polar"]
    found = optgeom.diagnose(made)
    assert not found.found, str(found)
    for rule in ("gradient_overwritten", "ranks_disagree", "repeated_update", "reversed_update"):
        assert found.not_judged[rule].startswith("the trace was computed from another run")


def layer(**known: Any) -> LayerInfo:
    values = {"algorithm": None, "stored": (64, 16)} | known
    return LayerInfo("a", "mlp.up", 0, (64, 16), "float32", "opt", 0, **values)


@pytest.mark.parametrize(
    ("type_", "group", "algorithm", "factor"),
    [
        ("torch.optim._muon.Muon", {"adjust_lr_fn": None}, "muon", 2.0),
        ("torch.optim._muon.Muon", {"adjust_lr_fn": "match_rms_adamw"}, "muon", 0.2 * 8),
        ("optgeom.optim.muon.Muon", {"scale": "spectral"}, "muon", 2.0),
        ("muon.SingleDeviceMuonWithAuxAdam", {"use_muon": True, "momentum": 0.9}, "muon", None),
        ("muon.SingleDeviceMuonWithAuxAdam", {"use_muon": False}, "other", None),
        ("mine.MuonAndAdam", {"betas": [0.9, 0.95]}, "other", None),
        ("pytorch_optimizer.x.Muon", {"use_muon": True, "use_adjusted_lr": False}, "muon", 2.0),
        ("pytorch_optimizer.x.AdaMuon", {"use_muon": True}, "other", None),
        ("mine.NorMuon", {}, "normuon", None),
        ("torch.optim.adamw.AdamW", {"betas": [0.9, 0.95]}, "other", None),
        ("mine.Thing", {"algorithm": "normuon"}, "normuon", None),
    ],
)
def test_an_optimizer_is_taken_at_its_word(
    type_: str, group: dict[str, Any], algorithm: str, factor: float | None
) -> None:
    info = RunInfo("run", optimizers=(OptimizerInfo("opt", type_, (group,)),))
    found = declared(layer(), info)
    assert found.algorithm == algorithm
    assert found.factor == (None if factor is None else pytest.approx(factor))


def test_the_shape_is_the_one_that_the_optimizer_sees() -> None:
    group = {"adjust_lr_fn": "original"}
    info = RunInfo("run", optimizers=(OptimizerInfo("opt", "torch.optim.Muon", (group,)),))
    turned = layer(transposed=True, stored=(16, 64))
    assert declared(turned, info).factor == 1.0
    assert declared(layer(), info).factor == 2.0
    assert declared(layer(split="q", stored=(192, 16)), info).factor is None
    assert declared(layer(split="3", stored=(4, 64, 16)), info).factor == 2.0


def test_the_marks_of_a_jordan_iteration(rng: np.random.Generator) -> None:
    """Against a float64 polar factor: both are flat, whatever rank and scale; a gradient is not."""
    gradient = rng.standard_normal((48, 96)) @ np.diag(np.logspace(0, -6, 96))
    gradient[:, 20:] = 0.0  # rank 20
    u, s, v = np.linalg.svd(gradient, full_matrices=False)
    polar = u[:, :20] @ v[:20]
    assert band_share(np.linalg.svd(7.0 * polar, compute_uv=False)) == 1.0
    assert band_share(s) < 0.35


def test_stacked_blocks_gain_up_to_the_root_of_their_number(rng: np.random.Generator) -> None:
    """What the threshold on the whole's largest singular value rests on."""
    common = rng.standard_normal((1, 64))
    for shards in (2, 4, 8):
        blocks = []
        for _ in range(shards):
            block = rng.standard_normal((8, 64)) + 5.0 * rng.standard_normal((8, 1)) * common
            u, _, v = np.linalg.svd(block, full_matrices=False)
            blocks.append(u @ v)
        top = np.linalg.norm(np.concatenate(blocks), 2)
        assert 1.0 + 0.9 * (sqrt(shards) - 1.0) < top <= sqrt(shards) + 1e-9


def test_columns_say_no_more_than_the_spectra(healthy: Mapping[str, optgeom.Trace]) -> None:
    """Where columns alone tell that a layer is flat, its singular values tell so too."""
    told = 0
    for name in ("muon-0", "normuon-1", "torch-muon"):
        seen = Seen.of(healthy[name], None)
        spectra = spectra_of(seen)
        assert not isinstance(spectra, NotJudged)
        for one in (each for each in spectra if not each.shares):
            steps, values = seen.trace.spectra(seen.layers[one.layer].name)
            exact = Spectra.of(one.layer, one.declared, steps.tolist(), values)
            assert exact.is_flat == one.is_flat
            assert exact.share >= one.share - 1e-9
            assert one.level == pytest.approx(exact.level, rel=0.2)
            assert one.frobenius == pytest.approx(exact.frobenius, rel=1e-4)
            told += 1
    assert told >= 10
