"""What the command line prints: tables for a terminal, made of what the rooms return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

import optgeom
from optgeom.traces.printable import printable, size_in_words

if TYPE_CHECKING:
    from optgeom.geometry.comparison.result import Block
    from optgeom.geometry.counterfactual.result import WhatIf
    from optgeom.hooks.auditing.report import AuditReport

_ARROW = "\N{RIGHTWARDS ARROW}"

DEMO_ROWS = (
    ("update", "neuron_norm_cv"),
    ("update", "condition_number"),
    ("momentum", "condition_number"),
    ("update", "update_rms"),
)
"""What the demo's table compares, by kind of layer."""


@contextmanager
def counted(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that goes as it is told (done, total); on a terminal alone, and gone at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(escape(name), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def trace_facts(opened: optgeom.Trace) -> dict[str, str]:
    """What one trace holds, in words."""
    from optgeom.traces.files.listing import set_aside

    about, steps = opened.info, opened.steps(stage=None, table=None)
    aside = set_aside(opened.place)
    facts = {
        "run": about.run,
        "created": about.created,
        "optimizers": ", ".join(one.type for one in about.optimizers),
        "layers": str(len(opened.layers)),
        "stages": ", ".join(opened.stages),
        "captures": f"{len(steps)} (step {steps[0]} to {steps[-1]})" if len(steps) else "none",
        "size": size_in_words(opened.size_bytes),
        "state": _state(opened),
    }
    if aside:
        facts["set aside"] = f"{aside} file{'s' if aside > 1 else ''}, in damaged/ (README.txt)"
    # a trace may be anyone's
    return {name: printable(value) for name, value in facts.items()}


def trace_table(facts: Mapping[str, str]) -> Table:
    """What one trace holds, as a table of two columns."""
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name, Text(value))  # a Text, for names hold brackets
    return table


def traces_table(runs: Mapping[str, Mapping[str, str]]) -> Table:
    """What each of some traces holds, a row each.

    Args:
        runs: the facts of each, by what it is called.
    """
    names = ["layers", "captures", "size", "state"]
    names += ["set aside"] if any("set aside" in facts for facts in runs.values()) else []
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("run", *names):
        table.add_column(name, overflow="fold")
    for run, facts in runs.items():
        table.add_row(Text(printable(run)), *(Text(facts.get(name, "")) for name in names))
    return table


def _state(opened: optgeom.Trace) -> str:
    if opened.failed:
        return f"failed: {opened.failed}"
    return "closed" if opened.closed else "running, or ended without close"


def metrics_table(width: int) -> Table:
    """The catalogue; with its units and references where the terminal is wide enough."""
    from optgeom.geometry.catalogue import METRICS

    names = ("unit", "formula", "reference") if width >= 120 else ("formula",)
    table = Table(box=None)
    table.add_column("metric", no_wrap=True)
    for name in names:
        table.add_column(name)
    for metric in METRICS.values():
        table.add_row(metric.name, *(getattr(metric, name) for name in names))
    return table


def comparison_tables(found: optgeom.geometry.Comparison, width: int) -> Iterator[RenderableType]:
    """Runs side by side, one table per metric, and under them what has to be said.

    Runs stand beside each other where that fits into the width, else below each other: a median is
    never without its quartiles.
    """
    from optgeom.geometry.comparison.result import aligned

    blocks = aligned(found.blocks())
    every = [row for block in blocks for row in block.rows]
    widths = [max((len(kind) for kind, _ in every), default=0)]
    for place, run in enumerate(found.runs):
        texts = max((sum(map(len, shown[place])) + 4 for _, shown in every), default=0)
        widths.append(max(len(run), texts))
    beside = sum(widths) + 3 * len(found.runs) <= width
    yield Text(found.title)
    for block in blocks:
        yield Text.assemble("\n", (block.title, "bold"), (f"  {block.metric}", "dim"))
        yield _beside(found.runs, block, widths) if beside else _below(found.runs, block)
    yield ""
    said = Table.grid(padding=(0, 1))
    for finding in found.findings:
        said.add_row("-", Text(finding))
    yield said


def _beside(runs: Sequence[str], block: Block, widths: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name, size in zip(("", *runs), widths, strict=True):
        table.add_column(Text(name), width=size, no_wrap=True)
    for kind, shown in block.rows:
        texts = [
            Text.assemble(f"{one.median}  ", (one.quartiles, "dim"), f"  {one.ratio}")
            for one in shown
        ]
        table.add_row(Text(kind), *texts)
    return table


def _below(runs: Sequence[str], block: Block) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    for _ in ("kind", "run"):
        table.add_column(overflow="fold")  # long names take lines; numbers are never cut
    for justify in ("right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    for kind, shown in block.rows:
        for place, (run, one) in enumerate(zip(runs, shown, strict=True)):
            texts = (one.median.strip(), Text(one.quartiles, "dim"), one.ratio.strip())
            table.add_row(Text("" if place else kind), Text(run), *texts)
    return table


def whatif_tables(found: WhatIf) -> Iterator[RenderableType]:
    """Applied against computed by kind of layer, a table per rule, and the answer in words."""
    from optgeom.geometry.counterfactual.result import HEADS, shown

    for name, rule in found.rules.items():
        answers = found.has_answer(name)
        medians = f": applied {_ARROW} computed, medians" if answers else ": no medians"
        yield Text.assemble((rule.title, "bold"), f", computed from {found.trace.name}{medians}")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for place, head in enumerate(HEADS):
            table.add_column(Text(head), justify="right" if place else "left", overflow="fold")
        for row in found.rows(name, "kind"):
            table.add_row(*map(Text, shown(row)))
        if answers:
            yield table
        yield ""
        said = Table.grid(padding=(0, 1))
        for finding in found.findings(name):
            said.add_row("-", Text(finding))
        said.add_row("-", Text(f"Written to {found.traces[name].path}"))
        yield said
        yield ""


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


AUDIT_SECTIONS = (
    ("Direction", ("orthogonalizes", "polynomial", "ns_steps", "singular_value_band")),
    ("Neurons", ("normalization", "neuron_axis", "second_moment_decay")),
    ("Size", ("rescale", "rms", "shape_factor", "scale_invariant")),
    ("Memory", ("momentum", "momentum_form", "nesterov")),
    ("Weights", ("weight_decay", "decay_form", "writes_gradient", "rank_invariant")),
)
"""An audit's answers as they are read."""


def audit_tables(report: AuditReport) -> Iterator[RenderableType]:
    """What an audit found: the answers with what was measured, odd gradients, ranks, findings."""
    from optgeom.hooks.auditing.report import NOTHING, plain

    settings = ", ".join(f"{name}={plain(value)}" for name, value in report.settings.items())
    yield Text.assemble((report.optimizer, "bold"), (f"  {settings}", "dim"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, names in AUDIT_SECTIONS:
        table.add_row(Text(f"\n{title}", "bold"))
        for name in names:
            answer = report.answers[name]
            value = plain(answer.value)
            style = "dim" if value in ("unknown", "-") else "cyan"
            table.add_row(Text(name), Text(value, style), Text(answer.measured, "dim"))
    yield table
    beside = [("Odd gradients", report.gradients), ("Two ranks", report.ranks)]
    for title, cases in beside:
        if cases:
            listed = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
            listed.add_row(Text(f"\n{title}", "bold"))
            for name, words in cases.items():
                listed.add_row(Text(name), Text(words.partition(". ")[0]))
            yield listed
    yield ""
    if not report.findings:
        yield Text(NOTHING)
    found = Table.grid(padding=(0, 1))
    for finding in report.findings:
        style = {"severe": "bold red", "warning": "bold yellow"}.get(finding.severity, "bold")
        found.add_row(Text(finding.severity, style), Text(finding.text))
    yield found
