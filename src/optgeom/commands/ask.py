"""What runs differ in, and what was not computed in flight."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console

import optgeom
from optgeom.terminal import comparison_tables, counted
from optgeom.traces.errors import OptgeomError


@click.command()
@click.argument("runs", default="runs")
@click.option("--run", "names", multiple=True, metavar="NAME", help="Only these; repeat it.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="A metric of the catalogue; repeat it.",
)
@click.option("--stage", default="update", show_default=True, help="What to compare.")
@click.option(
    "--steps", metavar="FROM:TO", help="Such as 100:400, which leaves 400 out, 100: or 300."
)
@click.option("--reference", metavar="NAME", help="The run that ratios are to.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def compare(
    runs: str,
    names: tuple[str, ...],
    metrics: tuple[str, ...],
    stage: str,
    steps: str | None,
    reference: str | None,
    as_json: bool,
) -> None:
    """Compare runs by kind of layer: medians, quartiles, and ratios where there are any.

    Steps and layers that not all runs measured are left out, and it is said how many. What cannot
    be compared has no ratio, and it is said why; exit code 1 where nothing can (docs/compare.md).
    """
    opened = optgeom.open_traces(runs)
    if unknown := [name for name in names if name not in opened]:
        raise OptgeomError(f"no run {unknown[0]!r} in {runs}: there are {', '.join(opened)}")
    wanted = {"metrics": metrics} if metrics else {}
    found = optgeom.compare(
        {name: opened[name] for name in names} if names else opened,
        stage=stage,
        steps=_steps(steps),
        reference=reference,
        **wanted,
    )
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        console = Console()
        for part in comparison_tables(found, console.width):
            console.print(part)
    sys.exit(0 if found.comparable else 1)


def _steps(text: str | None) -> int | slice | None:
    """The steps of FROM:TO, FROM:TO:EVERY or of a single number."""
    if text is None:
        return None
    try:
        parts = [int(part) if part else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] is not None:
        return parts[0]
    if len(parts) not in (2, 3):
        raise click.UsageError(f"--steps takes FROM:TO or a step, such as 100:400, got {text!r}")
    return slice(*parts)


class Bytes(click.ParamType[int]):
    """A number of bytes, such as 512MB or 4GiB."""

    name = "bytes"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number, a power of 1024 where the unit ends in iB, else of 1000."""
        found = re.fullmatch(r"([0-9.]+) *([KMGT]?)(i?)B?", str(value), re.IGNORECASE)
        if found is None or not (number := float(found[1])) > 0:
            self.fail(f"{value!r} is no number of bytes: write 512MB or 4GiB", param, ctx)
        power = "KMGT".find(found[2].upper()) + 1 if found[2] else 0
        return int(number * (1024 if found[3] else 1000) ** power)


@click.command()
@click.argument("runs", default="runs")
@click.option("--workers", type=click.IntRange(1), help="Start so many processes for it.")
@click.option("--scheduler", metavar="ADDRESS", help="Use a Dask cluster: tcp://HOST:8786.")
@click.option("--device", metavar="NAME", help="Compute with torch there, such as on cuda.")
@click.option(
    "--memory",
    type=Bytes(),
    default="1GiB",
    show_default=True,
    help="What matrices under way may take on this machine.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def analyze(
    runs: str,
    workers: int | None,
    scheduler: str | None,
    device: str | None,
    memory: int,
    as_json: bool,
) -> None:
    """Compute from raw matrices whatever was not computed in flight.

    RUNS is a trace or a folder of traces, or a URI of one. What is found is added to each trace,
    under derived/; what is there is not computed again. Exit code 1: something could not be read.
    """
    from optgeom.geometry.analyze import NotAllMeasured
    from optgeom.traces.errors import NotCaptured

    console, traces = Console(), _opened(runs)
    done: list[dict[str, Any]] = []
    left_out: list[str] = []
    failed = False
    for name, one in traces.items():
        started, cells = time.perf_counter(), 0
        try:
            with counted(name) as progress:
                cells = optgeom.analyze(
                    one,
                    workers=workers,
                    scheduler=scheduler,
                    device=device,
                    memory=memory,
                    progress=progress,
                ).num_rows
        except NotCaptured as error:
            left_out.append(str(error))
            continue
        except NotAllMeasured as error:
            failed = True
            click.echo(f"optgeom: {name}: {error}", err=True)
            continue
        seconds = time.perf_counter() - started
        done.append({"run": name, "cells": cells, "seconds": round(seconds, 2)})
        if not as_json:
            console.print(
                f"{name}: {cells:,} cells analyzed in {seconds:.1f} s"
                if cells
                else f"{name}: nothing was left to analyze",
                highlight=False,
            )
    if len(left_out) == len(traces):
        raise NotCaptured(left_out[0])
    for message in left_out:
        click.echo(f"optgeom: {message}", err=True)
    if as_json:
        click.echo(json.dumps(done))
    sys.exit(1 if failed else 0)


def _opened(path: str) -> Mapping[str, optgeom.Trace]:
    """The traces of a folder, or one trace."""
    from optgeom.traces.errors import NotATrace

    try:
        return optgeom.open_traces(path)
    except NotATrace:
        one = optgeom.open_trace(path)
        return {one.name: one}
