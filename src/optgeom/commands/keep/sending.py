"""A finished run, sent to TensorBoard, Weights & Biases or MLflow by the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from optgeom.commands.ask.steps import steps_of

if TYPE_CHECKING:
    from optgeom.hooks.sinks.series import Series
    from optgeom.hooks.sinks.sink import Sink
    from optgeom.traces.trace import Trace

_SINKS = ("tensorboard", "wandb", "mlflow")


def is_sink(to: str) -> bool:
    """Whether a destination is one of the services, and no file.

    >>> is_sink("tensorboard:runs/tb"), is_sink("mlflow.csv")
    (True, False)
    """
    return to.partition(":")[0] in _SINKS and ":" in to


def send_to(
    trace: Trace,
    to: str,
    *,
    steps: str | None,
    layers: tuple[str, ...],
    stages: tuple[str, ...],
    metrics: tuple[str, ...],
) -> None:
    """Send a trace, and say what was sent.

    Args:
        trace: opened.
        to: such as "tensorboard:runs/tb".
        steps: as --steps takes them.
        layers: sent one by one besides.
        stages: empty: the update.
        metrics: empty: the usual ones.
    """
    from optgeom.hooks.sinks.sending import send
    from optgeom.hooks.sinks.series import METRICS, Series
    from optgeom.traces.files.address import masked

    series = Series(metrics=metrics or METRICS, stages=stages or ("update",), layers=layers)
    sent = send(trace, _sink(to, series), steps=steps_of(steps))
    if not sent.points:
        click.echo("No number was chosen, nothing was sent.", err=True)
        return
    kind, _, where = to.partition(":")
    names = f"{len(sent.names)} names, such as {sent.names[0]}"
    click.echo(f"{sent.points:,} numbers sent to {kind}:{masked(where)} under {names}")


def _sink(to: str, series: Series) -> Sink:
    from optgeom.hooks.sinks.mlflow import MLflow
    from optgeom.hooks.sinks.tensorboard import TensorBoard
    from optgeom.hooks.sinks.wandb import WandB

    kind, _, where = to.partition(":")
    if kind == "wandb":
        return WandB(series=series, **({"project": where} if where else {}))
    if kind == "mlflow":
        return MLflow(tracking_uri=where or None, series=series)
    if not where:
        raise click.UsageError("tensorboard: needs a folder, such as tensorboard:runs/tb")
    return TensorBoard(where, series=series)
