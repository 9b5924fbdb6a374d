"""The left rail: a dumbbell per layer, and the layer picker at the same time.

The page's script draws it from these plain values: two hundred rows of components would take longer
to send and to render than everything else on the page. What a step changes is apart from what only
other runs or layers change.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from optgeom.dashboard.parts import side_of
from optgeom.figures.formats import number, short
from optgeom.figures.names import run_label, run_short, shorten
from optgeom.figures.pairs import LayerPairsInfo
from optgeom.traces.info import LayerInfo

FOLD_ABOVE = 40
NARROW, WIDE = 10, 32


def rows(
    what: LayerPairsInfo, layers: Sequence[LayerInfo], computed: Container[str] = ()
) -> dict[str, Any]:
    """Return the rail's groups, rows and runs: what stays while steps go by.

    Args:
        what: the values that the figure ``layer_pairs`` draws too.
        layers: every layer of the shown runs.
        computed: the runs among them that were never trained.
    """
    known = {layer.name: layer for layer in layers}
    groups = [group for group in what.groups if group.rows]
    return {
        "runs": [
            {"slot": slot, "side": side_of(place, len(what.runs)), "label": run_label(run)}
            | {"short": run_short(run, limit=28), "name": run, "computed": run in computed}
            for place, (run, slot) in enumerate(zip(what.runs, what.slots, strict=True))
        ],
        "folded": sum(len(group.rows) for group in groups) > FOLD_ABOVE,
        "groups": [
            {
                "kind": shorten(group.kind, 18),
                "rows": [
                    {
                        "layer": row.layer,
                        "title": row.title,
                        "name": _name(known[row.layer]),
                        "tall": known[row.layer].block is None,
                    }
                    for row in group.rows
                ],
            }
            for group in groups
        ],
    }


def values(what: LayerPairsInfo) -> dict[str, Any]:
    """Return where the dots stand, in % of the scale, and what is written: what a step changes."""
    groups = [group for group in what.groups if group.rows]
    return {
        "scale": [number(value) for value in (0.0, what.maximum / 2, what.maximum)],
        "medians": [[short(value) for value in group.medians[:2]] for group in groups],
        "at": [
            [None if v is None else round(100 * v / what.maximum, 2) for v in row.values]
            for group in groups
            for row in group.rows
        ],
        "said": [[number(v) for v in row.values] for group in groups for row in group.rows],
    }


def _name(layer: LayerInfo) -> str:
    """Return a row's name under its group's heading: its block, or its own name on a line."""
    if layer.block is None:
        return shorten(layer.name, WIDE)
    piece = f" [{layer.piece}]" if layer.piece else ""
    return shorten(f"block {layer.block}{piece}", NARROW)
