"""A plan as a list of numbers, each with what it rests on: for a table and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from optgeom.trainer.planning.constants import MEASURED
from optgeom.trainer.planning.plan import Plan

Basis = Literal["counted", "measured", "assumed", "extrapolated", "given"]
Unit = Literal["bytes", "bytes/day", "seconds", "core seconds", "share", "times", "count"]
DAY = 86_400.0
CPU_RUNS = f"benchmarks/plan.py, {MEASURED}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a plan.

    Attributes:
        key: ``section.name``, as in the JSON.
        title: In words.
        value: In `unit`.
        unit: bytes, bytes/day, seconds, core seconds, share, times, count.
        basis: counted: exact from shapes. measured: counts times a benchmark's constants. assumed:
            from a data sheet or a rule of thumb. extrapolated: a rule checked on two CPU cores,
            with rates that were not. given: by the user.
        rests_on: What it rests on, in a few words.
    """

    key: str
    title: str
    value: float
    unit: Unit
    basis: Basis
    rests_on: str


def figures(plan: Plan) -> tuple[Figure, ...]:
    """Every number of a plan, in the order of the page."""
    return (*_disk(plan), *_time(plan), *_memory(plan), *_wire(plan), *_analysis(plan))


def to_json(plan: Plan) -> dict[str, Any]:
    """A dict of JSON types: what was asked, then ``figures`` by key (docs/plan.md)."""
    return {
        "gpus": plan.gpus,
        "machine": asdict(plan.machine),
        "steps": plan.steps,
        "parameters": plan.parameters,
        "layers": plan.layers,
        "figures": {
            one.key: {name: getattr(one, name) for name in ("value", "unit", "basis", "rests_on")}
            for one in figures(plan)
        },
    }


def _rates(plan: Plan) -> tuple[Basis, str]:
    """What seconds of capture rest on."""
    if plan.machine.measured:
        return "measured", CPU_RUNS
    return "extrapolated", f"rates of {plan.machine.name}; the rule from two CPU cores"


def _disk(plan: Plan) -> Iterator[Figure]:
    is_whole = plan.course.kept == 1.0 and plan.course.is_kept
    rates, _ = _rates(plan)
    basis: Basis = "measured" if is_whole or rates == "measured" else "extrapolated"
    rule = CPU_RUNS if is_whole else f"{CPU_RUNS}; thinned by the budget"
    size, files, total = plan.disk.bytes, plan.disk.files, plan.disk.total
    for table in ("metrics", "neurons", "spectra", "updates"):
        rests_on = f"{plan.disk.rows[table]:,.0f} rows in {files[table]:,} files"
        yield Figure(f"disk.{table}", table, size[table], "bytes", basis, rests_on)
    yield Figure("disk.run", "all, of the run", total, "bytes", basis, rule)
    whole = "captured whole: capture.last_step"
    yield Figure("disk.last_step", "  of it the last step", plan.last_step, "bytes", basis, whole)
    daily: Basis = basis if plan.machine.step_seconds else "extrapolated"
    per_day = (total - plan.last_step) * DAY / plan.seconds
    pace = "at the run's pace, the last step apart"
    yield Figure("disk.per_day", "all, of a day", per_day, "bytes/day", daily, pace)
    bound = plan.bound * plan.steps / 1000
    yield Figure(
        "disk.described", "rec.describe() says", bound, "bytes", "counted", "last step, files apart"
    )
    yield Figure(
        "disk.files", "files, of the run", sum(files.values()), "count", basis, "each rank its own"
    )


