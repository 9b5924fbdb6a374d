"""The command line: make, look, ask, keep.

Commands import what they need when they run, so that ``optgeom --help`` costs nothing. Exit codes:
0 fine, 1 something was found, 2 wrong use.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

import optgeom
from optgeom.traces.errors import OptgeomError

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "make": ("demo", "train"),
    "look": ("dashboard", "report"),
    "ask": ("analyze",),
    "keep": ("trace",),
}
DEMO_ROWS = (
    ("update", "neuron_norm_cv"),
    ("update", "condition_number"),
    ("momentum", "condition_number"),
    ("update", "update_rms"),
)
"""What the demo's table compares, by kind of layer."""


class Sections(click.Group):
    """A group whose help lists its commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per purpose."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                commands = [(name, self.commands[name].get_short_help_str(100)) for name in names]
                formatter.write_dl(commands)


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(optgeom.__version__, prog_name="optgeom")
@click.option("-v", "--verbose", is_flag=True, help="Show debug messages.")
def cli(verbose: bool) -> None:
    """See the geometry of what an optimizer does to a network."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("optgeom").setLevel(level)
    logging.getLogger("optgeom.optim").setLevel(logging.DEBUG if verbose else logging.WARNING)


# -- make --------------------------------------------------------------------------------------


@cli.command()
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
        _serve(console, out, port, token=token)
    else:
        console.print(f"Look at it: {_program()} dashboard {out}")


def _program() -> str:
    """How this program can be called again from the same shell."""
    return "optgeom" if shutil.which("optgeom") else sys.argv[0]


@cli.command()
@click.argument("config", required=False)
@click.option("--out", required=True, help="Folder of the trace.")
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

    settings = load_config(config or "demo", overrides=dict(_setting(text) for text in overrides))
    if nproc is not None:
        again = ["--checkpoints", checkpoints] if checkpoints is not None else []
        again += ["--resume"] if resume else []
        again += [word for text in overrides for word in ("--set", text)]
        given = [config] if config is not None else []
        sys.exit(launch(nproc, ["train", *given, "--out", out, *again]))
    console, first = Console(), os.environ.get("RANK", "0") == "0"
    try:
        with ProgressBar(console) as bar:
            result = run(
                settings, out=out, listener=bar, checkpoints=checkpoints, resume=resume
            )
    except KeyboardInterrupt:
        if first:
            saved = f"checkpoint in {checkpoints}, go on with --resume; " if checkpoints else ""
            console.print(f"stopped after a whole step; {saved}trace in {out}")
        sys.exit(130)
    if first:
        console.print(
            f"{result.run}: {result.parameters / 1e6:.2f} M weights, {result.tokens:,} tokens, "
            f"held-out loss {result.eval_loss:.3f}, {result.seconds:.0f} s; trace in {out}"
        )


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set takes KEY=VALUE, such as model.width=128, got {text!r}")
    return name, value


# -- look --------------------------------------------------------------------------------------


