"""Seconds: of a step, of the optimizer in it, of a captured step, of spectra and their analysis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optgeom.hooks.budget import Spent
from optgeom.trainer.config import TrainConfig
from optgeom.trainer.planning.dealing import Flops, capture_owners, share
from optgeom.trainer.planning.machine import Machine
from optgeom.trainer.planning.shapes import Shapes, numel

TERA = 1e12


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds on the rank that takes longest.

    Attributes:
        flops: Of a step's forward and backward pass, over all ranks, as MFU counts them.
        peak: TFLOP/s of a rank's products in that pass.
        step: Of an uncaptured step.
        optimizer: Of the orthogonalization in it.
        balance: The busiest rank's orthogonalization over the mean; 1 where there is none.
        captured: What a captured step takes longer, of norms and scalars of all layers.
        spectra: Of all spectra of a capture, in background, of the owner that has most to do.
        updates: Of handing over a rank's raw matrices of one capture.
    """

    flops: float
    peak: float
    step: float
    optimizer: float
    balance: float
    captured: float
    spectra: float
    updates: float

    @property
    def spent(self) -> Spent:
        """As the recorder's budget is told."""
        return Spent(0.0, self.step, self.captured, self.spectra, self.updates)


def step_flops(shapes: Shapes, config: TrainConfig) -> float:
    """6 a weight and token, the embedding apart, and 12 x blocks x width x sequence for attention.

    A. Chowdhery et al., PaLM (arXiv:2204.02311), appendix B; what `recompute` does again is left
    out.
    """
    weights = sum(
        numel(one.shape) for one in shapes.weights if not one.name.startswith("embedding")
    )
    attention = 12 * config.model.blocks * config.model.width * config.data.sequence
    return float((6 * weights + attention) * config.data.batch * config.data.sequence)


def spectrum_seconds(shape: tuple[int, int], machine: Machine) -> float:
    """Of one matrix: a float64 Gram matrix of the short side k, 2 k^2 l flops, and 4/3 k^3."""
    short, long = min(shape), max(shape)
    gram = 2 * short * short * long / (machine.gram_tflops * TERA)
    return gram + 4 / 3 * short**3 / (machine.eigen_tflops * TERA) + machine.spectrum_seconds


def times_of(
    shapes: Shapes, config: TrainConfig, machine: Machine, work: Flops, world: int
) -> Times:
    """Estimate from the machine's rates.

    Args:
        shapes: Of the run.
        config: Its settings.
        machine: What a rank runs on.
        work: Newton-Schulz flops of each rank.
        world: Ranks.
    """
    flops = step_flops(shapes, config)
    peak = machine.peak(low=config.precision == "bfloat16")
    step = machine.step_seconds or flops / (world * peak * TERA * machine.mfu)
    low = all(rule.low for rule in shapes.rules)
    rate = machine.peak(low=low) * TERA * machine.ns_share
    owned = np.zeros(world)
    for shape, owner in zip(shapes.layers, capture_owners(shapes.layers, world), strict=True):
        owned[owner] += shapes.spectral * spectrum_seconds(shape, machine)
    held = 4 * sum(share(shape, world) for shape in shapes.layers)
    read = shapes.stages * held / machine.norms_rate
    return Times(
        flops=flops,
        peak=peak,
        step=step,
        optimizer=float(work.max()) / rate,
        balance=float(work.max() / work.mean()) if work.any() else 1.0,
        captured=read + machine.layer_seconds * len(shapes.layers),
        spectra=float(owned.max()),
        updates=shapes.stages * held / machine.copy_rate,
    )


def analysis_seconds(shapes: Shapes, machine: Machine) -> float:
    """Of `optgeom.analyze` on one core, of one capture's raw matrices."""
    return shapes.spectral * sum(spectrum_seconds(shape, machine) for shape in shapes.layers)
