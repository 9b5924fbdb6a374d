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

from optgeom.traces.errors import NotATrace, TraceError
from optgeom.traces.files.address import is_uri, masked
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

    Exit code 0: what is there is as it was written. 1: damage was found, also where it was
    repaired. 2: a trace could not be verified, or not be repaired.
    """
    from optgeom.traces.keeping.verify import traces_at

    told: dict[str, dict[str, Any]] = {}
    found = refused = False
    traces = traces_at(path)
    for one in traces:
        row: dict[str, Any] = {}
        actions: tuple[Action, ...] = ()
        try:
            if mend:
                actions = _repair(one)
        except TraceError as error:
            if traces == [path]:
                raise
            row["error"] = _refused(error)
            refused = True
        try:
            report = _verify(one)
        except TraceError as error:
            # the others are verified; and an error is said once
            if traces == [path]:
                raise
            if row.get("error") != str(error):
                row["error"] = _refused(error)
            told[masked(one)] = {"ok": False, **row}
            refused = True
            continue
        found |= not report.ok or any(action.damage for action in actions)
        done = [action.to_json() for action in actions]
        told[masked(one)] = report.to_json() | {"repaired": done} | row
        if not as_json:
            _say(masked(one), report, actions)
    if as_json:
        click.echo(json.dumps(told[masked(path)] if traces == [path] else told))
    if found or refused:
        sys.exit(1 if found else 2)


def _refused(error: TraceError) -> str:
    click.echo(printable(f"optgeom: {error}"), err=True)
    return str(error)


def _repair(path: str) -> tuple[Action, ...]:
    from optgeom.traces.keeping.repair import repair

    try:
        with _progress("repairing") as progress:
            return repair(path, progress=progress)
    except NotATrace:
        return ()  # a run without run.json, nor a copy of it: what is wrong is a finding


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


def _say(shown: str, report: Report, actions: tuple[Action, ...]) -> None:
    for action in actions:
        click.echo(printable(f"{shown}: {action}"))
    for finding in report.findings:
        # a message of damage names its file by itself
        told = finding.message if finding.damaged else f"{shown}/{finding.file}: {finding.message}"
        click.echo(printable(told))
    read = f"{_counted(report.files)}, {report.rows:,} rows, {size_in_words(report.bytes)}"
    click.echo(printable(f"{shown}: {read}: {_verdict(shown, report)}"))


def _verdict(shown: str, report: Report) -> str:
    aside = ""
    if report.set_aside:
        are = "is" if report.set_aside == 1 else "are"
        aside = (
            f"; {_counted(report.set_aside)} {are} set aside in damaged/ "
            "(README.txt there says what and why)"
        )
    if report.ok:
        what = "what is there" if aside else "everything"
        return f"{what} reads back as it was written{aside}"
    damaged = [one for one in report.findings if one.damaged]
    is_one = len(damaged) == 1
    said = f"{_counted(len(damaged))} {'is' if is_one else 'are'} damaged"
    mended = [one for one in damaged if one.repairable]
    if not mended:
        it = "it" if is_one else "them"
        said += f", and --repair cannot mend that: restore {it} from a backup"
    elif is_uri(shown):
        said += ". A local copy of the trace can be repaired: optgeom trace verify COPY --repair"
    else:
        it = "it" if is_one else "them" if len(mended) == len(damaged) else f"{len(mended)} of them"
        those = "it" if len(mended) == 1 else "them"
        said += f". optgeom trace verify {shown} --repair sets {it} aside, and keeps what is whole "
        said += f"of {those}"
    return said + aside


def _counted(files: int) -> str:
    return f"{files:,} file{'' if files == 1 else 's'}"
