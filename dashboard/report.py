"""The report: the page's sentence, numbers and figures in one HTML file that needs no network."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optgeom.dashboard.capture import configuration, cost
from optgeom.dashboard.cards import cards
from optgeom.dashboard.data import Runs, cell
from optgeom.dashboard.notes import notes_of
from optgeom.dashboard.report_page import Figure, Part, Report, render
from optgeom.dashboard.sentence import sentence, sentence_side
from optgeom.dashboard.view import View, nearest_stop, resolve, stops
from optgeom.figures import losses, pairs, sorted_norms, spectra
from optgeom.figures.formats import whole
from optgeom.figures.names import by_kind, layer_phrase, layer_title, run_label, run_short
from optgeom.figures.reading import find_layer, layer_in
from optgeom.figures.theme import LIGHT
from optgeom.traces.errors import OptgeomError

if TYPE_CHECKING:
    from optgeom.traces.info import LayerInfo
    from optgeom.traces.store import Trace

logger = logging.getLogger(__name__)


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
        raise ReportError(f"{runs.path} holds no run yet: attach optgeom.watch to one, then report")
    for run in (a, b):
        if run is not None and not runs.some([run]):
            names = ", ".join(trace.name for trace in everything)
            raise ReportError(f"no run {run!r} under {runs.path}: there are {names}")
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
        _part(runs, shown, everything, replace(view, layer=layer.name), layer, step)
        for layer in chosen
        for step in steps or (None,)
    ]
    step = None if not steps else steps[-1]
    loss = losses.info(everything, slots=slots)
    layer_pairs = pairs.info(shown, step=step, stage=view.stage, slots=slots)
    return Report(
        title=" and ".join(run_label(run) for run in reversed(view.runs)),
        subtitle=_subtitle(everything),
        parts=tuple(parts),
        pairs=Figure("pairs", pairs.plot(layer_pairs, theme=LIGHT)),
        loss=Figure("loss", losses.plot(loss, theme=LIGHT), _said(loss)),
        runs=tuple(run_label(trace.name) for trace in everything),
        configuration=configuration(everything),
        cost=cost(everything),
    )


def _said(loss: losses.LossInfo) -> str:
    return " ".join(one.what for one in loss.missing) if loss.curves else ""


def _subtitle(traces: Sequence[Trace]) -> str:
    written = []
    for trace in traces:
        last = trace.last_step
        reach = "no step yet" if last is None else f"to step {whole(last)}"
        written.append(f"{run_label(trace.name)} {reach}")
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
    runs: Runs,
    shown: Sequence[Trace],
    everything: Sequence[Trace],
    view: View,
    layer: LayerInfo,
    asked: int | None,
) -> Part:
    step = nearest_stop(stops(shown, layer.name, view.stage), asked)
    slots = runs.slots()
    sides = []
    for trace in shown[:2]:
        one = cell(trace, layer.name, "neuron_norm_cv", stage=view.stage, step=step)
        sides.append(sentence_side(run_short(trace.name, limit=36), one, step))
    said = sentence(
        sides[0],
        sides[1] if len(sides) > 1 else None,
        layer=layer_phrase(layer),
        step=step,
        stage=view.stage,
    )
    norms = sorted_norms.info(shown, layer.name, step=step, stage=view.stage, slots=slots)
    spectrum = spectra.info(shown, layer.name, step=step, stage=view.stage, slots=slots)
    with_layer = [trace for trace in everything if layer_in(trace, layer.name) is not None]
    name = f"{layer.name}-{step}"
    return Part(
        title=layer_title(layer),
        name=layer.name,
        sentence=said.text,
        cards=cards(with_layer, layer.name, stage=view.stage, step=step),
        norms=Figure(
            f"norms-{name}",
            sorted_norms.plot(norms, theme=LIGHT),
            notes_of(norms, view.runs, stage=view.stage, step=step),
        ),
        spectrum=Figure(
            f"spectrum-{name}",
            spectra.plot(spectrum, theme=LIGHT),
            notes_of(spectrum, view.runs, stage=view.stage, step=step),
        ),
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
