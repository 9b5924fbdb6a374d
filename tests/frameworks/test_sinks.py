"""What TensorBoard, Weights & Biases and MLflow hold afterwards, read by their own means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import wandb
from click.testing import CliRunner

import optgeom
from optgeom.cli import cli
from optgeom.hooks import WatchError
from tests.frameworks.loops import expected, train
from tests.frameworks.test_hugging_face import trainer, watching
from tests.frameworks.wandb_file import history

Numbers = dict[str, dict[int, float]]


def in_tensorboard(folder: Path) -> Numbers:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: {one.step: one.value for one in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }


def in_wandb(folder: Path) -> Numbers:
    found: Numbers = {}
    for row in history(folder):
        for name, value in row.items():
            if name.startswith("optgeom/") and name != "optgeom/step":
                assert row["optgeom/step"] not in found.get(name, {})
                found.setdefault(name, {})[row["optgeom/step"]] = value
    return found


def in_mlflow(uri: str, run_id: str) -> Numbers:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    return {
        name: {one.step: one.value for one in client.get_metric_history(run_id, name)}
        for name in client.get_run(run_id).data.metrics
    }


def only_run(uri: str, experiment: str) -> Any:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id])
    return run


def assert_same(found: Numbers, wanted: Numbers, rel: float = 1e-12) -> None:
    assert found.keys() == wanted.keys()
    assert len(found) == 2 * 4 * 3 + 1  # kinds, metrics, median and ends; the loss
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=rel), name


def test_all_three_hold_what_the_trace_does(tmp_path: Path) -> None:
    uri = (tmp_path / "ml").as_uri()
    sinks = [
        optgeom.sinks.TensorBoard(tmp_path / "tb"),
        optgeom.sinks.WandB(project="p", dir=str(tmp_path)),
        optgeom.sinks.MLflow(tracking_uri=uri, experiment="runs"),
    ]
    wanted = expected(train(tmp_path / "run", also=sinks))
    assert_same(in_tensorboard(tmp_path / "tb"), wanted, rel=1e-6)  # its files hold float32
    assert_same(in_wandb(tmp_path), wanted)
    run = only_run(uri, "runs")
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert_same(in_mlflow(uri, run.info.run_id), wanted)


def test_runs_of_the_team_are_joined_and_left_open(tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri((tmp_path / "ml").as_uri())
    with mlflow.start_run() as active, wandb.init(dir=str(tmp_path)) as theirs:
        theirs.log({"theirs": 1.0})
        sinks = [optgeom.sinks.WandB(), optgeom.sinks.MLflow()]
        trace = train(tmp_path / "run", also=sinks)
        theirs.log({"theirs": 2.0})
        run_id = active.info.run_id
        assert mlflow.MlflowClient().get_run(run_id).info.status == "RUNNING"
    wanted = expected(trace)
    assert_same(in_wandb(tmp_path), wanted)
    assert [row["theirs"] for row in history(tmp_path) if "theirs" in row] == [1.0, 2.0]
    assert_same(in_mlflow(mlflow.get_tracking_uri(), run_id), wanted)


def test_geometry_stands_in_the_run_that_the_trainer_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wandb.teardown()  # it remembers the folder in which it was first used
    one = trainer(tmp_path, watching(tmp_path, also=[optgeom.sinks.WandB()]), report_to="wandb")
    one.train()
    wandb.finish()
    rows = history(tmp_path)
    theirs = [row["train/loss"] for row in rows if "train/loss" in row]
    assert theirs == [row["loss"] for row in one.state.log_history if "loss" in row]
    ours = [(row["optgeom/step"], row["optgeom/loss"]) for row in rows if "optgeom/loss" in row]
    assert ours == list(zip([1, 3, 5, 7], theirs, strict=True))


def test_a_finished_run_is_exported_by_the_same_names(tmp_path: Path) -> None:
    trace = train(tmp_path / "run")
    wanted, out = expected(trace), str(tmp_path / "run")
    uri = (tmp_path / "ml").as_uri()

    def export(to: str, *more: str) -> Any:
        return CliRunner().invoke(cli, ["trace", "export", out, "--to", to, *more])

    done = export(f"tensorboard:{tmp_path / 'tb'}")
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{sum(map(len, wanted.values()))} numbers sent to")
    assert "under 25 names, such as optgeom/loss" in done.output
    assert_same(in_tensorboard(tmp_path / "tb"), wanted, rel=1e-6)

    done = export(
        f"mlflow:{uri}", "--steps", "2:7", "--metric", "stable_rank", "--layer", "^blocks.1"
    )
    assert done.exit_code == 0, done.output
    found = in_mlflow(uri, only_run(uri, "Default").info.run_id)
    assert set(found) == {
        *(name for name in wanted if "stable_rank" in name or name == "optgeom/loss"),
        "optgeom/layers/blocks.1.mlp.up/stable_rank",
        "optgeom/layers/blocks.1.mlp.down/stable_rank",
    }
    assert set(found["optgeom/mlp.up/stable_rank"]) == {2, 4, 6}
    rows = trace.metrics(layers="blocks.1.mlp.up", stages="update", steps=slice(2, 7)).to_pylist()
    assert found["optgeom/layers/blocks.1.mlp.up/stable_rank"] == {
        row["step"]: pytest.approx(row["stable_rank"]) for row in rows
    }

    done = export("tensorboard:x", "--table", "spectra")
    assert done.exit_code == 2
    assert "--table and --overwrite are for files" in done.output


def test_an_exported_run_is_a_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = train(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    wandb.teardown()  # it remembers the folder in which it was first used
    done = CliRunner().invoke(cli, ["trace", "export", trace.uri, "--to", "wandb:geometry"])
    assert done.exit_code == 0, done.output
    assert_same(in_wandb(tmp_path), expected(trace))


def test_what_cannot_begin_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = optgeom.sinks.TensorBoard(tmp_path / "file")
    with pytest.raises(WatchError, match="TensorBoard cannot write to"):
        train(tmp_path / "run", also=[blocked])
    assert not (tmp_path / "run").exists()
    with pytest.raises(WatchError, match="MLflow did not begin a run"):
        train(tmp_path / "run", also=[optgeom.sinks.MLflow("0" * 32)])
    with pytest.raises(WatchError, match=r"takes a run or what .* takes, got both"):
        optgeom.sinks.WandB(object(), project="p")
    train(tmp_path / "run", also=[optgeom.sinks.TensorBoard(tmp_path / "tb")])


def test_a_piece_of_a_fused_matrix_has_a_name_that_mlflow_takes(tmp_path: Path) -> None:
    uri = (tmp_path / "ml").as_uri()
    sink = optgeom.sinks.MLflow(tracking_uri=uri, experiment="runs")
    sink.open("run")
    sink.send([optgeom.sinks.Point(0, "optgeom/layers/h.0.qkv[q][h3]/x", 1.0)])
    sink.close()
    run = only_run(uri, "runs")
    assert run.data.metrics == {"optgeom/layers/h.0.qkv_q__h3_/x": 1.0}


def test_no_password_of_a_tracking_server_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://ada:" + "hunter22@127.0.0.1:9/"
    with pytest.raises(WatchError, match="MLflow did not begin a run") as refused:
        train(tmp_path / "run", also=[optgeom.sinks.MLflow(tracking_uri=uri)])
    assert refused.value.__cause__ is None
    out = str(train(tmp_path / "run").uri)
    done = CliRunner().invoke(cli, ["trace", "export", out, "--to", f"mlflow:{uri}"])
    assert done.exit_code != 0
    said = f"{refused.value} {done.output} {done.exception}"
    assert "hunter22" not in said
    assert "***@127.0.0.1:9" in said
