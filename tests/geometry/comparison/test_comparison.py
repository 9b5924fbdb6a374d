"""Runs that share some things and not others: their ratios, and every reason for having none."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optgeom
from optgeom.geometry import Comparison, by_kind, columns
from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter, open_traces
from optgeom.traces.errors import NotCaptured, OptgeomError
from optgeom.traces.info import OptimizerInfo

KINDS = ("attention.q", "mlp.up")
STEPS = (0, 10, 20, 30)
SHAPES = {"attention.q": (64, 64), "mlp.up": (256, 64)}
MUON = ("optgeom.optim.muon.Muon", {"algorithm": "muon", "lr": 0.004, "scale": "match_rms"})
ADAMW = ("torch.optim.adamw.AdamW", {"lr": 0.003, "betas": [0.9, 0.95], "foreach": None})
NUMBERS = (
    *("neuron_norm_cv", "neuron_norm_max_min", "update_rms", "frobenius_norm"),
    "update_to_weight",
)

Values = Callable[[int, str], Mapping[str, Any]]
Pair = Callable[..., Mapping[str, optgeom.Trace]]


def numbers(seed: int) -> Values:
    """Positive values of the usual metrics, the same for the same cell."""

    def of(step: int, layer: str) -> Mapping[str, Any]:
        rng = np.random.default_rng([seed, step, *layer.encode()])
        drawn = rng.lognormal(size=len(NUMBERS) + 2).tolist()
        return dict(zip((*NUMBERS, "stable_rank", "condition_number"), drawn, strict=True))

    return of


SAME = numbers(0)


@dataclass(frozen=True)
class Run:
    """What one run is to hold; a cell's values come from `values` and then from `extra`."""

    values: Values = SAME
    rule: tuple[str, Mapping[str, Any]] = MUON
    steps: Iterable[int] = STEPS
    names: tuple[str, ...] = tuple(f"blocks.{b}.{kind}" for b in (0, 1) for kind in KINDS)
    kinds: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=lambda: SHAPES)
    stages: tuple[str, ...] = ("update",)
    lr: float | None = 0.004
    dtype: str = "float32"
    extra: Mapping[str, Any] = field(default_factory=dict)
    spectra: Callable[[int, int], bool] = lambda capture, layer: True
    start_step: int | None = None

    def write(self, out: Path) -> None:
        kind_of = {
            name: self.kinds.get(name, next((k for k in KINDS if name.endswith(k)), "other"))
            for name in self.names
        }
        algorithm = self.rule[1].get("algorithm")
        layers = tuple(
            LayerInfo(
                *(name, kind_of[name], None, self.shapes[kind_of[name]], self.dtype),
                *("optimizer", 0, algorithm),
            )
            for name in self.names
        )
        declared = {table: columns(table) for table in ("metrics", "spectra")}
        optimizers = (OptimizerInfo("optimizer", self.rule[0], (self.rule[1],)),)
        info = RunInfo(out.name, layers=layers, columns=declared, optimizers=optimizers)
        with TraceWriter(out, info, start_step=self.start_step) as writer:
            for capture, step in enumerate(self.steps):
                for place, layer in enumerate(layers):
                    for stage in self.stages:
                        self._put(writer, capture, step, place, layer, stage)
        assert writer.failure is None

    def _put(
        self, writer: TraceWriter, capture: int, step: int, place: int, layer: LayerInfo, stage: str
    ) -> None:
        key = Cell(step, "optimizer", layer.name, layer.kind, layer.block, stage)
        floor = {"status": "ok", "spectrum_status": "ok", "source": "dispatch", "lr": self.lr}
        found = {**floor, **self.values(step, layer.name), **self.extra}
        spectral = {*columns("spectra"), "spectrum_status"}
        writer.metrics(key, {name: one for name, one in found.items() if name not in spectral})
        if self.spectra(capture, place):
            own = {name: one for name, one in found.items() if name in spectral}
            writer.spectrum(key, None, own)


