"""Whether every byte of a trace is still what was written, and what to do where it is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress

from optgeom.traces.errors import TraceError
from optgeom.traces.printable import printable, size_in_words

if TYPE_CHECKING:
    from optgeom.traces.keeping.repair import Action
    from optgeom.traces.keeping.verify import Report


@click.command()
@click.argument("path")
@click.option(
    "--repair",
    "mend",
    is_flag=True,
    help="Move damaged files to PATH/damaged, and put what is whole of them in their place.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(path: str, mend: bool, as_json: bool) -> None:
    """Read everything and report damage, in one trace or a folder of them.

    Exit code 0: all is as it was written. 1: damage was found, also where it was repaired.
    """
    from optgeom.traces.keeping.verify import traces_at

    told: dict[str, dict[str, Any]] = {}
    found = refused = False
    traces = traces_at(path)
    for one in traces:
        actions: tuple[Action, ...] = ()
        if mend:
            try:
                actions = _repair(one)
            except TraceError as error:
                if traces == [path]:
                    raise
                click.echo(printable(f"optgeom: {error}"), err=True)
                refused = True
        report = _verify(one)
        found |= not report.ok or any(action.damage for action in actions)
        if as_json:
            told[one] = report.to_json() | {"repaired": [action.to_json() for action in actions]}
        else:
            _say(one, report, actions)
    if as_json:
        click.echo(json.dumps(told[path] if traces == [path] else told))
    if found or refused:
        sys.exit(1 if found else 2)


def _repair(path: str) -> tuple[Action, ...]:
    from optgeom.traces.keeping.repair import repair

    with _progress("repairing") as progress:
        return repair(path, progress=progress)


def _verify(path: str) -> Report:
    from optgeom.traces.keeping.verify import verify as check

    with _progress("reading") as progress:
        return check(path, progress=progress)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _say(path: str, report: Report, actions: tuple[Action, ...]) -> None:
    from optgeom.traces.files.address import masked

    shown = masked(path)
    for action in actions:
        click.echo(printable(f"{shown}: {action}"))
    for finding in report.findings:
        # a message of damage names its file by itself
        told = finding.message if finding.damaged else f"{shown}/{finding.file}: {finding.message}"
        click.echo(printable(told))
    read = f"{report.files} files, {report.rows:,} rows, {size_in_words(report.bytes)}"
    damaged = sum(one.damaged for one in report.findings)
    if report.ok:
        click.echo(printable(f"{shown}: {read}: everything reads back as it was written"))
        return
    are = "1 file is damaged" if damaged == 1 else f"{damaged} files are damaged"
    way = f"optgeom trace verify {shown} --repair sets them aside, and keeps what is whole of them"
    click.echo(printable(f"{shown}: {read}: {are}" + ("" if actions else f". {way}")))
