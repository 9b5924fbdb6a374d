"""One page of numbers before a job: disk, slowdown, memory, wire, optimizer, analysis."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from optgeom.hooks.observe import STAGES
from optgeom.trainer.config import TrainConfig
from optgeom.trainer.errors import ConfigError
from optgeom.trainer.parallelize import Ranks
from optgeom.trainer.planning.course import Course, course_of
from optgeom.trainer.planning.dealing import dealt, flops_of_ranks
from optgeom.trainer.planning.disk import Disk, disk_of
from optgeom.trainer.planning.machine import CPU, H100, Machine
from optgeom.trainer.planning.memory import Memory, memory_of
from optgeom.trainer.planning.shapes import Shapes, numel, shapes_of
from optgeom.trainer.planning.times import Times, analysis_seconds, times_of
from optgeom.trainer.planning.wire import (
    capture_of_ranks,
    exchange_of_ranks,
    fsdp_gathers,
    fsdp_scatters,
)

MOST_RANKS = 1 << 17
"""Beyond that nobody has trained, and arrays of this size would take their time."""
MOST_WEIGHTS = 10**14
"""Beyond that nobody has trained either, and sums of bytes would not fit into 64 bits."""


@dataclass(frozen=True, slots=True)
class Wire:
    """Bytes that a rank sends; the largest and the mean over the ranks.

    Attributes:
        gathers: FSDP's all-gathers of a step.
        scatters: Its reduce-scatters.
        exchange: The optimizer's, on the rank that sends most.
        exchange_mean: On average.
        norms: What capture adds at a captured step, on the rank that sends most.
        spectra: Where all spectra are due, beside.
    """

    gathers: int
    scatters: int
    exchange: int
    exchange_mean: float
    norms: int
    spectra: int

    @property
    def step(self) -> int:
        """Of an uncaptured step."""
        return self.gathers + self.scatters + self.exchange


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run will cost.

    Attributes:
        gpus: Ranks, a GPU each.
        machine: What they are.
        steps: Of the run.
        parameters: Weights of the model.
        layers: Captured matrices.
        memory: On the rank that holds most.
        wire: On the rank that sends most.
        times: On the rank that takes longest.
        course: Of the captures.
        disk: Of the whole run.
        last_step: Bytes of it that the last step alone makes, which is captured whole.
        bound: Bytes of 1000 steps as ``rec.describe()`` says, files apart.
        analysis: Core seconds of analyzing the run's raw matrices offline.
    """

    gpus: int
    machine: Machine
    steps: int
    parameters: int
    layers: int
    memory: Memory
    wire: Wire
    times: Times
    course: Course
    disk: Disk
    last_step: float
    bound: float
    analysis: float

    @property
    def seconds(self) -> float:
        """Of the whole run, capture included as the budget counts it."""
        return self.steps * self.times.step + self.course.seconds


def plan(config: TrainConfig, gpus: int, machine: Machine = H100) -> Plan:
    """Say what a run will cost, without starting it: nothing is allocated, no rank is needed.

    Args:
        config: The run, of `load_config`.
        gpus: Ranks that it trains on, sharded over all of them by rows, as `train` does it.
        machine: How fast each of them is.

    Returns:
        Counts that are exact, and times that are as good as the machine's rates.

    Raises:
        ConfigError: The batch does not divide over the ranks, or a number is out of range.
        OptgeomError: The optimizer or the capture would refuse these settings.
    """
    if isinstance(gpus, bool) or not isinstance(gpus, int) or not 1 <= gpus <= MOST_RANKS:
        raise ConfigError(
            f"gpus must lie between 1 and {MOST_RANKS:,}, got {gpus!r}: name the ranks"
        )
    _check_size(config)
    _check_batch(config, gpus)
    _check_capture(config)
    shapes = shapes_of(config)
    buckets = dealt(shapes, gpus)
    exchange = exchange_of_ranks(shapes, buckets, gpus)
    norms, spectra = capture_of_ranks(shapes, gpus)
    times = times_of(shapes, config, machine, flops_of_ranks(shapes, buckets, gpus), gpus)
    course = _course(shapes, config, times, last=config.capture.last_step)
    steady = _course(shapes, config, times, last=False)
    disk = disk_of(shapes, config, course, gpus)
    return Plan(
        gpus=gpus,
        machine=machine,
        steps=config.schedule.steps,
        parameters=sum(numel(one.shape) for one in shapes.weights),
        layers=len(shapes.layers),
        memory=memory_of(shapes, config, buckets, gpus),
        wire=Wire(
            gathers=fsdp_gathers(shapes, config, gpus),
            scatters=fsdp_scatters(shapes, gpus),
            exchange=int(exchange.max()),
            exchange_mean=float(exchange.mean()),
            norms=int(norms.max()),
            spectra=int(spectra.max()),
        ),
        times=times,
        course=course,
        disk=disk,
        last_step=disk.total - disk_of(shapes, config, steady, gpus).total,
        bound=shapes.bound,
        analysis=course.updates * analysis_seconds(shapes, CPU),
    )


def _check_batch(config: TrainConfig, gpus: int) -> None:
    nowhere = Ranks(rank=0, world=gpus, device=torch.device("meta"))
    nowhere.slice(config.data.batch, config.accumulate)


def _check_size(config: TrainConfig) -> None:
    model = config.model
    block = model.width * (4 * model.width + 3 * model.neurons)
    weights = model.blocks * block + 2 * model.vocab_size * model.width
    if weights > MOST_WEIGHTS:
        raise ConfigError(
            f"a model of {weights:.2g} weights is not planned, the most are {MOST_WEIGHTS:.0e}: "
            f"make model.width ({model.width:,}), mlp_width, blocks or vocab_size smaller"
        )


def _check_capture(config: TrainConfig) -> None:
    if unknown := [stage for stage in config.capture.stages if stage not in STAGES]:
        raise ConfigError(
            f"capture.stages must be among {', '.join(STAGES)}, got {unknown[0]!r}: leave it out"
        )


def _course(shapes: Shapes, config: TrainConfig, times: Times, *, last: bool) -> Course:
    return course_of(
        shapes.clocks, config.schedule.steps, config.capture.budget, times.spent, last=last
    )