def rows(found: Comparison, metric: str, run: str) -> dict[str, dict[str, Any]]:
    """The rows of a metric and a run by kind."""
    every = found.table.to_pylist()
    return {one["kind"]: one for one in every if (one["metric"], one["run"]) == (metric, run)}


class TestNumbers:
    def test_against_pandas(self, opened: Pair) -> None:
        traces = opened(a=Run(), b=Run(numbers(1)), c=Run(numbers(2), steps=(10, 20, 30, 40)))
        metrics = ("condition_number", "neuron_norm_cv", "update_rms")
        found = optgeom.compare(traces, metrics=metrics).table.to_pandas()
        frames = [
            one.metrics(stages="update").to_pandas().assign(run=run) for run, one in traces.items()
        ]
        whole = pd.concat(frames, ignore_index=True)
        cell = whole["layer"].astype(str) + whole["step"].astype(str)
        whole = whole[cell.map(cell.value_counts()) == 3]
        long = whole.melt(["kind", "run"], metrics, "metric")
        expected = long.groupby(["kind", "metric", "run"], observed=True)["value"]
        table = found.set_index(["kind", "metric", "run"])
        assert len(table) == len(expected) == 2 * 3 * 3
        for key, values in expected:
            row = table.loc[key]
            assert row["count"] == len(values) == 2 * 3
            assert (row["layers"], row["steps"]) == (2, 3)
            assert row["left_out"] == 2 * (key[2] != "c") + 2 * (key[2] == "c")
            assert row["median"] == pytest.approx(values.median())
            assert row["q25"] == pytest.approx(values.quantile(0.25))
            assert row["q75"] == pytest.approx(values.quantile(0.75))
            base = expected.get_group((key[0], key[1], "a"))
            assert row["ratio"] == pytest.approx(values.median() / base.median())

    def test_on_the_same_cells_it_is_by_kind(self, opened: Pair) -> None:
        traces = opened(a=Run(), b=Run(numbers(1)))
        found, other = optgeom.compare(traces).table, by_kind(traces)
        shared = ["kind", "metric", "run", "median", "q25", "q75", "count", "bounds"]
        measured = found.filter(np.array(found["count"].to_pylist()) > 0)
        assert measured.select(shared).to_pylist() == other.select(shared).to_pylist()

    def test_the_reference_is_the_first_run_that_has_the_stage(self, opened: Pair) -> None:
        traces = opened(a=Run(), b=Run(stages=("update", "gradient")), c=Run(stages=("gradient",)))
        assert optgeom.compare(traces).reference == "a"
        assert optgeom.compare(traces, stage="gradient").reference == "b"
        assert optgeom.compare(traces, reference="b").reference == "b"

    def test_comparable_is_having_a_ratio_is_having_no_why(self, opened: Pair) -> None:
        found = optgeom.compare(opened(a=Run(), b=Run(rule=ADAMW, lr=0.003)))
        assert found.comparable
        assert {row["comparable"] for row in found.table.to_pylist()} == {True, False}
        for row in found.table.to_pylist():
            assert row["comparable"] == (row["ratio"] is not None) == (row["why"] == "")

    def test_steps(self, opened: Pair) -> None:
        traces = opened(a=Run(), b=Run(numbers(1), steps=(10, 20, 25)))
        assert optgeom.compare(traces).steps == (10, 20)
        assert optgeom.compare(traces, steps=slice(15, None)).steps == (20,)
        assert optgeom.compare(traces, steps=slice(10, None, 2)).steps == (10,)
        assert optgeom.compare(traces, steps=range(0, 30, 20)).steps == (20,)
        assert optgeom.compare(traces, steps=iter([0, 10])).steps == (10,)
        assert optgeom.compare(traces, steps=20).steps == (20,)

    def test_the_newest_attempt_of_a_step_counts(self, opened: Pair, tmp_path: Path) -> None:
        opened(a=Run(), b=Run())
        Run(numbers(1), steps=(20, 30), start_step=20).write(tmp_path / "b")
        found = optgeom.compare(open_traces(tmp_path), metrics="neuron_norm_cv")
        first, second = numbers(0), numbers(1)
        for kind, row in rows(found, "neuron_norm_cv", "b").items():
            values = [
                (second if step >= 20 else first)(step, f"blocks.{block}.{kind}")["neuron_norm_cv"]
                for step in STEPS
                for block in (0, 1)
            ]
            assert row["median"] == pytest.approx(np.median(values))


