"""The picture of one metric of the chosen layer over steps, which two pages show."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from optgeom.dashboard.data import Runs
from optgeom.dashboard.looks import Seen, step_of
from optgeom.dashboard.picture import LAYER, Explained, Picture
from optgeom.dashboard.view import View
from optgeom.figures import over_steps
from optgeom.geometry.catalogue import METRICS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from optgeom.figures.theme import Theme

HOW = (
    "The chosen layer bold; behind it the quartiles over all layers of its kind. The thin line is "
    "the chosen step: click to move it. Drag to zoom the steps, double-click for all."
)


def history(name: str, metric: str) -> Picture:
    """Return the picture of one metric of the chosen layer over steps.

    Args:
        name: the graph's id.
        metric: a column of the catalogue.
    """
    entry = METRICS[metric]
    return Picture(
        name=name,
        title=f"{entry.title[:1].upper()}{entry.title[1:]} over steps",
        explain=Explained(
            text=f"{entry.help} {HOW}", formula=entry.formula, reference=entry.reference
        ),
        look=partial(_look, metric),
        needs=(*LAYER, "span"),
        draw=_draw,
        table=over_steps.table,
        words=over_steps.words,
    )


def _look(metric: str, runs: Runs, view: View) -> Seen | None:
    traces = runs.some(view.runs)
    if not traces or view.layer is None:
        return None
    what = over_steps.info(
        traces, view.layer, metric, stage=view.stage, slots=runs.slots(), span=view.span
    )
    return Seen(what, step_of(runs, view))


def _draw(seen: Seen, view: View, theme: Theme) -> go.Figure:
    return over_steps.plot(seen.what, theme=theme, cursor=seen.step)
