"""What a trace holds, and what its columns mean."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console

import optgeom
from optgeom.terminal import metrics_table, trace_table


@click.command()
@click.argument("path", required=False)
@click.option("--metrics", is_flag=True, help="List what every column means instead.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(path: str | None, metrics: bool, as_json: bool) -> None:
    """Say what a trace holds, or with --metrics what its columns mean."""
    if metrics:
        _list_metrics(as_json)
        return
    if path is None:
        raise click.UsageError("name a trace, or ask for --metrics")
    opened = optgeom.open_trace(path)
    if as_json:
        click.echo(json.dumps(opened.info.to_json()))
        return
    Console().print(trace_table(opened))


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
