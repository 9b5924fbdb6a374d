"""accelerate, attached with plain `optgeom.watch`, after `prepare` and before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState

import optgeom
from optgeom.hooks import WatchError
from tests.frameworks.loops import STEPS, Blocks, batch, loss_of


@pytest.fixture(autouse=True)
def no_state() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def run(out: Path | None, accumulated: int, when: str) -> tuple[Blocks, int]:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
    bare = Blocks()
    inner = torch.optim.AdamW(bare.parameters(), lr=1e-2)
    rec = None
    if out is not None and when == "before":
        rec = optgeom.watch(bare, inner, out, every=2, budget=None)
    model, optimizer = accelerator.prepare(bare, inner)
    if out is not None and when == "after":
        rec = optgeom.watch(model, optimizer, out, every=2, budget=None)
    for step in range(STEPS):
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, batch(step)))
            optimizer.step()
            optimizer.zero_grad()
    if rec is None:
        return bare, 0
    rec.close()
    return bare, rec.step


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_steps_are_those_of_the_optimizer(tmp_path: Path, accumulated: int, when: str) -> None:
    plain, _ = run(None, accumulated, when)
    watched, steps = run(tmp_path / "run", accumulated, when)
    for one, other in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert steps == STEPS // accumulated
    trace = optgeom.open_trace(tmp_path / "run")
    assert trace.steps().tolist() == list(range(0, steps, 2))
    assert trace.info.optimizers[0].type == "torch.optim.adamw.AdamW"
    assert trace.layers[0].name == "blocks.0.mlp.up"


def test_a_grad_scaler_steps_through_the_watched_step(tmp_path: Path) -> None:
    Accelerator(cpu=True)
    model = Blocks()
    inner = torch.optim.SGD(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = AcceleratedOptimizer(inner, scaler=scaler)
    skipped = []
    with optgeom.watch(model, optimizer, tmp_path / "run", every=1, budget=None) as rec:
        for step in range(6):
            scaler.scale(loss_of(model, batch(step))).backward()
            if step == 3:
                model.blocks[0]["mlp"]["up"].weight.grad[0, 0] = torch.inf
            optimizer.step()
            optimizer.zero_grad()
            skipped.append(optimizer.step_was_skipped)
    assert skipped == [False, False, False, True, False, False]
    assert rec.step == 5
    assert optgeom.open_trace(tmp_path / "run").steps().tolist() == [0, 1, 2, 3, 4]
    before = [p.clone() for p in model.parameters()]
    scaler.scale(loss_of(model, batch(9))).backward()
    optimizer.step()  # after close it steps unwatched
    assert not torch.equal(before[0], next(iter(model.parameters())))
    assert rec.step == 5


def test_deepspeed_is_refused(tmp_path: Path) -> None:
    from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper

    Accelerator(cpu=True)
    model = Blocks()
    wrapped = DeepSpeedOptimizerWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(WatchError, match="use DDP or FSDP2"):
        optgeom.watch(model, wrapped, tmp_path / "run")
    assert not (tmp_path / "run").exists()
