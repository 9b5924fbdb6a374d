"""Every reason for having no ratio, and what is declared to depend on the size of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import optgeom
from optgeom.geometry import METRICS, Comparison
from optgeom.geometry.comparison.rules import DEPENDS_ON_SIZE
from tests.geometry.comparison.test_comparison import ADAMW, MUON, SHAPES, Pair, Run, numbers, rows


def refused(found: Comparison, metric: str, *words: str, run: str = "b") -> None:
    """Every kind's row has a reason instead of a ratio, and so has a finding."""
    mine = rows(found, metric, run)
    assert mine
    for row in mine.values():
        assert row["ratio"] is None
        assert not row["comparable"]
        for word in words:
            assert word in row["why"], row["why"]
    said = [one for one in found.findings if one.startswith("Not comparable") and metric in one]
    if len(set(found.table["metric"].to_pylist())) == 1:
        said += [one for one in found.findings if one.startswith("Not comparable: all")]
    assert any(all(word in one for word in words) for one in said), found.findings


class TestNotComparable:
    def test_no_shared_step(self, opened: Pair) -> None:
        found = optgeom.compare(opened(a=Run(), b=Run(steps=(5, 15))), metrics="neuron_norm_cv")
        refused(found, "neuron_norm_cv", "no step is shared with a", "5 to 15", "0 to 30")
        assert found.steps == (0, 10, 20, 30)
        assert not found.comparable

    def test_pairs_share_steps_and_all_three_do_not(self, opened: Pair) -> None:
        traces = opened(a=Run(), b=Run(steps=(0, 10)), c=Run(steps=(20, 30)))
        found = optgeom.compare(traces, metrics="neuron_norm_cv")
        for run in "abc":
            refused(found, "neuron_norm_cv", "share no capture all together", run=run)
        assert found.steps == ()

    def test_a_stage_that_one_run_lacks(self, opened: Pair) -> None:
        traces = opened(a=Run(stages=("gradient", "update")), b=Run())
        found = optgeom.compare(traces, stage="gradient", metrics="neuron_norm_cv")
        refused(found, "neuron_norm_cv", "gradient was not captured", "there is update")
        turned = optgeom.compare(traces, stage="gradient", reference="b", metrics="neuron_norm_cv")
        refused(turned, "neuron_norm_cv", "the reference, b, has no value", run="a")

    def test_no_step_that_was_asked_for(self, opened: Pair) -> None:
        found = optgeom.compare(
            opened(a=Run(), b=Run(steps=(0,))), steps=slice(10, None), metrics="neuron_norm_cv"
        )
        refused(found, "neuron_norm_cv", "no step that was asked for was captured")

    def test_a_stage_that_the_metric_is_not_defined_on(self, opened: Pair) -> None:
        found = optgeom.compare(opened(a=Run(), b=Run()), metrics="leverage_cv")
        refused(found, "leverage_cv", "defined on ns_input and orthogonalized, not on update")

    @pytest.mark.parametrize(
        ("extra", "words"),
        [
            (
                {"condition_number": None, "spectrum_status": "lost"},
                ("condition_number is null", "lost 8 of 8"),
            ),
            ({"condition_number": None}, ("though the status is fine", "8 captures")),
            ({"status": "unverified"}, ("not to be trusted", "unverified 8 of 8")),
        ],
    )
    def test_a_metric_that_is_null(
        self, opened: Pair, extra: Mapping[str, Any], words: tuple[str, ...]
    ) -> None:
        found = optgeom.compare(opened(a=Run(), b=Run(extra=extra)), metrics="condition_number")
        refused(found, "condition_number", *words)

    def test_no_spectra(self, opened: Pair) -> None:
        none = Run(spectra=lambda capture, layer: False)
        found = optgeom.compare(opened(a=Run(), b=none), metrics=("stable_rank", "neuron_norm_cv"))
        refused(found, "stable_rank", "no spectra of update were recorded")
        assert found.comparable

    def test_no_layer_of_the_kind(self, opened: Pair) -> None:
        found = optgeom.compare(
            opened(a=Run(), b=Run(names=("blocks.0.mlp.up",))), metrics="neuron_norm_cv"
        )
        row = rows(found, "neuron_norm_cv", "b")["attention.q"]
        assert row["why"] == "there is no layer of this kind"
        assert rows(found, "neuron_norm_cv", "b")["mlp.up"]["comparable"]

    def test_layers_of_other_names(self, opened: Pair) -> None:
        names = ("h.0.attention.q", "h.0.mlp.up")
        found = optgeom.compare(opened(a=Run(), b=Run(names=names)), metrics="neuron_norm_cv")
        refused(found, "neuron_norm_cv", "no layer is shared with a", "h.0.", "blocks.0.")

    def test_thinned_so_that_nothing_is_shared(self, opened: Pair) -> None:
        even, odd = (
            Run(spectra=lambda capture, layer, rest=rest: capture % 2 == rest) for rest in (0, 1)
        )
        found = optgeom.compare(opened(a=even, b=odd), metrics="stable_rank")
        refused(found, "stable_rank", "at no shared step was the same layer measured")

    def test_matrices_of_another_size(self, opened: Pair) -> None:
        wide = {kind: (2 * rows, 2 * cols) for kind, (rows, cols) in SHAPES.items()}
        found = optgeom.compare(
            opened(a=Run(), b=Run(shapes=wide)),
            metrics=("stable_rank", "condition_number", "frobenius_norm", "neuron_norm_cv"),
        )
        refused(found, "stable_rank", "counts directions")
        size = "512 \N{MULTIPLICATION SIGN} 128 in b, 256 \N{MULTIPLICATION SIGN} 64 in a"
        assert rows(found, "stable_rank", "b")["mlp.up"]["why"].endswith(size)
        assert any(f"mlp.up: {size}" in one for one in found.findings)
        refused(found, "condition_number", "decided by the extremes")
        refused(found, "frobenius_norm", "in the unit of the matrix")
        assert all(row["comparable"] for row in rows(found, "neuron_norm_cv", "b").values())

    def test_matrices_of_another_aspect(self, opened: Pair) -> None:
        flat = {"attention.q": (16, 64), "mlp.up": (64, 256)}
        found = optgeom.compare(
            opened(a=Run(), b=Run(shapes=flat)), metrics=("neuron_norm_cv", "update_to_weight")
        )
        refused(found, "neuron_norm_cv", "rows : columns")
        assert all(row["comparable"] for row in rows(found, "update_to_weight", "b").values())

    @pytest.mark.parametrize("metric", ["update_rms", "frobenius_norm"])
    def test_updates_of_another_rule_and_lr(self, opened: Pair, metric: str) -> None:
        found = optgeom.compare(
            opened(a=Run(), b=Run(rule=ADAMW, lr=0.003)), metrics=(metric, "update_to_weight")
        )
        refused(found, metric, "differ from a's", "lr 0.003 against 0.004", "adamw against muon")
        assert all(row["comparable"] for row in rows(found, "update_to_weight", "b").values())

    def test_one_lr_or_one_rule_is_enough_for_a_unit(self, opened: Pair) -> None:
        unknown = {"foreach": True, "nesterov": False}  # to a's, where it is off as well
        doubled = (MUON[0], {**MUON[1], **unknown, "lr": 0.008, "weight_decay": 0.1})
        traces = opened(a=Run(), b=Run(rule=ADAMW), c=Run(rule=doubled, lr=0.008))
        found = optgeom.compare(traces, metrics="update_rms")
        assert all(row["comparable"] for row in found.table.to_pylist())
        told = "update_rms of all kinds in c is per unit of lr, which is up to 0.008, against 0.004"
        assert [one for one in found.findings if one.startswith(told)] == list(found.findings[1:])

    def test_an_lr_that_parts_on_the_way(self, opened: Pair) -> None:
        def of(step: int, layer: str) -> Mapping[str, Any]:
            return {**numbers(0)(step, layer), "lr": 0.004 if step < 30 else 0.002}

        found = optgeom.compare(opened(a=Run(), b=Run(of, rule=ADAMW)), metrics="update_rms")
        refused(found, "update_rms", "lr 0.002 against 0.004 at step 30")

    def test_the_same_class_with_another_scale_is_another_rule(self, opened: Pair) -> None:
        other = (MUON[0], {**MUON[1], "scale": "spectral"})
        found = optgeom.compare(opened(a=Run(), b=Run(rule=other, lr=0.02)), metrics="update_rms")
        refused(found, "update_rms", "muon with scale spectral", "muon with scale match_rms")

    def test_another_class_of_the_same_name_is_another_rule(self, opened: Pair) -> None:
        other = ("somebody.elses.Muon", MUON[1])
        found = optgeom.compare(opened(a=Run(), b=Run(rule=other, lr=0.02)), metrics="update_rms")
        refused(found, "update_rms", "somebody.elses.Muon against optgeom.optim.muon.Muon")

    def test_an_lr_that_was_not_recorded_is_no_common_one(self, opened: Pair) -> None:
        found = optgeom.compare(
            opened(a=Run(lr=None), b=Run(rule=ADAMW, lr=None)), metrics="update_rms"
        )
        refused(found, "update_rms", "lr unknown against unknown")

    def test_momenta_that_are_summed_otherwise(self, opened: Pair) -> None:
        average, summed = (
            (MUON[0], {**MUON[1], "momentum_form": form}) for form in ("ema", "heavy_ball")
        )
        runs = {
            name: Run(rule=rule, stages=("momentum",))
            for name, rule in (("a", average), ("b", summed), ("c", ADAMW))
        }
        found = optgeom.compare(opened(**runs), stage="momentum", metrics="frobenius_norm")
        refused(found, "frobenius_norm", "what momentum is scaled by", "heavy_ball")
        assert all(row["comparable"] for row in rows(found, "frobenius_norm", "c").values())

    def test_gradients_have_a_common_unit(self, opened: Pair) -> None:
        traces = opened(a=Run(stages=("gradient",)), b=Run(rule=ADAMW, stages=("gradient",)))
        assert optgeom.compare(traces, stage="gradient", metrics="frobenius_norm").comparable

    def test_a_median_that_is_a_bound(self, opened: Pair) -> None:
        floor = {"spectrum_status": "at_floor"}
        narrow = Run(
            extra={**floor, "source": "difference", "noise_floor": 0.01, "spectral_norm": 1.0},
            dtype="bfloat16",
        )
        fine = Run(extra={"noise_floor": 1.5e-7, "spectral_norm": 1.0})
        found = optgeom.compare(opened(a=fine, b=narrow), metrics="condition_number")
        refused(found, "condition_number", "the median of b is a lower bound", "8 of 8 values")
        assert any(
            "0.01 s_1 in b (difference, bfloat16)" in one and "1.5e-07 s_1 in a" in one
            for one in found.findings
        )
        assert "≥" in str(found)

    def test_bounds_above_the_median_leave_it_exact(self, opened: Pair) -> None:
        def of(step: int, layer: str) -> Mapping[str, Any]:
            bound = step == 30
            status = "at_floor" if bound else "ok"
            return {"condition_number": 1e6 if bound else 2.0, "spectrum_status": status}

        found = optgeom.compare(opened(a=Run(of), b=Run(of)), metrics="condition_number")
        for row in found.table.to_pylist():
            assert (row["ratio"], row["bounds"]) == (1.0, 2)
            assert not row["median_is_bound"]
            assert row["q75_is_bound"]
        assert any("4 of a's 16 and 4 of b's 16 values are lower" in one for one in found.findings)

    def test_what_is_defined_by_the_floor_where_floors_differ(self, opened: Pair) -> None:
        def run(floor: float, status: str) -> Run:
            extra = {"noise_floor": floor, "spectral_norm": 2.0, "resolved_rank": 64}
            return Run(extra={**extra, "spectrum_status": status})

        traces = opened(
            a=run(1e-6, "ok"), b=run(0.02, "at_floor"), c=run(0.02, "ok"), d=run(1e-6, "at_floor")
        )
        found = optgeom.compare(traces, metrics="resolved_rank")
        refused(found, "resolved_rank", "floors differ", "0.01 s_1 in b", "5e-07 s_1 in a")
        for other in "cd":  # a floor that is not met, or the same one, decides nothing
            assert all(row["comparable"] for row in rows(found, "resolved_rank", other).values())

    def test_cosines_to_captures_unequally_far_back(self, opened: Pair) -> None:
        near, far = (
            Run(extra={"cosine_previous": 0.5, "steps_since_previous": steps}) for steps in (10, 50)
        )
        found = optgeom.compare(opened(a=near, b=far, c=near), metrics="cosine_previous")
        refused(found, "cosine_previous", "unequally many steps back", "50 in b, 10 in a")
        assert all(row["ratio"] == 1.0 for row in rows(found, "cosine_previous", "c").values())

    def test_medians_of_zero_and_of_opposite_sign(self, opened: Pair) -> None:
        runs = {
            name: Run(extra={"lost_update_fraction": lost, "radial_fraction": radial})
            for name, lost, radial in (("a", 0.0, 0.1), ("b", 0.5, -0.2), ("c", 0.0, 0.2))
        }
        metrics = ("lost_update_fraction", "radial_fraction")
        found = optgeom.compare(opened(**runs), metrics=metrics)
        refused(found, "lost_update_fraction", "the median of a is 0")
        refused(found, "radial_fraction", "opposite signs", "-0.2 in b, 0.1 in a")
        assert rows(found, "radial_fraction", "c")["mlp.up"]["ratio"] == 2.0

    def test_an_update_that_holds_its_decay_is_told(self, opened: Pair) -> None:
        inside = {"decay_form": "in_gradient", "weight_decay": 0.1}
        none = Run(extra={**inside, "weight_decay": 0.0})
        traces = opened(a=Run(), b=Run(extra=inside), c=none)
        found = optgeom.compare(traces, metrics="neuron_norm_cv")
        assert found.comparable
        told = [one for one in found.findings if "weight decay" in one]
        assert told == ["The updates of b contain its weight decay (decay_form in_gradient)."]