@cli.command()
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
    """
    from optgeom.dashboard.access import chosen_token

    _serve(Console(), runs, port, host, chosen_token(token, token_file, os.environ))


def _serve(
    console: Console, runs: str, port: int, host: str = "127.0.0.1", token: str | None = None
) -> None:
    from optgeom.dashboard.server import serve

    def ready(address: str) -> None:
        # As text, since an address may hold brackets; unwrapped, since it is there to be copied.
        line = Text.assemble("Dashboard: ", (address, f"link {address}"), "  (Ctrl-C ends it)")
        console.print(line, soft_wrap=True)

    serve(runs, host=host, port=port, token=token, on_ready=ready)


@cli.command()
@click.argument("runs", default="runs")
@click.option("-o", "--output", default="report.html", show_default=True, help="File to write.")
def report(runs: str, output: str) -> None:
    """Write the figures of a folder of traces into one offline HTML file."""
    from optgeom.dashboard.report import write_report

    Console().print(f"Report: {write_report(runs, Path(output))}")


# -- ask ---------------------------------------------------------------------------------------


@cli.command()
@click.argument("trace")
def analyze(trace: str) -> None:
    """Compute from raw matrices whatever was not computed in flight."""
    table = optgeom.analyze(optgeom.open_trace(trace))
    Console().print(f"{table.num_rows} cells analyzed")


# -- keep --------------------------------------------------------------------------------------


@cli.group()
def trace() -> None:
    """Describe and verify traces."""


@trace.command()
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
    table = Table(box=None)
    table.add_column("metric", no_wrap=True)
    for name in ("unit", "formula", "reference") if console.width >= 120 else ("formula",):
        table.add_column(name)
    for metric in METRICS.values():
        cells = (metric.unit, metric.formula, metric.reference)
        table.add_row(metric.name, *(cells if console.width >= 120 else (metric.formula,)))
    console.print(table)


def _plain(value: object) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


@trace.command()
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


# -- tables ------------------------------------------------------------------------------------


def trace_table(opened: optgeom.Trace) -> Table:
    """What one trace holds, as a table of two columns."""
    about, steps = opened.info, opened.steps()
    table = Table(box=None, show_header=False)
    for name, value in (
        ("run", about.run),
        ("created", about.created),
        ("optimizers", ", ".join(one.type for one in about.optimizers)),
        ("layers", str(len(opened.layers))),
        ("stages", ", ".join(opened.stages)),
        ("captures", f"{len(steps)} (step {steps[0]} to {steps[-1]})" if len(steps) else "none"),
        ("size", f"{opened.size_bytes / 1e6:.1f} MB"),
        ("state", _state(opened)),
    ):
        table.add_row(name, value)
    return table


def _state(opened: optgeom.Trace) -> str:
    if opened.failed:
        return f"failed: {opened.failed}"
    return "closed" if opened.closed else "running, or ended without close"


def demo_tables(traces: optgeom.Traces, steps: int) -> list[Table]:
    """What differs between the demo's runs: by kind of layer, and in the loss.

    Args:
        traces: the runs, in the order in which they are shown.
        steps: of each run; the medians are over the captures of the second half.
    """
    from optgeom.figures.formats import number
    from optgeom.geometry.catalogue import METRICS
    from optgeom.geometry.compare import by_kind

    runs = list(traces)
    main = Table(
        "",
        "kind of layer",
        title=f"The updates: medians over layers and captures from step {steps // 2} on",
        caption="hidden matrices; the head is trained by AdamW in every run",
    )
    for run in runs:
        main.add_column(run, justify="right")
    for stage, metric in DEMO_ROWS:
        table = by_kind(traces, metrics=(metric,), stage=stage, steps=range(steps // 2, steps))
        medians = {(row["kind"], row["run"]): row["median"] for row in table.to_pylist()}
        title = METRICS[metric].title + ("" if stage == "update" else f" of the {stage}")
        for kind in dict.fromkeys(kind for kind, _ in medians if kind != "head"):
            cells = [medians.get((kind, run)) for run in runs]
            main.add_row(title, kind, *("-" if cell is None else number(cell) for cell in cells))
            title = ""
        main.add_section()
    losses = Table("run", "training loss", "held-out loss", "capture, share of the run", box=None)
    for run in runs:
        losses.add_row(run, *_ending(traces[run]))
    return [main, losses]


def _ending(opened: optgeom.Trace) -> tuple[str, str, str]:
    def ending(name: str, form: str) -> str:
        found = opened.scalars(name)["value"].to_pylist()
        return format(found[-1], form) if found else "-"

    return ending("loss", ".3f"), ending("eval_loss", ".3f"), ending("capture_share", ".1%")


def main() -> None:
    """Run the command line; an error of ours is one line and exit code 2."""
    try:
        cli(standalone_mode=True)
    except OptgeomError as error:
        if os.environ.get("RANK", "0") == "0":  # under torchrun all ranks refuse the same thing
            click.echo(f"optgeom: {error}", err=True)
        sys.exit(2)
