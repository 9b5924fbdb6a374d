"""What was not computed in flight."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

import optgeom
from optgeom.commands.runs import runs_at
from optgeom.terminal import counted


class Bytes(click.ParamType[int]):
    """A number of bytes, such as 512MB or 4GiB."""

    name = "bytes"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number, a power of 1024 where the unit ends in iB, else of 1000."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?)B?", str(value), re.IGNORECASE)
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

    traces, damaged = runs_at(runs)
    done: list[dict[str, Any]] = [
        {"run": name, "cells": 0, "error": message} for name, message in damaged.items()
    ]
    empty: list[NotCaptured] = []
    for name, one in traces.items():
        started, row = time.perf_counter(), {"run": name, "cells": 0}
        try:
            with counted(name) as progress:
                added = optgeom.analyze(
                    one,
                    workers=workers,
                    scheduler=scheduler,
                    device=device,
                    memory=memory,
                    progress=progress,
                )
            row["cells"] = added.num_rows
        except NotCaptured as error:
            empty.append(error)
            row["left_out"] = str(error)
        except NotAllMeasured as error:
            row["error"] = str(error)
        except KeyboardInterrupt:
            click.echo(f"optgeom: {name}: stopped; what was measured is kept", err=True)
            sys.exit(130)
        row["seconds"] = round(time.perf_counter() - started, 2)
        done.append(row)
    if empty and len(empty) == len(done):
        raise empty[0]
    if as_json:
        click.echo(json.dumps(done))
    else:
        for row in done:
            click.echo(_said(row), err="error" in row)
    sys.exit(1 if any("error" in row for row in done) else 0)


def _said(row: Mapping[str, Any]) -> str:
    if "error" in row or "left_out" in row:
        return f"optgeom: {row['run']}: {row.get('error', row.get('left_out'))}"
    if not row["cells"]:
        return f"{row['run']}: nothing was left to analyze"
    return f"{row['run']}: {row['cells']:,} cells analyzed in {row['seconds']:.1f} s"
