"""What a trace holds, and what its columns mean."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console

import optgeom
from optgeom.commands.runs import repair_named
from optgeom.terminal import metrics_table, trace_facts, trace_table, traces_table
from optgeom.traces.errors import TraceError
from optgeom.traces.files.address import masked
from optgeom.traces.printable import printable


@click.command()
@click.argument("path", required=False)
@click.option("--metrics", is_flag=True, help="List what every column means instead.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(path: str | None, metrics: bool, as_json: bool) -> None:
    """Say what a trace holds, or each of a folder; or with --metrics what its columns mean."""
    from optgeom.traces.keeping.verify import traces_at

    if metrics:
        _list_metrics(as_json)
        return
    if path is None:
        raise click.UsageError("name a trace, or ask for --metrics")
    found = traces_at(path)
    if found != [path]:
        _folder(found, as_json)
        return
    with repair_named(path):
        opened = optgeom.open_trace(path)
        if as_json:
            click.echo(json.dumps(opened.info.to_json()))
            return
        Console().print(trace_table(trace_facts(opened)))


def _folder(paths: list[str], as_json: bool) -> None:
    """A row for each run of a folder; those that cannot be read are named, with exit code 1."""
    told: dict[str, Any] = {}
    rows = {}
    for path in paths:
        shown = masked(path)
        try:
            with repair_named(path):
                opened = optgeom.open_trace(path)
                told[shown] = opened.info.to_json()
                if not as_json:
                    rows[shown] = trace_facts(opened)
        except TraceError as error:
            told[shown] = {"error": str(error)}
    if as_json:
        click.echo(json.dumps(told))
    elif rows:
        Console().print(traces_table(rows))
    errors = [one["error"] for one in told.values() if "error" in one]
    for said in errors:
        click.echo(printable(f"optgeom: {said}"), err=True)
    if errors:
        sys.exit(1)


def _list_metrics(as_json: bool) -> None:
    from optgeom.geometry.catalogue import METRICS

    if as_json:
        fields = ("name", "unit", "range", "healthy", "formula", "reference", "table")
        rows = [{key: _plain(getattr(m, key)) for key in fields} for m in METRICS.values()]
        click.echo(json.dumps(rows))
        return
    console = Console()
    console.print(metrics_table(console.width))


def _plain(value: object) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
