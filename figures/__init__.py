"""The pictures: a table to a plotly figure. Each file is info(table) -> NamedTuple -> plot(info).

Public functions take a trace or traces and return a ``plotly.graph_objects.Figure``. They import
no torch and no dash. Data that a trace does not hold is drawn as an empty figure that names it and
the line of code that captures it.
"""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.figures'")

from optgeom.figures.layer_grid import layer_map
from optgeom.figures.losses import loss
from optgeom.figures.neuron_map import neuron_heatmap
from optgeom.figures.over_steps import metric_over_steps
from optgeom.figures.pairs import layer_pairs
from optgeom.figures.sorted_norms import neuron_norms
from optgeom.figures.spectra import spectrum
from optgeom.figures.spectrum_map import spectrum_heatmap
from optgeom.figures.theme import CONFIG, ThemeName

__all__ = [
    "CONFIG",
    "ThemeName",
    "layer_map",
    "layer_pairs",
    "loss",
    "metric_over_steps",
    "neuron_heatmap",
    "neuron_norms",
    "spectrum",
    "spectrum_heatmap",
]
