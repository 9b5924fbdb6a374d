"""The real Trainer, with and without the callback."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import optgeom
from optgeom.frameworks import HuggingFaceCallback
from optgeom.hooks import WatchError
from optgeom.traces.errors import TraceError
from tests.ranks import assert_ended_well, run_ranks

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    pad_token_id=0,
)


class Stop(TrainerCallback):
    """Raises after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == self.step:
            self.step = -1
            raise RuntimeError("out of memory")


def trainer(out: Path, *callbacks: Any, of: type[Trainer] = Trainer, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    rows = [torch.randint(32, (8,)) for _ in range(64)]
    args = TrainingArguments(
        str(out / "trainer"),
        **{
            "max_steps": 8,
            "per_device_train_batch_size": 2,
            "logging_steps": 2,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
            "disable_tqdm": True,
            "learning_rate": 1e-3,
            **settings,
        },
    )
    return of(
        LlamaForCausalLM(CONFIG),
        args,
        train_dataset=[{"input_ids": x, "labels": x} for x in rows],
        callbacks=list(callbacks),
    )


def watching(out: Path, **settings: Any) -> Any:
    return HuggingFaceCallback(out / "run", **{"every": 2, "budget": None, **settings})


def logged(one: Trainer) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in one.state.log_history if "loss" in row]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_not_a_bit_changes_and_steps_are_those_of_the_trainer(
    tmp_path: Path, accumulated: int
) -> None:
    settings = {"gradient_accumulation_steps": accumulated}
    plain = trainer(tmp_path, **settings)
    plain.train()
    callback = watching(tmp_path)
    watched = trainer(tmp_path, callback, **settings)
    watched.train()
    for one, other in zip(watched.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert logged(watched) == logged(plain)
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.closed
    assert trace.steps().tolist() == [0, 2, 4, 6]
    assert callback.recorder.step == watched.state.global_step == 8
    assert {layer.kind for layer in trace.layers} >= {"attention.q", "mlp.up", "mlp.down"}
    assert trace.layers[0].name == "model.layers.0.self_attn.q_proj"
    # the Trainer counts a step when it is done, the trace when it begins
    found = trace.scalars("loss").to_pylist()
    assert [(row["step"] + 1, row["value"]) for row in found] == logged(plain)
    assert trace.scalars("learning_rate").num_rows == 4
    assert isinstance(callback, TrainerCallback)


def test_evaluation_alone_is_not_watched(tmp_path: Path) -> None:
    callback = watching(tmp_path)
    one = trainer(tmp_path, callback)
    assert one.evaluate(one.train_dataset)["eval_loss"] > 0
    assert callback.recorder is None
    assert not (tmp_path / "run").exists()


class LogsAnything(Trainer):
    """A subclass that logs names which a call has keywords of, and what is no number."""

    def compute_loss(self, *args: Any, **given: Any) -> Any:
        self.log({"self": 1.0, "n": np.int64(2), "note": "text", "many": [1.0]})
        return super().compute_loss(*args, **given)


def test_whatever_is_logged_training_goes_on(tmp_path: Path) -> None:
    one = trainer(tmp_path, watching(tmp_path), of=LogsAnything)
    one.train()
    assert one.state.global_step == 8
    trace = optgeom.open_trace(tmp_path / "run")
    assert {*trace.scalars("self")["value"].to_pylist()} == {1.0}
    assert {*trace.scalars("n")["value"].to_pylist()} == {2.0}
    assert trace.scalars("note").num_rows == trace.scalars("many").num_rows == 0


def test_a_checkpoint_is_resumed_as_a_new_attempt(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, watching(tmp_path), **settings).train()
    again = trainer(tmp_path, watching(tmp_path), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-4"))
    trace = optgeom.open_trace(tmp_path / "run")
    assert [one.start_step for one in trace.info.attempts] == [0, 4]
    assert trace.steps().tolist() == [0, 2, 4, 6]
    newest = trace.attempts(trace.layers[0].name, "update", "metrics")
    assert newest == {0: 0, 2: 0, 4: 1, 6: 1}


def test_a_trace_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    trainer(tmp_path, watching(tmp_path)).train()
    second = trainer(tmp_path, watching(tmp_path))
    with pytest.raises(TraceError, match="start_step"):
        second.train()
    assert second.state.global_step == 0


def test_training_goes_again_after_an_exception(tmp_path: Path) -> None:
    callback = watching(tmp_path)
    one = trainer(tmp_path, callback, Stop(5))
    with pytest.raises(RuntimeError, match="out of memory"):
        one.train()
    first = callback.recorder
    one.train()
    assert repr(first).startswith("<Recorder of 15 layers, closed")
    assert callback.recorder is not first
    assert one.state.global_step == 8
    trace = optgeom.open_trace(tmp_path / "run")
    assert [(one.start_step, one.closed is not None) for one in trace.info.attempts] == [
        (0, True),
        (0, True),
    ]
    assert trace.steps().tolist() == [0, 2, 4, 6]
    assert "step" not in vars(one.optimizer.optimizer)


def test_nothing_of_a_trainer_lives_on_after_an_exception(tmp_path: Path) -> None:
    one = trainer(tmp_path, watching(tmp_path), Stop(3))
    with pytest.raises(RuntimeError, match="out of memory"):
        one.train()
    model = weakref.ref(one.model)
    del one
    gc.collect()
    assert model() is None


def test_wrong_use_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(WatchError, match="no setting 'evry'"):
        HuggingFaceCallback(tmp_path / "run", evry=2)
    with pytest.raises(WatchError, match="'model' comes from the framework"):
        HuggingFaceCallback(tmp_path / "run", model=None)
    with pytest.raises(WatchError, match="takes the folder of the trace first"):
        HuggingFaceCallback(None)
    callback = watching(tmp_path, layers="no such layer")
    one = trainer(tmp_path, callback)
    with pytest.raises(WatchError, match="no such layer"):
        one.train()
    assert one.state.global_step == 0
    assert not (tmp_path / "run").exists()


def test_two_ranks_write_one_trace(tmp_path: Path) -> None:
    here = Path(__file__)
    env = {"PYTHONPATH": str(here.parents[2]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    assert_ended_well(run_ranks(here.with_name("trainer_worker.py"), tmp_path, 2, env=env))
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.closed
    assert trace.info.world_size == 2
    assert trace.steps().tolist() == [0, 2, 4, 6]
    assert trace.layers[0].name == "model.layers.0.self_attn.q_proj"
    assert trace.scalars("loss").num_rows == 4
