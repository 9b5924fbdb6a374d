"""One table of a trace as a file for other programs, or a few numbers where teams look."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from optgeom.commands.ask.steps import steps_of
from optgeom.commands.keep.sending import is_sink, send_to
from optgeom.commands.runs import one_run, repair_named
from optgeom.traces.errors import TraceError

if TYPE_CHECKING:
    from optgeom.traces.trace import Trace

_SHEET_ROWS = 1 << 20
"""What a spreadsheet shows of a file, the header among them."""


@click.command()
@click.argument("path", metavar="RUN")
@click.option(
    "--to",
    required=True,
    metavar="FILE",
    help="Ends in .csv, .jsonl or .parquet; - is CSV to standard output. Or "
    "tensorboard:FOLDER, wandb:PROJECT, mlflow:URI.",
)
@click.option(
    "--table",
    metavar="TABLE",
    help="joined (unless you say), metrics, spectra, neurons or scalars.",
)
@click.option(
    "--layer", "--layers", "layers", multiple=True, metavar="NAME", help="Only this; repeat it."
)
@click.option(
    "--stage", "--stages", "stages", multiple=True, metavar="NAME", help="Only this; repeat it."
)
@click.option(
    "--steps", metavar="FROM:TO", help="Such as 100:400, which leaves 400 out, 100: or 300."
)
@click.option(
    "--metric",
    "--metrics",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Send only this; repeat it.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def export(
    path: str,
    to: str,
    table: str | None,
    layers: tuple[str, ...],
    stages: tuple[str, ...],
    steps: str | None,
    metrics: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Write one table of a trace to a CSV, JSON lines or Parquet file, or send a few numbers.

    \b
    joined   every scalar of every cell, a row per step, layer and stage
    metrics  the same without spectra and later analyses
    spectra  singular values, largest first
    neurons  row norms
    scalars  loss, learning rate, times: step, name, value

    Singular values and norms are lists. A CSV has a row for each number, with its place in the
    list from 0 (columns index and singular_value, or neuron and neuron_norm); .jsonl and .parquet
    have a row for each step, layer and stage, with the list.

    Numbers read back as the same doubles; NaN, inf and -inf stand by these names, an empty cell is
    null. In a CSV, text that begins with = + - @ ' or a tab has a ' before it, for a spreadsheet
    would run it as a formula. Of a step that was run twice, the newest attempt is written.

    To tensorboard:FOLDER, wandb:PROJECT or mlflow:URI it sends what
    watch(also=[...]) would have sent: the median, smallest and largest value of each kind of layer
    under names such as optgeom/mlp.up/neuron_norm_cv. --layer sends layers one by one besides.
    """  # noqa: D301  click's own sign for lines to be left as they are
    from optgeom.traces.keeping.export import export as write

    if is_sink(to):
        if table is not None or overwrite:
            raise click.UsageError(f"--table and --overwrite are for files; {to} is none")
        with repair_named(path):
            trace = one_run(path, "optgeom trace export")
            send_to(trace, to, steps=steps, layers=layers, stages=stages, metrics=metrics)
        return
    if metrics:
        raise click.UsageError("--metric is for tensorboard:, wandb: and mlflow:; files have all")
    table = table or "joined"
    target: str | TextIO = sys.stdout if to == "-" else to
    if not overwrite and Path(to).is_file():
        raise TraceError(f"{to} is there already: choose another name, or pass --overwrite")
    with repair_named(path):
        trace = one_run(path, "optgeom trace export")
        done = write(
            trace,
            target,
            table=table,
            steps=steps_of(steps),
            layers=layers or None,
            stages=stages or None,
            overwrite=overwrite,
        )
        if not done.rows:
            click.echo(f"No row was chosen: {_there(trace, table)}.", file=sys.stderr)
    if to == "-":
        return
    click.echo(f"{done.rows:,} rows and {len(done.columns)} columns in {to}")
    if to.endswith(".csv") and done.rows >= _SHEET_ROWS:
        click.echo(
            f"A spreadsheet shows the first {_SHEET_ROWS - 1:,} rows: choose --layer, --stage or "
            "--steps, or open the file with pandas, polars, R or DuckDB.",
            file=sys.stderr,
        )


def _there(trace: Trace, table: str) -> str:
    """Which steps a table has; of an option that leaves all out it is mostly that of steps."""
    if table == "scalars":
        steps = sorted(set(trace.scalars()["step"].to_pylist()))
    elif table == "joined":
        steps = trace.steps(stage=None, table=None).tolist()
    else:
        steps = trace.steps(stage=None, table=table).tolist()
    what = "the trace" if table == "joined" else f"its table {table}"
    return f"{what} has steps {steps[0]} to {steps[-1]}" if steps else f"{what} is empty"
