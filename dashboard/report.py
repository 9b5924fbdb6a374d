"""The report: the page's sentence, numbers and figures in one HTML file that needs no network."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optgeom.dashboard.callbacks import PICTURES
from optgeom.dashboard.capture import configuration, cost
from optgeom.dashboard.cards import cards
from optgeom.dashboard.data import Runs
from optgeom.dashboard.finding_words import of_run
from optgeom.dashboard.findings import look_at
from optgeom.dashboard.headline import said
from optgeom.dashboard.looks import shown_step
from optgeom.dashboard.report_page import Figure, Part, Report, Row, render
from optgeom.dashboard.view import View, resolve
from optgeom.figures import neuron_map, pairs
from optgeom.figures.formats import whole
from optgeom.figures.identity import titled
from optgeom.figures.names import by_kind, layer_title, run_label
from optgeom.figures.reading import find_layer, layer_in
from optgeom.figures.theme import LIGHT
from optgeom.traces.errors import OptgeomError
from optgeom.traces.files.address import masked

if TYPE_CHECKING:
    from optgeom.dashboard.picture import Picture
    from optgeom.traces.info import LayerInfo
    from optgeom.traces.store import Trace

logger = logging.getLogger(__name__)

ROWS = (
    ("norms", "spectrum"),
    ("map-a", "map-b"),
    ("balance", "condition"),
    ("spectra-map-0", "spectra-map-1"),
    ("layers-0", "layers-1"),
)
"""Figures side by side of the report's first layer; further layers have the first row."""


class ReportError(OptgeomError):
    """The report cannot be made or written as asked."""


def write_report(
    runs_path: str | Path,
    output: str | Path,
    *,
    a: str | None = None,
    b: str | None = None,
    layers: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
) -> Path:
    """Write one self-contained HTML file about a folder of runs.

    Args:
        runs_path: a folder of traces, or one trace.
        output: the file to write; replaced as a whole.
        a: the run compared with; by default Muon where it is there, else the first run.
        b: the run the report is about; by default NorMuon where it is there, else the second.
        layers: layers to show; by default one of each kind, halfway up.
        steps: captured steps to show; by default the last one.

    Returns:
        The path of the file.

    Raises:
        OptgeomError: if there is no trace, no such run or layer, or the file cannot be written.
    """
    runs = Runs(runs_path)
    everything = runs.all()
    if not everything:
        raise ReportError(
            f"{masked(runs.path)} holds no run yet: attach optgeom.watch to one, then report"
        )
    for run in (a, b):
        if run is not None and not runs.some([run]):
            names = ", ".join(trace.name for trace in everything)
            raise ReportError(f"no run {run!r} under {masked(runs.path)}: there are {names}")
    view = resolve(View(a=a, b=b), everything)
    text = render(_collect(runs, view, layers, steps))
    return _write(Path(output), text)


def _collect(
    runs: Runs, view: View, layers: Sequence[str] | None, steps: Sequence[int] | None
) -> Report:
    shown = runs.some(view.runs)
    everything = shown + [trace for trace in runs.all() if trace not in shown]
    slots = runs.slots()
    chosen = [find_layer(shown, name) for name in layers] if layers else _one_of_each(shown, view)
    parts = [
        _part(runs, everything, replace(view, layer=layer.name, step=step), layer, entire=not place)
        for place, layer in enumerate(chosen)
        for step in steps or (None,)
    ]
    step = None if not steps else steps[-1]
    layer_pairs = pairs.info(shown, step=step, stage=view.stage, slots=slots)
    return Report(
        title=" and ".join(run_label(run) for run in reversed(view.runs)),
        subtitle=_subtitle(everything),
        parts=tuple(parts),
        pairs=Figure("", pairs.plot(layer_pairs, theme=LIGHT), words=pairs.words(layer_pairs)),
        loss=_figure(PICTURES["loss"], runs, view),
        findings=tuple(of_run(trace, look_at(trace)[0]) for trace in shown),
        runs=tuple(titled(trace) for trace in everything),
        configuration=configuration(everything),
        cost=cost(everything),
    )


def _subtitle(traces: Sequence[Trace]) -> str:
    written = []
    for trace in traces:
        last = trace.last_step
        reach = "no step yet" if last is None else f"to step {whole(last)}"
        written.append(f"{titled(trace)} {reach}")
    made = traces[0].info.versions.get("optgeom", "")
    return f"{', '.join(written)}. Captured by optgeom {made}.".replace(" .", ".")


def _one_of_each(shown: Sequence[Trace], view: View) -> list[LayerInfo]:
    """Return the page's first layer, then the middle layer of every other kind in the blocks."""
    layers = {layer.name: layer for trace in shown for layer in trace.layers}
    if view.layer is None:
        return []
    first = layers[view.layer]
    inside = [layer for layer in layers.values() if layer.block is not None]
    groups = by_kind(inside or layers.values())
    others = [group[len(group) // 2] for kind, group in groups.items() if kind != first.kind]
    return [first, *others]


def _part(
    runs: Runs, everything: Sequence[Trace], view: View, layer: LayerInfo, *, entire: bool
) -> Part:
    """Return one layer at one step; the whole page of it where it is the report's first."""
    shown = runs.some(view.runs)
    step = shown_step(view, shown)
    with_layer = [trace for trace in everything if layer_in(trace, layer.name) is not None]
    rows = [_row(row, runs, view) for row in (ROWS if entire else ROWS[:1])]
    return Part(
        title=layer_title(layer),
        name=layer.name,
        sentence=said(view, shown, layer, step),
        cards=cards(with_layer, layer.name, stage=view.stage, step=step),
        rows=tuple(row for row in rows if row.figures),
    )


def _row(names: Sequence[str], runs: Runs, view: View) -> Row:
    drawn = [_figure(PICTURES[name], runs, view) for name in names]
    figures = tuple(one for one in drawn if one is not None)
    if names[0] == "map-a":
        labels = tuple((neuron_map.SCALE.place(at), text) for at, text in neuron_map.TICKS)
        return Row(figures, "diverging", labels)
    first = PICTURES[names[0]]
    seen = first.look(runs, view) if first.bar is not None else None
    if first.bar is None or seen is None:
        return Row(figures)
    return Row(figures, "sequential", tuple(first.bar(seen)))


def _figure(picture: Picture, runs: Runs, view: View) -> Figure | None:
    seen = picture.look(runs, view)
    if seen is None:
        return None
    title = picture.title
    if picture.run is not None:
        title = f"{title}: {run_label(view.runs[picture.run])}"
    return Figure(
        title,
        picture.draw(seen, view, LIGHT),
        picture.note(seen, view),
        picture.words(seen.what),
    )


def _write(output: Path, text: str) -> Path:
    """Write beside the file and rename, so that a reader never meets half a report."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=output.parent, prefix=".report-", suffix=".html")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).chmod(0o644)
            Path(name).replace(output)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ReportError(
            f"cannot write the report to {output} ({error.strerror}): choose another file"
        ) from error
    logger.info("wrote %s", output)
    return output