class TestDeclared:
    """Metrics that depend on the size, against matrices that differ in nothing else."""

    @pytest.mark.parametrize("shape", [(480, 60), (400, 500)])
    @pytest.mark.parametrize("stage", ["update", "orthogonalized", "ns_input"])
    def test_what_is_not_declared_stays_where_a_matrix_is_repeated(
        self, rng: np.random.Generator, shape: tuple[int, int], stage: str
    ) -> None:
        matrix, weight, gradient = rng.standard_normal((3, *shape))
        matrix *= np.exp(rng.standard_normal((shape[0], 1)))  # uneven rows, a falling spectrum
        matrix *= np.exp(2 * rng.standard_normal(shape[1]))
        twice = np.eye(2)

        def measured(times: Callable[[Any], Any]) -> dict[str, Any]:
            more = {"weight": times(weight), "gradient": times(gradient), "lr": 0.1}
            if stage == "ns_input":
                more = {}
            return optgeom.measure(times(matrix), stage=stage, **more)

        once = measured(lambda one: one)
        repeated = measured(lambda one: np.kron(twice, one))
        changed = {
            name
            for name, metric in METRICS.items()
            if once[name] is not None
            and metric.unit == "1"
            and repeated[name] != pytest.approx(once[name], rel=0.03, abs=1e-6)
        }
        assert changed <= set(DEPENDS_ON_SIZE)
        assert {"stable_rank", "effective_rank", "svd_entropy", "top10_energy"} <= changed

    def test_every_declared_name_is_a_metric(self) -> None:
        assert set(DEPENDS_ON_SIZE) <= set(METRICS)
        assert not {METRICS[name].unit for name in DEPENDS_ON_SIZE} - {"1"}

    def test_extremes_reach_farther_among_more_rows(self, rng: np.random.Generator) -> None:
        few = rng.standard_normal((50, 64))
        many = np.vstack([few, rng.standard_normal((50, 64))])
        of_many, of_few = (optgeom.measure(one)["neuron_norm_max_min"] for one in (many, few))
        assert isinstance(of_many, float)
        assert isinstance(of_few, float)
        assert of_many >= of_few
