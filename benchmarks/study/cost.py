"""What a step of each rule takes and keeps: all rules by turns in one process."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.study.arms import ARMS
from benchmarks.timing import Calibration, Interval, calibrated, prepare
from optgeom.trainer import TrainConfig
from optgeom.trainer.corpus import Corpus, load_corpus, training_batch
from optgeom.trainer.model import build_model, cross_entropy

ROUNDS, WARM_UP = 60, 5


def measure(*, rounds: int = ROUNDS) -> tuple[pa.Table, str]:
    """Time whole training steps, two torch threads, nothing captured.

    Args:
        rounds: Of one step of every rule each.

    Returns:
        arm; step_ms and optimizer_ms (medians); ratio, low, high (a step over AdamW's of the same
        round, median and its interval); state_bytes; and a line on the machine's steadiness.
    """
    prepare()
    calibration = Calibration()
    jobs = {
        name: _Job(arm.config(lr=1e-3, adamw_lr=1e-3, seed=0), name) for name, arm in ARMS.items()
    }
    corpus = _corpus(jobs["adamw"].config)
    whole: dict[str, list[float]] = {name: [] for name in ARMS}
    optimizer: dict[str, list[float]] = {name: [] for name in ARMS}
    for i in range(WARM_UP + rounds):
        calibration.run()
        order = list(ARMS)
        for name in order[i % len(order) :] + order[: i % len(order)]:
            seconds, own = jobs[name].step(corpus, i)
            if i >= WARM_UP:
                whole[name].append(seconds)
                optimizer[name].append(own)
    rows = []
    for name, seconds in whole.items():
        ratio = Interval.of(list(np.divide(seconds, whole["adamw"])))
        rows.append(
            {
                "arm": name,
                "step_ms": round(1e3 * statistics.median(seconds), 3),
                "optimizer_ms": round(1e3 * statistics.median(optimizer[name]), 3),
                "ratio": round(ratio.median, 4),
                "low": round(ratio.low, 4),
                "high": round(ratio.high, 4),
                "state_bytes": state_bytes(jobs[name].optimizer),
            }
        )
    return pa.Table.from_pylist(rows), calibrated(calibration.gflops)


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors of an optimizer's state but the counters of steps."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.ndim > 0
    )


class _Job:
    """One rule's model and optimizer."""

    def __init__(self, config: TrainConfig, arm: str) -> None:
        self.config = config
        self.model: nn.Module = build_model(config.model, length=config.data.sequence, seed=0)
        self.optimizer = ARMS[arm].make(self.model, config.optimizer)

    def step(self, corpus: Corpus, index: int) -> tuple[float, float]:
        """Seconds of a training step, and of the optimizer's part of it."""
        data = self.config.data
        batch = torch.from_numpy(
            training_batch(
                corpus.train, step=index, seed=0, batch=data.batch, sequence=data.sequence
            )
        )
        began = time.perf_counter()
        cross_entropy(self.model(batch[:, :-1]), batch[:, 1:]).backward()
        between = time.perf_counter()
        self.optimizer.step()
        after = time.perf_counter()
        self.optimizer.zero_grad()
        return time.perf_counter() - began, after - between


def _corpus(config: TrainConfig) -> Corpus:
    return load_corpus(
        config.data.corpus,
        held_out=config.data.held_out,
        sequence=config.data.sequence,
        vocab_size=config.model.vocab_size,
    )
