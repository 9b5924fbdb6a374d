"""What a run will cost, before it is started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from optgeom.commands.make import setting

if TYPE_CHECKING:
    from optgeom.trainer import Plan, TrainConfig
    from optgeom.trainer.planning.figures import Figure

_TITLES = {
    "disk": "Disk",
    "time": "Time",
    "memory": "Memory of a GPU",
    "wire": "Sent by a GPU in a step",
    "analysis": "Analysis",
}
_SECONDS = ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))
_BYTES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_WEIGHTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


@click.command()
@click.argument("config")
@click.option("--gpus", type=int, required=True, help="Ranks to train on, a GPU each.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting, such as capture.every=10; may be given several times.",
)
@click.option("--step-seconds", type=float, help="What a step takes, where that is known.")
@click.option("--tflops", type=float, help="Peak of a GPU in bfloat16.  [default: 989, an H100]")
@click.option("--mfu", type=float, help="Share of it that training reaches.  [default: 0.4]")
@click.option("--memory", type=float, help="GB that a GPU has.  [default: 80]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def plan(
    config: str,
    gpus: int,
    overrides: tuple[str, ...],
    step_seconds: float | None,
    tflops: float | None,
    mfu: float | None,
    memory: float | None,
    as_json: bool,
) -> None:
    """Say what a run will cost before it is started: disk, time, memory, bytes on the wire.

    CONFIG is a TOML file or the name of a preset, as for train. Nothing is allocated, and no GPU is
    needed. Each line says whether it was counted, measured, assumed or extrapolated (docs/plan.md).
    """
    from optgeom.trainer.planning.figures import figures, to_json
    from optgeom.trainer.planning.machine import H100
    from optgeom.trainer.planning.plan import plan as make
    from optgeom.trainer.settings import load_config

    given: dict[str, Any] = {
        "step_seconds": step_seconds,
        "tflops": tflops,
        "mfu": mfu,
        "memory": None if memory is None else 1e9 * memory,
    }
    machine = replace(H100, **{name: one for name, one in given.items() if one is not None})
    if others := [name for name in ("tflops", "memory") if given[name] is not None]:
        machine = replace(machine, name=f"an H100 but for --{' and --'.join(others)}")
    settings = load_config(config, overrides=dict(setting(text) for text in overrides))
    found = make(settings, gpus, machine)
    if as_json:
        click.echo(json.dumps(to_json(found)))
        return
    console = Console()
    for part in _tables(found, figures(found), config, console.width):
        console.print(part)
    room, needed = found.machine.memory, found.memory.total
    if needed > room:
        said = f"Does not fit: {_scaled(needed, _BYTES)} where a GPU has {_scaled(room, _BYTES)}."
        console.print(Text(f"{said} {_ways(settings, gpus)}", "bold red"))


def _tables(
    found: Plan, rows: tuple[Figure, ...], config: str, columns: int
) -> Iterator[RenderableType]:
    yield Text(
        f"{config} on {found.gpus:,} GPU{'s' * (found.gpus > 1)}: "
        f"{_scaled(found.parameters, _WEIGHTS)} weights, "
        f"{found.layers} captured matrices, {found.steps:,} steps; {found.machine.name}"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    # numbers never shrink: where the terminal is narrow, what they rest on is cut
    room = columns
    for cells, justify in (
        ([f"  {one.title}" for one in rows], "left"),
        ([_words(one) for one in rows], "right"),
        ([one.basis for one in rows], "left"),
    ):
        width = max(map(len, cells))
        room -= width + 2
        table.add_column(justify=justify, no_wrap=True, width=width)  # type: ignore[arg-type]
    table.add_column(no_wrap=True, max_width=max(room, 1))
    section = ""
    for one in rows:
        if (begins := one.key.partition(".")[0]) != section:
            section = begins
            table.add_row(Text(_TITLES[section], "bold"))
        table.add_row(
            f"  {one.title}", _words(one), Text(one.basis, "dim"), Text(one.rests_on, "dim")
        )
    yield table


def _ways(settings: TrainConfig, gpus: int) -> str:
    """What would take less, of what is not done yet; accumulate keeps gradients whole instead."""
    ways = [] if settings.recompute else ["recompute=true"]
    ways += ["more GPUs"] if settings.data.batch // settings.accumulate > gpus else []
    return f"What takes less: {', '.join([*ways, 'a shorter data.sequence'])}."


def _words(one: Figure) -> str:
    """A value with its unit, to three digits.

    >>> _scaled(1.5e10, _BYTES), _scaled(0.65, _SECONDS), _scaled(0.0, _BYTES)
    ('15 GB', '650 ms', '0')
    """
    if one.unit == "share":
        return f"{100 * one.value:.3g} %"
    if one.unit == "count":
        return f"{one.value:,.0f}"
    if one.unit == "times":
        return f"{one.value:.3g}"
    if one.unit == "bytes/day":
        return f"{_scaled(one.value, _BYTES)} a day"
    if one.unit == "core seconds":
        return f"{one.value / 3600:.3g} core h"
    return _scaled(one.value, _BYTES if one.unit == "bytes" else _SECONDS)


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    if not value:
        return "0"
    step, name = next((one for one in units if value >= one[0]), units[-1])
    return f"{value / step:.3g} {name}"
