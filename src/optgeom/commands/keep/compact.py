"""Many small files of a trace into few."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from optgeom.terminal import counted
from optgeom.traces.files.address import masked, name_of
from optgeom.traces.printable import printable, size_in_words

if TYPE_CHECKING:
    from optgeom.traces.keeping.compacted import Compacted


@click.command()
@click.argument("runs")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be done, and change nothing. Bytes are not compared, and so damage is not "
    "seen: a segment that is damaged is not merged, when it comes to that.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def compact(runs: str, dry_run: bool, as_json: bool) -> None:
    """Merge the small segments of a trace, and seal what killed processes left.

    RUNS is a trace or a folder of traces, or a URI of one. No value changes, and readers may stay
    open. What a live process is writing is left to it. Exit code 1: something is damaged, and was
    left where it is; or a run could not be compacted.
    """
    from optgeom.traces.errors import TraceError
    from optgeom.traces.keeping.compact import compact as compact_one
    from optgeom.traces.keeping.verify import traces_at

    done: list[dict[str, Any]] = []
    for path in traces_at(runs):
        name = masked(path)
        row: dict[str, Any] = {"run": name_of(path)}
        try:
            with counted(name) as progress:
                made = compact_one(path, progress=progress, dry_run=dry_run)
            row |= made.to_json()
            said = [*_said(name, made)]
        except TraceError as error:
            row["error"] = str(error)
            said = []
        except KeyboardInterrupt:
            click.echo(f"optgeom: {name}: stopped; what was merged stays merged", err=True)
            sys.exit(130)
        done.append(row)
        for line in () if as_json else said:
            click.echo(printable(line))
    if as_json:
        click.echo(json.dumps(done))
    else:
        for row in done:
            if "error" in row:
                click.echo(printable(f"optgeom: {row['error']}"), err=True)
    failed = any("error" in row or any(one["damaged"] for one in row["left"]) for row in done)
    sys.exit(1 if failed else 0)


def _said(name: str, made: Compacted) -> Iterator[str]:
    waiting = Counter(one.why for one in made.left if not one.damaged)
    for one in made.left:
        if one.damaged:
            yield f"{name}: left where it is: {one.why}"
    for why, count in waiting.items():
        yield f"{name}: {_counted(count, 'stream')} left as it is: {why}"
    segments, into = sum(one.segments for one in made.merged), len(made.merged)
    sealed, removed = len(made.sealed), len(made.removed)
    changes = [
        f"{segments} segments into {into}" if segments else "",
        f"{_counted(sealed, 'stream')} of ended processes sealed" if sealed else "",
        f"{removed} removed that others stand for" if removed else "",
    ]
    told = ", ".join(one for one in changes if one)
    files = _counted(made.files_before, "file")
    if not told:
        yield f"{name}: {files}, nothing to compact"
    elif made.dry_run:
        yield f"{name}: {files} would become {made.files_after}: {told}"
    else:
        size = f"{size_in_words(made.bytes_before)} to {size_in_words(made.bytes_after)}"
        took = f"in {made.seconds:.1f} s"
        yield f"{name}: {files} became {made.files_after}, {size}, {took}: {told}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
