"""What another rule would have applied."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console

import optgeom
from optgeom.commands.ask.steps import steps_of
from optgeom.terminal import counted, whatif_tables
from optgeom.traces.errors import OptgeomError


@click.command()
@click.argument("trace")
@click.option(
    "--rule",
    "rules",
    default="normuon",
    show_default=True,
    metavar="NAME,NAME",
    help="normuon, muon, polar-express, aurora, adamw-sign, polar, or a form such as "
    "normuon:released.",
)
@click.option("--out", metavar="FOLDER", help="Where to write them, if not beside TRACE.")
@click.option("--steps", metavar="FROM:TO", help="Such as 100:400, which leaves 400 out, or 300.")
@click.option(
    "--layer", "layers", multiple=True, metavar="NAME", help="Only this layer; repeat it."
)
@click.option("--updates", is_flag=True, help="Store the computed updates too.")
@click.option("--overwrite", is_flag=True, help="Replace what was computed from TRACE before.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def whatif(
    trace: str,
    rules: str,
    out: str | None,
    steps: str | None,
    layers: tuple[str, ...],
    updates: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compute what another rule would have applied at the captured steps of a run.

    From the raw ns_input, momentum or gradient of TRACE, each rule gives a trace of its own, called
    TRACE+RULE, which every command and page opens. Exit code 1: nothing could be computed for want
    of the second moment (docs/whatif.md).
    """
    names = [name.strip() for name in rules.split(",") if name.strip()]
    if not names:
        raise OptgeomError("--rule names no rule: write normuon, or several with commas")
    opened = optgeom.open_trace(trace)
    with counted(opened.name) as progress:
        found = optgeom.whatif(
            opened,
            names,
            out=out,
            steps=steps_of(steps),
            layers=layers or None,
            overwrite=overwrite,
            updates=updates,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        console = Console()
        for part in whatif_tables(found):
            console.print(part)
    sys.exit(0 if found.answers else 1)
