"""The dashboard, and its report."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text


@click.command()
@click.argument("runs", default="runs")
@click.option("--port", default=8050, show_default=True, help="Port; 0 takes a free one.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where to listen; anything but this machine alone needs a token.",
)
@click.option("--token-file", metavar="FILE", help="Ask every browser for the token in FILE.")
@click.option(
    "--token", metavar="auto", help="'auto' makes a token and prints it with the address, once."
)
def dashboard(runs: str, port: int, host: str, token_file: str | None, token: str | None) -> None:
    """Serve the dashboard of a folder of traces, or of one trace, on this machine.

    Only this machine reaches it. To look from another one, go through ssh:

    \b
        ssh -L 8050:127.0.0.1:8050 MACHINE     then open http://127.0.0.1:8050

    With --host, others reach it, if they know its token: from --token-file, from --token auto, or
    from the variable OPTGEOM_TOKEN. Nothing is encrypted (docs/dashboard.md).
    """  # noqa: D301 (click keeps the lines after a backspace as they are)
    from optgeom.dashboard.access import chosen_token

    start(Console(), runs, port, host, chosen_token(token, token_file, os.environ))


def start(
    console: Console, runs: str, port: int, host: str = "127.0.0.1", token: str | None = None
) -> None:
    """Serve the dashboard until it is interrupted; says where."""
    from optgeom.dashboard.server import serve

    def ready(address: str) -> None:
        # As text, since an address may hold brackets; unwrapped, since it is there to be copied.
        line = Text.assemble("Dashboard: ", (address, f"link {address}"), "  (Ctrl-C ends it)")
        console.print(line, soft_wrap=True)

    serve(runs, host=host, port=port, token=token, on_ready=ready)


@click.command()
@click.argument("runs", default="runs")
@click.option("-o", "--output", default="report.html", show_default=True, help="File to write.")
def report(runs: str, output: str) -> None:
    """Write the figures of a folder of traces into one offline HTML file."""
    from optgeom.dashboard.report import write_report

    Console().print(f"Report: {write_report(runs, Path(output))}")