@st.composite
def thinned(draw: st.DrawFn) -> tuple[Run, Run]:
    """Two runs whose spectra were thinned as a budget does it, each by its own power of two."""
    both = []
    for seed in (3, 4):
        every = 2 ** draw(st.integers(0, 2))
        steps = draw(st.sets(st.sampled_from((0, 10, 20, 30, 40)), min_size=1))

        def taken(capture: int, layer: int, every: int = every) -> bool:
            return (capture - layer) % every == 0

        both.append(Run(numbers(seed), steps=sorted(steps), spectra=taken))
    return both[0], both[1]


class TestAlways:
    @settings(max_examples=15, deadline=None)
    @given(runs=thinned())
    def test_whatever_was_left_out(self, runs: tuple[Run, Run]) -> None:
        """A run to itself is 1; the order is nothing; a pair's numbers are of what both have."""
        with tempfile.TemporaryDirectory() as folder:
            for name, run in zip("ab", runs, strict=True):
                run.write(Path(folder) / name)
            traces = dict(open_traces(folder))
            frames = {run: one.metrics().to_pandas() for run, one in traces.items()}
            metric = "stable_rank"
            itself = optgeom.compare({"x": traces["a"], "y": traces["a"]}, metrics=metric)
            both = optgeom.compare(traces, metrics=metric)
            turned = optgeom.compare(
                dict(reversed(traces.items())), metrics=metric, reference=both.reference
            )
        assert {row["ratio"] for row in itself.table.to_pylist()} <= {1.0, None}
        key = lambda row: (row["kind"], row["run"])  # noqa: E731
        expected = sorted(both.table.to_pylist(), key=key)
        assert sorted(turned.table.to_pylist(), key=key) == expected
        there = {
            run: frame.dropna(subset=[metric]).set_index(["layer", "step"])
            for run, frame in frames.items()
        }
        for kind, row in rows(both, metric, "b").items():
            a, b = (one[one["kind"] == kind] for one in (there["a"], there["b"]))
            shared = a.index.intersection(b.index)
            assert row["comparable"] == (len(shared) > 0)
            own = b.loc[shared if len(shared) else b.index, metric]
            assert row["count"] == len(own)
            if len(shared):
                ratio = own.median() / a.loc[shared, metric].median()
                assert row["ratio"] == pytest.approx(ratio)
                assert row["left_out"] == len(b) - len(shared)

    @settings(max_examples=15, deadline=None)
    @given(
        values=st.lists(st.integers(1, 9).map(float), min_size=4, max_size=4),
        bounds=st.lists(st.booleans(), min_size=4, max_size=4),
        rise=st.floats(0.5, 1e9),
    )
    def test_a_quartile_is_a_bound_if_it_would_rise_with_the_bounds(
        self, values: list[float], bounds: list[bool], rise: float
    ) -> None:
        statuses = ["at_floor" if bound else "ok" for bound in bounds]

        def of(step: int, layer: str) -> Mapping[str, Any]:
            at = STEPS.index(step)
            return {"condition_number": values[at], "spectrum_status": statuses[at]}

        with tempfile.TemporaryDirectory() as folder:
            for name in "ab":
                Run(of, names=("blocks.0.mlp.up",)).write(Path(folder) / name)
            found = optgeom.compare(open_traces(folder), metrics="condition_number")
        (row,) = rows(found, "condition_number", "b").values()
        raised = np.array(values) + rise * np.array(bounds)
        for name, share in (("q25", 25), ("median", 50), ("q75", 75)):
            moved = np.percentile(raised, share) > np.percentile(values, share)
            # A bound that does not rise above the next value moves nothing: never the other way.
            assert row[f"{name}_is_bound"] >= moved
        far = np.where(bounds, 1e12, values)
        assert row["median_is_bound"] == (np.median(far) > np.median(values))
        assert row["comparable"] == (not row["median_is_bound"])
        assert row["bounds"] == sum(bounds)


