"""What travels: only what the browser does not have, and enough to have the same figure."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import plotly
import plotly.graph_objects as go
import pytest
from dash import Patch
from hypothesis import given
from hypothesis import strategies as st

from optgeom.dashboard.callbacks import PICTURES
from optgeom.dashboard.data import Runs
from optgeom.dashboard.picture import answer
from optgeom.dashboard.sending import fresh
from optgeom.dashboard.state import resolved
from optgeom.dashboard.view import View
from optgeom.figures.theme import LIGHT

UP = "blocks.1.mlp.up.weight"
SEES = {"token": "t", "scheme": "light"}
BASE = View(a="muon", b="normuon", more=("adamw",), layer=UP, step=20)
OTHER: dict[str, View] = {
    "a": replace(BASE, a="adamw", more=()),
    "layer": replace(BASE, layer="blocks.0.attention.q.weight"),
    "stage": replace(BASE, stage="momentum"),
    "step": replace(BASE, step=30),
    "loss_by": replace(BASE, loss_by="tokens"),
    "metric": replace(BASE, metric="stable_rank"),
    "neuron": replace(BASE, neuron=3),
    "span": replace(BASE, span=(5, 25)),
    "table": replace(BASE, table=True),
    "theme": replace(BASE, theme="dark"),
}
NUMBERS = st.lists(st.floats(0, 1), min_size=1, max_size=4)
FIGURES = st.builds(
    lambda lines, title, shapes: go.Figure(
        data=[go.Scatter(x=list(range(len(y))), y=y) for y in lines],
        layout={"title": {"text": title}, "shapes": shapes},
    ),
    st.lists(NUMBERS, max_size=3),
    st.text(max_size=3),
    st.lists(st.just({"type": "line", "x0": 1, "x1": 2, "y0": 0, "y1": 1}), max_size=2),
)


def _plain(figure: Any) -> Any:
    return json.loads(json.dumps(figure, cls=plotly.utils.PlotlyJSONEncoder))


def _after(had: Any, sent: Any) -> Any:
    """What a browser has after an answer."""
    if not isinstance(sent, Patch):
        return _plain(sent)
    figure = copy.deepcopy(had)
    for one in _plain(sent.to_plotly_json())["operations"]:
        assert one["operation"] == "Assign"
        *path, last = one["location"]
        place = figure
        for key in path:
            place = place[key]
        place[last] = one["params"]["value"]
    return figure


@given(st.lists(FIGURES, min_size=2, max_size=4))
def test_a_browser_has_the_same_figure_after_each_answer(figures: list[go.Figure]) -> None:
    had, marks = None, None
    for figure in figures:
        new, marks = fresh({}, marks, figure)
        had = _after(had, new["figure"]) if "figure" in new else had
        assert had == _plain(figure.to_plotly_json())


def test_a_part_travels_once() -> None:
    new, marks = fresh({"note": "a", "title": "b"}, None)
    assert new == {"note": "a", "title": "b"}
    new, marks = fresh({"note": "c", "title": "b"}, marks)
    assert new == {"note": "c"}
    assert fresh({"note": "c", "title": "b"}, marks)[0] == {}


def test_a_moved_point_sends_one_key() -> None:
    line = go.Figure(go.Scatter(x=[0, 1], y=[0, 1]))
    _, marks = fresh({}, None, line)
    sent = fresh({}, marks, go.Figure(go.Scatter(x=[0, 1], y=[0, 2])))[0]["figure"]
    (one,) = _plain(sent.to_plotly_json())["operations"]
    assert one["location"] == ["data", 0, "y"]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_needs_what_it_says_and_no_more(runs: Runs, name: str) -> None:
    """A field that is not needed changes nothing: such a change is not even looked at."""
    picture = PICTURES[name]

    def drawn(view: View) -> Any:
        seen = picture.look(runs, resolved(runs, view))
        # The cursor is the page's own.
        return None if seen is None else _plain(picture.draw(seen._replace(step=None), view, LIGHT))

    base = drawn(BASE)
    moving = "step" in picture.needs
    for field, view in OTHER.items():
        if field not in picture.needs:
            same = drawn(view)
            assert same == base or (moving and field == "step"), field
    changed = [drawn(OTHER[field]) != base for field in picture.needs if field in OTHER]
    assert base is None or any(changed)


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_view_is_answered_with_nothing(runs: Runs, name: str) -> None:
    view = resolved(runs, BASE)
    first, marks = answer(PICTURES[name], runs, view, SEES, None)
    assert first
    assert answer(PICTURES[name], runs, view, SEES, marks) == ({}, marks)
    later, _ = answer(PICTURES[name], runs, view, SEES | {"token": "new"}, marks)
    assert later == {}
