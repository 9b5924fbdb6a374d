"""Figures to SVG files, by plotly.js in a headless Chromium."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from tests.dashboard.screenshots import chromium

_DRAW = """async (figure) => {
    let drawn = 1;  // ids are random: the same figure is to be the same file
    Math.random = () => (drawn = (16807 * drawn) % 2147483647) / 2147483647;
    const {data, layout} = JSON.parse(figure);
    const place = document.body.appendChild(document.createElement("div"));
    await Plotly.newPlot(place, data, layout, {staticPlot: true});
    return await Plotly.toImage(place, {format: "svg", width: layout.width, height: layout.height});
}"""
_PREFIX = "data:image/svg+xml,"


def draw(figures: Mapping[str, go.Figure], folder: Path) -> None:
    """Write ``NAME.svg`` of each figure.

    Args:
        figures: From name to a figure with its width and height.
        folder: Made where there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        page = browser.new_page()
        page.set_content("<!doctype html><title>figures</title>")
        page.add_script_tag(content=get_plotlyjs())
        for name, figure in figures.items():
            address = page.evaluate(_DRAW, figure.to_json())
            (folder / f"{name}.svg").write_text(unquote(address.removeprefix(_PREFIX)) + "\n")
