"""The run, top to bottom: corpus, model, ranks, optimizer, recorder, loop.

The same program trains in one process and under ``torchrun``: the global batch of a step depends
on seed and step alone, rank r takes its slice of it, so the losses agree to float tolerance and
all ranks write one trace.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from optgeom.hooks.recorder import Recorder
from optgeom.hooks.watch import watch
from optgeom.traces.files.address import is_uri, name_of
from optgeom.trainer.checkpoints import kept_checkpoints
from optgeom.trainer.config import OptimizerConfig, TrainConfig
from optgeom.trainer.corpus import Corpus, Tokens, held_out_batch, load_corpus, training_batch
from optgeom.trainer.denormals import flushed_denormals
from optgeom.trainer.interrupt import stop_requests
from optgeom.trainer.model import build_model, cross_entropy
from optgeom.trainer.optimizers import build_optimizer, remember_peak, set_lr
from optgeom.trainer.parallelize import Ranks, join_ranks, parallelize
from optgeom.trainer.progress import Listener, Silent
from optgeom.trainer.schedule import lr_factor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """How a run ended.

    Attributes:
        run: Its name.
        out: Folder of its trace; None where none was written, or to an object store.
        losses: Training loss of each step over the global batch, nats per token; of a resumed run
            from there on.
        eval_loss: On held-out text after the last step, nats per token.
        parameters: Weights of the model.
        tokens: Seen in training, before the resumption too.
        seconds: From the first step to the last evaluation, capture included.
        rank: Of this process.
        world: Processes that trained together.
    """

    run: str
    out: Path | None
    losses: tuple[float, ...]
    eval_loss: float
    parameters: int
    tokens: int
    seconds: float
    rank: int
    world: int


def train(
    config: TrainConfig,
    *,
    out: str | Path | None = None,
    run: str | None = None,
    labels: Mapping[str, Any] | None = None,
    listener: Listener | None = None,
    checkpoints: str | Path | None = None,
    resume: bool = False,
    make_optimizer: Callable[[nn.Module, OptimizerConfig], Optimizer] = build_optimizer,
) -> TrainResult:
    """Train a GPT and write a trace of it.

    Equal settings give equal bits on the same machine with the same number of threads.

    Args:
        config: Everything that decides the run's numbers.
        out: Folder of the trace, or URI of an object store; None trains without watching.
        run: Name of the run; None takes the folder's.
        labels: Further entries of run.json's ``config``, such as ``{"demo": True}``.
        listener: Told of every step, on the first rank only.
        checkpoints: Folder for checkpoints, every ``checkpoint_every`` steps, at the end and when
            the run is stopped; None writes none.
        resume: Go on from the latest of them, on any number of ranks, in a new attempt of the
            trace; from the start where there is none yet.
        make_optimizer: Called with the model, sharded already, and the settings, for an optimizer
            of your own. Every group's ``lr`` is its peak, which the schedule scales.

    Returns:
        Losses, sizes and times.

    Raises:
        ConfigError: Settings, corpus and number of ranks do not fit together.
        OptgeomError: The trace cannot be written, or a stage or layer pattern is wrong; raised
            before the first step.
        KeyboardInterrupt: Stopped by Ctrl-C or SIGTERM after a whole step; the trace is closed, and
            the checkpoint of that step written.
    """
    name = run or (name_of(str(out)) if out is not None else config.optimizer.name)
    grouped = checkpoints is not None or config.precision != "float32"
    with (
        flushed_denormals(),
        join_ranks(config.device, grouped=grouped) as ranks,
        stop_requests() as stop,
    ):
        tell = listener if listener is not None and ranks.rank == 0 else Silent()
        share = ranks.slice(config.data.batch, config.accumulate)
        length, total = config.data.sequence, config.schedule.steps
        corpus = load_corpus(
            config.data.corpus,
            held_out=config.data.held_out,
            sequence=length,
            vocab_size=config.model.vocab_size,
        )
        model = build_model(config.model, length=length, seed=config.seed).to(ranks.device)
        parameters = sum(weight.numel() for weight in model.parameters())
        parallelize(model, ranks, config)
        optimizer = make_optimizer(model, config.optimizer)
        remember_peak(optimizer)

        with (
            kept_checkpoints(checkpoints, ranks, model, optimizer, resume=resume) as saved,
            _watching(model, optimizer, config, out, name, labels, saved.step) as recorder,
        ):
            tell.began(name, steps=total, parameters=parameters)
            losses: list[float] = []
            eval_loss = float("nan")
            began = time.perf_counter()
            for step in range(saved.step, total):
                step_began = time.perf_counter()
                last = step == total - 1
                if recorder is not None and last and config.capture.last_step:
                    recorder.capture_next()
                set_lr(optimizer, lr_factor(step, config.schedule))

                batch = training_batch(
                    corpus.train,
                    step=step,
                    seed=config.seed,
                    batch=config.data.batch,
                    sequence=length,
                )
                loss = _backward(model, batch[share], ranks, config)
                if config.clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                optimizer.zero_grad()

                agreed = ranks.mean(torch.stack((loss, torch.full_like(loss, bool(stop)))))
                losses.append(agreed[0].item())
                stopping = agreed[1] > 0
                tokens, seconds = config.data.batch * length, time.perf_counter() - step_began
                scalars = {
                    "loss": losses[-1],
                    "lr": optimizer.param_groups[0]["lr"],
                    "tokens": (step + 1) * tokens,
                    "step_seconds": seconds,
                    "tokens_per_second": tokens / seconds,
                }
                tell.stepped(step, loss=losses[-1], seconds=seconds, tokens=tokens)
                due = last or (saved.keeps and _is_due(step, config.checkpoint_every))
                if not stopping and (due or _is_due(step, config.eval_every)):
                    eval_loss = scalars["eval_loss"] = evaluate(model, corpus, config, ranks)
                if recorder is not None:
                    recorder.log(step=step, **scalars)
                if due or stopping:
                    saved.save(step + 1, scalars.get("eval_loss"))
                if stopping:
                    raise KeyboardInterrupt
            seconds = time.perf_counter() - began
            tell.ended(name, eval_loss=eval_loss, seconds=seconds)

        return TrainResult(
            run=name,
            out=None if out is None or is_uri(str(out)) else Path(out),
            losses=tuple(losses),
            eval_loss=eval_loss,
            parameters=parameters,
            tokens=total * config.data.batch * length,
            seconds=seconds,
            rank=ranks.rank,
            world=ranks.world,
        )


@torch.no_grad()
def evaluate(model: nn.Module, corpus: Corpus, config: TrainConfig, ranks: Ranks) -> float:
    """Mean loss on held-out text, the same windows every time.

    Returns:
        Nats per token, over all ranks.
    """
    share = ranks.slice(config.data.batch)
    total = torch.zeros((), device=ranks.device)
    for index in range(config.eval_batches):
        batch = held_out_batch(
            corpus.held_out,
            index=index,
            batches=config.eval_batches,
            batch=config.data.batch,
            sequence=config.data.sequence,
        )
        total += _loss(model, batch[share], ranks)
    return ranks.mean(total).item() / config.eval_batches


def _backward(model: nn.Module, batch: Tokens, ranks: Ranks, config: TrainConfig) -> Tensor:
    """Gradients of this rank's part of a batch, a portion at a time; its mean loss, detached."""
    total = torch.zeros((), device=ranks.device)
    for i, portion in enumerate(np.split(batch, config.accumulate)):
        if isinstance(model, FSDPModule) and config.accumulate > 1:
            model.set_requires_gradient_sync(i == config.accumulate - 1)
        loss = _loss(model, portion, ranks) / config.accumulate
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total += loss.detach()
    return total


def _loss(model: nn.Module, batch: Tokens, ranks: Ranks) -> Tensor:
    tokens = torch.from_numpy(batch).to(ranks.device)
    return cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])


def _is_due(step: int, every: int) -> bool:
    return every > 0 and (step + 1) % every == 0


def _watching(
    model: nn.Module,
    optimizer: Optimizer,
    config: TrainConfig,
    out: str | Path | None,
    run: str,
    labels: Mapping[str, Any] | None,
    start: int,
) -> Recorder | nullcontext[None]:
    if out is None:
        return nullcontext()
    settings = asdict(config.capture)
    del settings["last_step"]
    return watch(
        model,
        optimizer,
        str(out),
        run=run,
        config={**config.to_dict(), **(labels or {})},
        start_step=start or None,
        **settings,
    )
