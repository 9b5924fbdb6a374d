"""Whether every byte of a trace is still what was written."""

from __future__ import annotations

import sys

import click
from rich.console import Console


@click.command()
@click.argument("path")
def verify(path: str) -> None:
    """Read everything and report damage; exit code 1 where some is found."""
    from optgeom.traces.verify import verify as check

    result = check(path)
    for finding in result.findings:
        click.echo(f"{finding.file}: {finding.message}")
    if not result.ok:
        sys.exit(1)
    Console().print(
        f"{result.files} files, {result.rows:,} rows, {result.bytes / 1e6:.1f} MB: "
        "everything reads back as it was written"
    )
