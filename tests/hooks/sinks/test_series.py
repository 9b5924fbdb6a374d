"""The numbers that are sent: by name, against the trace's own table."""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import optgeom
from optgeom.cli import cli
from optgeom.hooks import WatchError
from optgeom.hooks.sinks.series import lines_of, points_of
from optgeom.sinks import Point, Series


@pytest.fixture(scope="module")
def trace(demo_runs: Path) -> optgeom.Trace:
    return optgeom.open_trace(demo_runs / "normuon")


def test_a_kind_is_its_median_and_its_ends(trace: optgeom.Trace) -> None:
    series = Series(metrics=("condition_number",), stages=("update", "momentum"), scalars=())
    found = points_of(lines_of(trace, series))
    assert found == sorted(found)
    kinds = {layer.name: layer.kind for layer in trace.layers}
    wanted = []
    for stage, inner in (("update", ""), ("momentum", "momentum/")):
        cells: dict[tuple[str, int], list[float]] = {}
        for row in trace.metrics(stages=stage).to_pylist():
            value = row["condition_number"]
            if value is not None and math.isfinite(value):
                cells.setdefault((kinds[row["layer"]], row["step"]), []).append(value)
        several = {kind for kind, _ in cells if list(kinds.values()).count(kind) > 1}
        for (kind, step), values in cells.items():
            name = f"optgeom/{kind}/{inner}condition_number"
            wanted.append(Point(step, name, statistics.median(values)))
            if kind in several:
                wanted.append(Point(step, f"{name}_min", min(values)))
                wanted.append(Point(step, f"{name}_max", max(values)))
    assert [one[:2] for one in found] == [one[:2] for one in sorted(wanted)]
    assert [one.value for one in found] == pytest.approx([one.value for one in sorted(wanted)])
    assert len(found) > 20


def test_layers_are_sent_one_by_one_where_asked(trace: optgeom.Trace) -> None:
    series = Series(metrics=("stable_rank",), layers=("attention.o",), scalars=(), prefix="geo")
    lines = {line.name: line for line in lines_of(trace, series)}
    mine = [layer.name for layer in trace.layers if layer.kind == "attention.o"]
    own = {f"geo/layers/{name}/stable_rank" for name in mine}
    assert {name for name in lines if name.startswith("geo/layers/")} == own
    assert all(set(lines[name].counts.tolist()) == {1} for name in own)


def test_scalars_are_those_that_were_logged(trace: optgeom.Trace) -> None:
    (line,) = lines_of(trace, Series(metrics=(), scalars=("loss",)))
    assert line.name == "optgeom/loss"
    rows = trace.scalars("loss").to_pylist()
    assert line.steps.tolist() == [row["step"] for row in rows]
    assert line.values.tolist() == [row["value"] for row in rows]


def test_what_there_is_not_is_said_at_once() -> None:
    with pytest.raises(
        WatchError, match="no metric 'stable_ran' in the catalogue: try stable_rank"
    ):
        Series(metrics=("stable_ran",))
    with pytest.raises(WatchError, match=r"Series\(stages=...\) are .*, got 'udpate'"):
        Series(stages=("udpate",))
    with pytest.raises(WatchError, match="takes a tuple of names, got 'loss'"):
        Series(scalars="loss")  # type: ignore[arg-type]


def test_an_export_says_what_is_not_there(trace: optgeom.Trace) -> None:
    def said(*options: str) -> str:
        done = CliRunner().invoke(cli, ["trace", "export", trace.uri, *options])
        assert done.exit_code != 0
        return done.output + str(done.exception)

    assert "needs a folder, such as tensorboard:runs/tb" in said("--to", "tensorboard:")
    assert "TensorBoard writes to local folders, got s3://***@bucket/tb" in said(
        "--to", "tensorboard:s3://KEY:SECRET@bucket/tb"
    )
    assert "no metric 'stable' in the catalogue" in said("--to", "wandb:", "--metric", "stable")
    assert "--metric is for tensorboard:" in said("--to", "a.csv", "--metric", "stable_rank")


@pytest.mark.parametrize(
    ("to", "package"),
    [("tensorboard:tb", "tensorboard"), ("wandb:", "wandb"), ("mlflow:", "mlflow")],
)
def test_a_package_that_is_not_there_is_named(
    trace: optgeom.Trace, to: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    done = CliRunner().invoke(cli, ["trace", "export", trace.uri, "--to", to])
    assert done.exit_code != 0
    said = done.output + str(done.exception)
    assert f"needs the package {package}" in said
    assert "pip install 'optgeom[sinks]'" in said