def _time(plan: Plan) -> Iterator[Figure]:
    times, course, machine = plan.times, plan.course, plan.machine
    basis, rule = _rates(plan)
    if machine.step_seconds:
        yield Figure("time.step", "a step", times.step, "seconds", "given", "--step-seconds")
    else:
        speed = f"{times.flops:.2e} flops at {machine.mfu:.0%} of {times.peak:.4g} TFLOP/s"
        yield Figure("time.step", "a step", times.step, "seconds", "assumed", speed)
    yield Figure("time.run", "the run", plan.seconds, "seconds", basis, f"{plan.steps:,} steps")
    share = times.optimizer / times.step
    products = f"products at {machine.ns_share:.0%} of the peak"
    products_basis: Basis = "measured" if machine.measured else "assumed"
    yield Figure(
        "time.optimizer", "orthogonalizing", times.optimizer, "seconds", products_basis, products
    )
    yield Figure("time.optimizer_share", "  of a step", share, "share", products_basis, products)
    yield Figure(
        "time.balance",
        "  busiest rank over the mean",
        times.balance,
        "times",
        "counted",
        "the deal",
    )
    yield Figure(
        "time.captured_step", "a captured step takes more", times.captured, "seconds", basis, rule
    )
    added = times.captured / times.step
    yield Figure("time.captured_share", "  of a step", added, "share", basis, rule)
    yield Figure(
        "time.capture", "capture, of the run", course.share, "share", basis, "hooks.budget"
    )
    kept = f"k = {course.thinning} at the end, captures every {course.every} steps"
    yield Figure(
        "time.spectra_kept", "spectra that the budget keeps", course.kept, "share", basis, kept
    )


def _memory(plan: Plan) -> Iterator[Figure]:
    one, room = plan.memory, plan.machine.memory
    named: tuple[tuple[str, str, int, Basis, str], ...] = (
        ("weights", "weights, and gradients", 2 * one.weights, "counted", "float32, padded rows"),
        ("state", "optimizer state", one.state, "counted", "float32"),
        ("gathered", "two gathered blocks", one.gathered, "counted", "fully_shard"),
        ("root", "gathered embedding and head", one.root, "counted", "fully_shard"),
        ("unreduced", "gradients before they are reduced", one.unreduced, "counted", "one unit"),
        (
            "exchange",
            "matrices being orthogonalized",
            one.exchange,
            "assumed",
            "4 copies of a pile",
        ),
        (
            "accumulated",
            "gradients between portions, whole",
            one.accumulated,
            "counted",
            "fully_shard, accumulate",
        ),
        ("activations", "activations and logits", one.activations, "assumed", "a rule of thumb"),
        ("training", "all, without capture", one.training, "assumed", "the lines above"),
        ("operands", "capture: operands", one.operands, "assumed", "one process; more on several"),
        ("told", "capture: numbers told to an owner", one.told, "counted", "geometry.shards"),
        ("queue", "capture: queue, at most", one.queue, "counted", "hooks.worker"),
    )
    for key, title, value, basis, rests_on in named:
        yield Figure(f"memory.{key}", title, value, "bytes", basis, rests_on)
    full = one.total / room
    yield Figure(
        "memory.full", f"all, of {room / 1e9:g} GB", full, "share", "assumed", "the lines above"
    )


def _wire(plan: Plan) -> Iterator[Figure]:
    one = plan.wire
    named: tuple[tuple[str, str, float, str], ...] = (
        ("gathers", "all-gathers of weights", one.gathers, "fully_shard, padded rows"),
        ("scatters", "reduce-scatters of gradients", one.scatters, "float32"),
        ("exchange", "the optimizer, busiest rank", one.exchange, "optim.exchange"),
        ("exchange_mean", "  mean of the ranks", one.exchange_mean, "optim.exchange"),
        ("norms", "a captured step adds, at most", one.norms, "hooks.gathering"),
        ("spectra", "  and all spectra, beside", one.spectra, "hooks.gathering"),
    )
    for key, title, value, rests_on in named:
        yield Figure(f"wire.{key}", title, value, "bytes", "counted", rests_on)


def _analysis(plan: Plan) -> Iterator[Figure]:
    basis, rule = _rates(plan)
    yield Figure(
        "analysis.in_flight",
        "spectra of one capture, busiest owner",
        plan.times.spectra,
        "seconds",
        basis,
        rule,
    )
    yield Figure(
        "analysis.offline",
        "optgeom analyze, of the run",
        plan.analysis,
        "core seconds",
        "extrapolated",
        "benchmarks/analysis.py, 2026-11-27",
    )
