"""Traces from text: the demo, and training in earnest."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click
from rich.console import Console

import optgeom
from optgeom.commands.look import start
from optgeom.terminal import demo_tables
from optgeom.traces.files.address import masked


@click.command()
@click.option("--out", default="runs/demo", show_default=True, help="Folder of the three traces.")
@click.option("--steps", default=400, show_default=True, help="Steps of each run.")
@click.option("--overwrite", is_flag=True, help="Replace the traces of an earlier demo.")
@click.option("--serve/--no-serve", default=True, help="Open the dashboard at the end.")
@click.option("--port", default=8050, show_default=True, help="Port of the dashboard.")
def demo(out: str, steps: int, overwrite: bool, serve: bool, port: int) -> None:
    """Train a small GPT with AdamW, Muon and NorMuon, and compare their updates."""
    from optgeom.dashboard.access import chosen_token
    from optgeom.dashboard.report import write_report
    from optgeom.trainer.demo import demo as train_demo
    from optgeom.trainer.progress import ProgressBar

    console = Console()
    token = chosen_token(None, None, os.environ) if serve else None
    with ProgressBar(console) as bar:
        train_demo(out, overwrite=overwrite, overrides={"schedule.steps": steps}, listener=bar)
    traces = optgeom.open_traces(out)
    for table in demo_tables(traces, steps):
        console.print(table)
    console.print(
        "The demo captures every 10th step whole, several stages of it, without a budget; "
        "by default, capture keeps below 1 % of the run.",
        style="dim",
    )
    console.print(f"Report: {write_report(out, Path(out) / 'report.html')}")
    if serve:
        start(console, out, port, token=token)
    else:
        console.print(f"Look at it: {_program()} dashboard {out}")


def _program() -> str:
    """How this program can be called again from the same shell."""
    return "optgeom" if shutil.which("optgeom") else sys.argv[0]


@click.command()
@click.argument("config", required=False)
@click.option("--out", required=True, help="Folder of the trace, or s3://...")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting, such as model.width=128; may be given several times.",
)
@click.option("--checkpoints", metavar="FOLDER", help="Keep checkpoints there.")
@click.option("--resume", is_flag=True, help="Go on from the latest of them, if there is one.")
@click.option("--nproc", type=click.IntRange(1), help="Start so many ranks on this machine.")
def train(
    config: str | None,
    out: str,
    overrides: tuple[str, ...],
    checkpoints: str | None,
    resume: bool,
    nproc: int | None,
) -> None:
    """Train a GPT and write its trace; with --nproc or under torchrun, on several ranks.

    CONFIG is a TOML file or the name of a preset; without it, the demo's settings are used.
    """
    from optgeom.trainer.launch import launch
    from optgeom.trainer.progress import ProgressBar
    from optgeom.trainer.settings import load_config
    from optgeom.trainer.train import train as run

    settings = load_config(config or "demo", overrides=dict(setting(text) for text in overrides))
    if nproc is not None:
        again = ["--checkpoints", checkpoints] if checkpoints is not None else []
        again += ["--resume"] if resume else []
        again += [word for text in overrides for word in ("--set", text)]
        given = [config] if config is not None else []
        sys.exit(launch(nproc, ["train", *given, "--out", out, *again]))
    console, first = Console(), os.environ.get("RANK", "0") == "0"
    try:
        with ProgressBar(console) as bar:
            result = run(settings, out=out, listener=bar, checkpoints=checkpoints, resume=resume)
    except KeyboardInterrupt:
        if first:
            saved = f"checkpoint in {checkpoints}, go on with --resume; " if checkpoints else ""
            console.print(f"stopped after a whole step; {saved}trace in {masked(out)}")
        sys.exit(130)
    if first:
        console.print(
            f"{result.run}: {result.parameters / 1e6:.2f} M weights, {result.tokens:,} tokens, "
            f"held-out loss {result.eval_loss:.3f}, {result.seconds:.0f} s; trace in {masked(out)}"
        )


def setting(text: str) -> tuple[str, str]:
    """Take ``--set KEY=VALUE`` apart."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set takes KEY=VALUE, such as model.width=128, got {text!r}")
    return name, value
