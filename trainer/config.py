"""What one training run is: frozen settings, checked where they are made.

A ``TrainConfig`` comes from a TOML file, a preset or plain keywords (``settings.py`` reads them),
holds everything that decides the run's numbers, and goes into the trace's run.json as
``to_dict()``. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from optgeom.trainer.errors import ConfigError

MLPForm = Literal["relu2", "gated"]
OptimizerName = Literal["adamw", "muon", "normuon"]
Decay = Literal["linear", "cosine", "wsd", "constant"]
Precision = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]


def _require(held: bool, rule: str, name: str, value: object, way_out: str) -> None:
    if not held:
        raise ConfigError(f"{name} {rule}, got {value!r}: {way_out}")


def _positive(name: str, value: float) -> None:
    held = 0 < value < math.inf
    _require(held, "must be above 0", name, value, f"set {name} to a positive number")


def _not_negative(name: str, value: float) -> None:
    held = 0 <= value < math.inf
    _require(held, "must not be negative", name, value, f"set {name} to 0 or more")


def _multiple(name: str, value: int | None, every: int) -> None:
    if value:
        rule = f"must be a multiple of capture.every ({every})"
        nearest = max(1, round(value / every)) * every
        _require(value % every == 0, rule, name, value, f"use {nearest}, for example")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes of the GPT.

    Attributes:
        vocab_size: Token ids that the model knows; bytes need 256.
        width: Channels of the residual stream.
        heads: Query heads; ``width / heads`` must be even (rotary positions turn pairs).
        kv_heads: Key and value heads, a divisor of ``heads``; left out: as many as ``heads``.
        blocks: Depth.
        mlp: ``relu2`` (two matrices) or ``gated`` (three, SwiGLU).
        mlp_width: Hidden neurons; left out: 4 x width for relu2, 8/3 x width for gated, rounded
            up to a multiple of 16.
        rotary_base: Base of the rotary frequencies.
    """

    vocab_size: int = 256
    width: int = 128
    heads: int = 4
    kv_heads: int | None = None
    blocks: int = 4
    mlp: MLPForm = "relu2"
    mlp_width: int | None = None
    rotary_base: float = 10000.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "heads", "blocks", "rotary_base"):
            _positive(f"model.{name}", getattr(self, name))
        for name in ("kv_heads", "mlp_width"):
            if (value := getattr(self, name)) is not None:
                _positive(f"model.{name}", value)
        _require(
            self.width % (2 * self.heads) == 0,
            f"must be a multiple of 2 x model.heads ({2 * self.heads})",
            "model.width",
            self.width,
            f"use {max(1, round(self.width / (2 * self.heads))) * 2 * self.heads}, for example",
        )
        _require(
            self.heads % self.key_value_heads == 0,
            f"must divide model.heads ({self.heads})",
            "model.kv_heads",
            self.kv_heads,
            "use a divisor, or leave it out",
        )

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, resolved."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def neurons(self) -> int:
        """Hidden neurons of the MLP, resolved."""
        if self.mlp_width is not None:
            return self.mlp_width
        return 4 * self.width if self.mlp == "relu2" else -(-8 * self.width // 48) * 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read, and in what portions.

    Attributes:
        corpus: ``stdlib`` (the Python standard library's own source, about 11 MB), or files,
            folders and globs: text, ``.jsonl`` or ``.parquet`` with text or input_ids, ``.bin``
            shards of token ids.
        sequence: Tokens of one sequence.
        batch: Sequences of one step over all ranks together.
        held_out: Share of the files kept for evaluation.
    """

    corpus: tuple[str, ...] = ("stdlib",)
    sequence: int = 128
    batch: int = 16
    held_out: float = 0.05

    def __post_init__(self) -> None:
        _positive("data.sequence", self.sequence)
        _positive("data.batch", self.batch)
        _require(bool(self.corpus), "must name something", "data.corpus", self.corpus, "'stdlib'")
        _require(
            0 < self.held_out <= 0.5,
            "must lie above 0 and at most at 0.5",
            "data.held_out",
            self.held_out,
            "0.05 keeps every 20th file",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Which rule moves the weights.

    Attributes:
        name: ``adamw``, ``muon`` (scale match_rms) or ``normuon`` (family paper).
        lr: Learning rate of the hidden matrices under muon and normuon, in units in which both
            move a matrix by an RMS of 0.2 x lr a step.
        adamw_lr: Learning rate of AdamW: of everything under adamw, of the embedding, the head
            and the norms under muon and normuon.
        betas: AdamW's two averaging factors.
        eps: AdamW's epsilon.
        momentum: Momentum of muon and normuon.
        weight_decay: Decoupled decay of the hidden matrices; nothing else is decayed.
        family: Preset of NorMuon's further settings: paper, released, dion or larger-axis.
        settings: Any further setting of ``optgeom.optim.Muon`` or ``NorMuon`` by its name, such
            as ``nesterov`` or ``ns_dtype``.
    """

    name: OptimizerName = "normuon"
    lr: float = 0.004
    adamw_lr: float = 0.003
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.1
    family: str = "paper"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("lr", "adamw_lr", "eps"):
            _positive(f"optimizer.{name}", getattr(self, name))
        _not_negative("optimizer.weight_decay", self.weight_decay)
        _require(
            len(self.betas) == 2,
            "must be two numbers",
            "optimizer.betas",
            self.betas,
            "[0.9, 0.95]",
        )
        for name, value in (*(("betas", b) for b in self.betas), ("momentum", self.momentum)):
            _require(
                0 <= value < 1, "must lie in [0, 1)", f"optimizer.{name}", value, "0.95 is usual"
            )
        _require(
            self.name != "adamw" or not self.settings,
            "belongs to muon and normuon",
            "optimizer.settings",
            dict(self.settings),
            "leave it out under adamw",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How long, and the learning rate's way.

    Attributes:
        steps: Optimizer steps.
        warmup: Steps of linear warm-up; the first step already moves.
        decay: ``linear``, ``cosine`` or ``constant`` after the warm-up; ``wsd`` (warm-up, stable,
            decay) stays at the peak and falls linearly at the end.
        cooldown: Share of the steps that ``wsd`` falls in.
        final: Fraction of the peak that the last step has.
    """

    steps: int = 400
    warmup: int = 20
    decay: Decay = "linear"
    cooldown: float = 0.2
    final: float = 0.1

    def __post_init__(self) -> None:
        _positive("schedule.steps", self.steps)
        _not_negative("schedule.warmup", self.warmup)
        _require(
            self.warmup < self.steps,
            f"must be below schedule.steps ({self.steps})",
            "schedule.warmup",
            self.warmup,
            "shorten the warm-up or lengthen the run",
        )
        _require(
            0 < self.cooldown <= 1,
            "must lie above 0 and at most at 1",
            "schedule.cooldown",
            self.cooldown,
            "0.2 falls in the last fifth",
        )
        _require(
            0 <= self.final <= 1,
            "must lie in [0, 1]",
            "schedule.final",
            self.final,
            "it is a fraction of the peak",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptureConfig:
    """What goes into the trace; the meanings are those of ``optgeom.watch``.

    Attributes:
        every: Steps between captures of norms and scalars.
        spectra_every: Steps between spectra, a multiple of ``every``; left out: the same.
        updates_every: Steps between raw matrices, a multiple of ``every``; 0: never; left out:
            20 x every.
        burst: Consecutive steps per capture.
        layers: Patterns of layers; left out: every matrix.
        stages: Which matrices of the step.
        budget: Share of the step time that capture may cost; left out: the clocks alone decide.
        last_step: Capture the last step whole, whatever the clocks say.
    """

    every: int = 50
    spectra_every: int | None = None
    updates_every: int | None = None
    burst: int = 1
    layers: tuple[str, ...] | None = None
    stages: tuple[str, ...] = ("update",)
    budget: float | None = None
    last_step: bool = True

    def __post_init__(self) -> None:
        _positive("capture.every", self.every)
        _positive("capture.burst", self.burst)
        _multiple("capture.spectra_every", self.spectra_every, self.every)
        _multiple("capture.updates_every", self.updates_every, self.every)
        _require(bool(self.stages), "must name a stage", "capture.stages", self.stages, "'update'")
        if self.budget is not None:
            _positive("capture.budget", self.budget)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run, whole.

    Attributes:
        model: Sizes of the GPT.
        data: What is read.
        optimizer: Which rule moves the weights.
        schedule: How long, and the learning rate's way.
        capture: What goes into the trace.
        seed: Decides the initial weights and the data order.
        accumulate: Portions that each rank's part of a batch is computed in, one after another.
        precision: Of the forward and backward pass; weights, gradients and moments are float32.
        recompute: Keep no activations inside blocks, and compute them again in the backward pass.
        checkpoint_every: Steps between checkpoints, where a folder is given for them; 0: at the
            end, or when the run is stopped.
        clip: Largest global gradient norm; left out: none is clipped.
        eval_every: Steps between evaluations on held-out text; 0: at the end only.
        eval_batches: Batches of one evaluation.
        device: ``auto`` takes a GPU where there is one.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    seed: int = 0
    accumulate: int = 1
    precision: Precision = "float32"
    recompute: bool = False
    checkpoint_every: int = 0
    clip: float | None = None
    eval_every: int = 0
    eval_batches: int = 8
    device: Device = "auto"

    def __post_init__(self) -> None:
        _not_negative("seed", self.seed)
        _require(
            self.seed < 2**63, "must be below 2**63", "seed", self.seed, "take a smaller number"
        )
        _not_negative("eval_every", self.eval_every)
        _not_negative("checkpoint_every", self.checkpoint_every)
        _positive("accumulate", self.accumulate)
        _positive("eval_batches", self.eval_batches)
        if self.clip is not None:
            _positive("clip", self.clip)
        _require(
            self.model.vocab_size >= 256,
            "must be at least 256",
            "model.vocab_size",
            self.model.vocab_size,
            "the corpus is read as bytes",
        )

    def to_dict(self) -> dict[str, Any]:
        """Every setting by section, as JSON holds it: what run.json keeps as ``config``."""
        return asdict(self)