class TestAlignment:
    def test_it_is_said_how_many_steps_are_shared(self, opened: Pair) -> None:
        found = optgeom.compare(opened(a=Run(), b=Run(steps=(10, 20, 25))))
        assert found.findings[0] == "a has 4 captures, b 3: 2 captures, steps 10 to 20 shared."
        same = optgeom.compare(opened(c=Run(), d=Run()))
        assert same.findings == ("c and d have the same 4 captures, steps 0 to 30.",)

    def test_layers_that_not_all_have(self, opened: Pair) -> None:
        deeper = tuple(f"blocks.{b}.{kind}" for b in range(4) for kind in KINDS)
        found = optgeom.compare(opened(a=Run(), b=Run(names=deeper)), metrics="neuron_norm_cv")
        for row in found.table.to_pylist():
            assert (row["layers"], row["count"], row["comparable"]) == (2, 8, True)
            assert row["left_out"] == (8 if row["run"] == "b" else 0)
        assert "a has 4 layers, b 8: 4 layers of one name and kind are in all of them." in (
            found.findings
        )

    def test_a_layer_of_another_kind_is_another_layer(self, opened: Pair) -> None:
        other = {"blocks.1.attention.q": "mlp.up"}
        found = optgeom.compare(opened(a=Run(), b=Run(kinds=other)), metrics="neuron_norm_cv")
        by_run = {run: rows(found, "neuron_norm_cv", run) for run in "ab"}
        assert by_run["b"]["attention.q"]["layers"] == 1
        assert by_run["b"]["mlp.up"]["left_out"] == 4
        assert any("blocks.1.attention.q is attention.q in a, mlp.up in b" in one
                   for one in found.findings)  # fmt: skip

    def test_thinned_layers_and_a_slower_clock_are_told(self, opened: Pair) -> None:
        whole = Run()
        half = Run(numbers(1), spectra=lambda capture, layer: capture % 2 == layer % 2)
        found = optgeom.compare(opened(a=whole, b=half), metrics=("stable_rank", "neuron_norm_cv"))
        used = "stable_rank: used are 8 of a's 16, 8 of b's 8 values"
        assert any(one.startswith(used) for one in found.findings)
        slow = Run(spectra=lambda capture, layer: capture == 0)
        found = optgeom.compare(opened(c=slow, d=slow), metrics=("stable_rank", "update_rms"))
        assert "stable_rank: measured at 1 of these 4 steps." in found.findings

    def test_a_run_that_is_not_comparable_narrows_no_other(self, opened: Pair) -> None:
        traces = opened(a=Run(), b=Run(numbers(1)), c=Run(steps=(5, 15)))
        pair = optgeom.compare({run: traces[run] for run in "ab"})
        three = optgeom.compare(traces)
        for run in "ab":
            for metric in ("neuron_norm_cv", "stable_rank"):
                assert rows(three, metric, run) == rows(pair, metric, run)
        assert rows(three, "neuron_norm_cv", "c")["mlp.up"]["count"] == 4

    @pytest.mark.parametrize("status", ["unverified", "lost"])
    def test_rows_that_are_not_to_be_trusted_are_left_out(self, opened: Pair, status: str) -> None:
        def of(step: int, layer: str) -> Mapping[str, Any]:
            odd = {"neuron_norm_cv": 1e9, "status": status} if step == 10 else {}
            return {**numbers(0)(step, layer), **odd}

        found = optgeom.compare(opened(a=Run(), b=Run(of)), metrics="neuron_norm_cv")
        for row in found.table.to_pylist():
            assert (row["count"], row["ratio"]) == (6, 1.0)
        assert f"4 rows of b are {status}, and left out." in found.findings

    def test_a_damaged_run_is_named(self, opened: Pair, tmp_path: Path) -> None:
        opened(a=Run(), b=Run(), broken=Run())
        (tmp_path / "broken/run.json").write_text("{")
        found = optgeom.compare(open_traces(tmp_path))
        assert found.runs == ("a", "b")
        assert found.findings[0] == "broken is left out: its run.json is damaged."


