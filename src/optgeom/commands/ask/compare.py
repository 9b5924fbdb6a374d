"""What runs differ in."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console

import optgeom
from optgeom.commands.ask.steps import steps_of
from optgeom.terminal import comparison_tables
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
        steps=steps_of(steps),
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
