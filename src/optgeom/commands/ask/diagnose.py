"""What is wrong with an optimizer, as far as its records show."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import optgeom
from optgeom.commands.ask.steps import steps_of
from optgeom.commands.runs import runs_at
from optgeom.traces.errors import NotCaptured, OptgeomError

if TYPE_CHECKING:
    from optgeom.geometry.diagnosis.finding import Diagnosis, Evidence, Finding

_STYLES = {"severe": "bold red", "warning": "bold yellow", "note": "bold cyan"}
_LAYERS = 3
"""Layers that a finding names before it counts the rest."""
_EVIDENCE = 3
"""Values that it shows; --json has all."""


@click.command()
@click.argument("runs", default="runs")
@click.option("--run", "names", multiple=True, metavar="NAME", help="Only these; repeat it.")
@click.option(
    "--steps", metavar="FROM:TO", help="Such as 100:400, which leaves 400 out, 100: or 300."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def diagnose(runs: str, names: tuple[str, ...], steps: str | None, as_json: bool) -> None:
    """Look for what goes wrong with optimizers: in plain words, with evidence and what to try.

    RUNS is a trace or a folder of traces. Exit code 1: something severe or worth a warning was
    found, or a run could not be read; notes alone are 0 (docs/diagnose.md).
    """
    traces, damaged = runs_at(runs)
    if unknown := [name for name in names if name not in traces]:
        raise OptgeomError(f"no run {unknown[0]!r} in {runs}: there are {', '.join(traces)}")
    if not traces and not damaged:
        raise OptgeomError(f"there is no run in {runs}")
    wanted = steps_of(steps)
    chosen = {name: one for name, one in traces.items() if not names or name in names}
    found: dict[str, Diagnosis] = {}
    missing: dict[str, str] = {}
    for name, one in chosen.items():
        try:
            found[name] = optgeom.diagnose(one, steps=wanted)
        except NotCaptured as error:
            if len(chosen) == 1:
                raise
            missing[name] = str(error)
    errors = {**missing, **({} if names else damaged)}
    if as_json:
        click.echo(json.dumps(_rows(found, errors)))
    else:
        _print(found, errors)
    sys.exit(1 if errors or any(one.found for one in found.values()) else 0)


def _rows(found: Mapping[str, Diagnosis], errors: Mapping[str, str]) -> list[dict[str, Any]]:
    """A dict per run: what was found under the folder's name, or why it could not be read."""
    rows = [{**one.to_json(), "run": name} for name, one in found.items()]
    return rows + [{"run": name, "error": message} for name, message in errors.items()]


def _print(found: Mapping[str, Diagnosis], errors: Mapping[str, str]) -> None:
    console = Console()
    for place, (name, one) in enumerate(found.items()):
        if place:
            console.print()
        for part in _parts(name, one):
            console.print(part)
    for name, message in errors.items():
        click.echo(f"optgeom: {name}: {message}", err=True)


def _parts(name: str, found: Diagnosis) -> Iterator[RenderableType]:
    yield Text.assemble((name, "bold"), f"  {_summary(found)}")
    for one in found.findings:
        yield ""
        yield Text.assemble((one.severity, _STYLES[one.severity]), "  ", one.title)
        yield Padding(_details(one), (0, 0, 0, 2))
    if found.not_judged:
        yield ""
        yield Text("Not judged:", "dim")
        yield Padding(_not_judged(found), (0, 0, 0, 2))


def _summary(found: Diagnosis) -> str:
    counts = [
        f"{count} {severity}{'s' * (severity != 'severe' and count > 1)}"
        for severity in _STYLES
        if (count := sum(one.severity == severity for one in found.findings))
    ]
    looked = f"{len(found.judged)} of {len(found.judged) + len(found.not_judged)} rules could look"
    return f"{', '.join(counts) or 'nothing was found'}; {looked}"


def _details(one: Finding) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    if len(one.layers) > 1:
        rest = len(one.layers) - _LAYERS
        more = f" and {rest} more" if rest > 0 else ""
        table.add_row("layers", Text(", ".join(one.layers[:_LAYERS]) + more))
    table.add_row("steps", _steps(one.steps))
    for place, evidence in enumerate(one.evidence[:_EVIDENCE]):
        table.add_row("" if place else "evidence", Text(_evidence(evidence)))
    table.add_row("cause", Text(one.cause))
    table.add_row("try", Text(one.advice))
    return table


def _steps(steps: Sequence[int]) -> str:
    if len(steps) == 1:
        return f"{steps[0]:,}"
    return f"{steps[0]:,} to {steps[-1]:,} ({len(steps):,} captures)"


def _evidence(one: Evidence) -> str:
    from optgeom.geometry.comparison.result import number

    value = "" if one.value is None else f" {number(one.value)}"
    place = f"{one.layer}, step {one.step:,}" if one.layer else f"step {one.step:,}"
    stage = f", {one.stage}" if one.stage else ""
    return f"{place}{stage}: {one.what}{value}, expected {one.expected}"


def _not_judged(found: Diagnosis) -> Table:
    by_reason: dict[str, list[str]] = {}
    for rule, why in found.not_judged.items():
        by_reason.setdefault(why, []).append(rule)
    table = Table.grid(padding=(0, 1))
    for why, rules in by_reason.items():
        table.add_row(Text("-", "dim"), Text(f"{', '.join(rules)}: {why}", "dim"))
    return table