class TestWrongUse:
    @pytest.mark.parametrize(
        ("wrong", "error", "words"),
        [
            ({"stage": "momentum"}, NotCaptured, "no run captured the stage 'momentum': a has upd"),
            ({"steps": 5}, NotCaptured, "no run captured update at step 5: 4 captures, steps 0"),
            ({"steps": slice(50, 60)}, NotCaptured, "in the steps asked for"),
            ({"metrics": "condition"}, OptgeomError, "'condition'.*condition_number"),
            ({"metrics": ()}, OptgeomError, "no metric was named.*condition_number"),
            ({"reference": "c"}, OptgeomError, "no run 'c' as reference: there are a, b"),
        ],
    )
    def test_what_is_not_there_is_named(
        self, opened: Pair, wrong: dict[str, Any], error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            optgeom.compare(opened(a=Run(), b=Run()), **wrong)

    def test_one_run_is_not_enough(self, opened: Pair) -> None:
        with pytest.raises(OptgeomError, match=r"two runs or more.*only a.*open_traces"):
            optgeom.compare(opened(a=Run()))
        with pytest.raises(OptgeomError, match="none"):
            optgeom.compare({})


class TestShown:
    def test_as_text(self, opened: Pair) -> None:
        traces = opened(a=Run(extra={"neuron_norm_cv": 0.5}), b=Run(extra={"neuron_norm_cv": 0.1}))
        found = optgeom.compare(traces, metrics="neuron_norm_cv")
        text = str(found)
        assert text == repr(found)
        title, _, head, *_ = lines = text.splitlines()
        assert title == (
            "update, 4 steps from 0 to 30: median, quartiles, ratio to the median of a"
        )
        assert head.split() == ["a", "b"]
        assert "Neuron norm CV (neuron_norm_cv)" in lines
        (row,) = [line for line in lines if line.startswith("mlp.up")]
        dash, times = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
        cells = ["0.5", f"0.5{dash}0.5", "0.1", f"0.1{dash}0.1", "0.2", times]
        assert row.split() == ["mlp.up", *cells]
        assert lines[-1] == f"- {found.findings[0]}"
        assert all(line == line.rstrip() for line in lines)

    def test_as_html_escaped(self, opened: Pair) -> None:
        traces = opened(a=Run(), b=Run())
        odd = {"<b>x": traces["a"], "y": traces["b"]}
        page = optgeom.compare(odd)._repr_html_()
        assert "&lt;b&gt;x" in page
        assert "<b>x" not in page
        assert page.count("<tr>") == 1 + 5 + 5 * len(KINDS)

    def test_as_json_and_in_pandas(self, opened: Pair) -> None:
        found = optgeom.compare(opened(a=Run(), b=Run(rule=ADAMW, lr=0.003)))
        told = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert told["table"] == found.table.to_pylist()
        assert told["steps"] == [0, 10, 20, 30]
        frame = found.table.to_pandas()
        wide = frame.pivot(index="kind", columns=["metric", "run"], values="median")
        assert wide.shape == (2, 10)
        assert frame["ratio"].isna().sum() == (~frame["comparable"]).sum()

    def test_frozen(self, opened: Pair) -> None:
        found = optgeom.compare(opened(a=Run(), b=Run()))
        assert replace(found, reference="b").reference == "b"
        with pytest.raises(AttributeError):
            found.reference = "b"  # type: ignore[misc]


def test_it_imports_no_torch() -> None:
    code = "import sys, optgeom; optgeom.compare; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
