"""How fast a machine is, as far as a plan needs it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from optgeom.trainer.errors import ConfigError

LEAST, MOST = 1e-9, 1e15
"""Of every rate: nothing beyond is a machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One rank's speed, and the network's absence: nothing here waits for a wire.

    Attributes:
        name: What it is, and where its numbers come from.
        measured: Whether the rates of capture were measured on it; if not, they are extrapolated.
        tflops: Of matrix products in bfloat16, at peak.
        mfu: Share of it that training reaches (model flops utilization).
        ns_share: Share of it that the products of Newton-Schulz reach.
        low_factor: By what products in float32 are slower than in bfloat16.
        norms_rate: Bytes of float32 weights a second that a captured step reads norms of.
        layer_seconds: Of a captured step, for every matrix, on the training thread.
        gram_tflops: Of float64 Gram matrices.
        eigen_tflops: Of float64 symmetric eigenvalues, at 4/3 k^3 flops.
        spectrum_seconds: For every matrix beside.
        copy_rate: Bytes a second of raw matrices from where they are to the writer.
        memory: Bytes that a rank has.
        step_seconds: Of an uncaptured step; None: from the flops.
    """

    name: str
    measured: bool
    tflops: float
    mfu: float
    ns_share: float
    low_factor: float
    norms_rate: float
    layer_seconds: float
    gram_tflops: float
    eigen_tflops: float
    spectrum_seconds: float
    copy_rate: float
    memory: float
    step_seconds: float | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float | int) and not isinstance(value, bool):
                _check(one.name, value)
        if self.mfu > 1:
            raise ConfigError(
                f"mfu is a share of the peak, at most 1, got {self.mfu}: 0.4 is usual"
            )

    def peak(self, *, low: bool) -> float:
        """TFLOP/s of products in bfloat16, or else in float32."""
        return self.tflops / (1.0 if low else self.low_factor)


def _check(name: str, value: float) -> None:
    if not LEAST <= value <= MOST:
        raise ConfigError(
            f"{name} must lie between {LEAST:g} and {MOST:g}, got {value!r}: "
            "say what the machine does"
        )


H100 = Machine(
    name="H100 SXM, data sheet",
    measured=False,
    tflops=989.0,  # bfloat16, dense
    mfu=0.4,
    ns_share=0.5,
    low_factor=16.0,  # float32 without tensor cores
    norms_rate=3.35e12 / 12,  # HBM3; a captured step passes over a weight about 12 times
    layer_seconds=1.5e-3,
    gram_tflops=0.5 * 67.0,
    eigen_tflops=0.01 * 67.0,
    spectrum_seconds=2.5e-3,
    copy_rate=20e9,
    memory=80e9,
)
"""Assumptions, none of them measured here: peaks and bandwidth of the data sheet, a Gram matrix at
half the float64 tensor peak, eigenvalues at a hundredth of it, the CPU benchmark's time for every
matrix, which is mostly Python, and a third of a PCIe 5 link."""

CPU = Machine(
    name="one of two cores of an AMD EPYC",
    measured=True,
    tflops=0.1,
    mfu=0.5,
    ns_share=0.5,
    low_factor=1.0,
    norms_rate=1.29e9,
    layer_seconds=1.41e-3,
    gram_tflops=0.104,
    eigen_tflops=0.023,
    spectrum_seconds=2.49e-3,
    copy_rate=1.0e9,
    memory=12e9,
)
"""A captured step, and what a spectrum takes beside its kernel: `python benchmarks/plan.py
--rates`, 2026-11-28, CPU seconds on a machine that was busy with other work. The kernel's two
rates go through what `python benchmarks/analysis.py` found at 768 x 768 (35 ms) and 3072 x 768
(61 ms) on 2026-11-27, which puts 2048 x 2048 (548 ms) 21 % too high. `tflops`, shares,
`copy_rate` and `memory` are round numbers that no plan of the command line reads."""
