from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dash import no_update
from hypothesis import given
from hypothesis import strategies as st

from optgeom.dashboard.callbacks import only_new
from optgeom.dashboard.data import Runs
from optgeom.dashboard.headline import headline
from optgeom.dashboard.pages import balance
from optgeom.dashboard.state import control_values, resolved, touched, untold
from optgeom.dashboard.view import STAGES, View, nearest_stop, parse, resolve, search, stops
from optgeom.geometry.catalogue import METRICS

NAMES = st.text(min_size=1, max_size=12)
Drawn = Callable[..., tuple[Any, str]]
UP = "blocks.1.mlp.up.weight"
VIEWS = st.builds(
    View,
    a=st.none() | NAMES,
    b=st.none() | NAMES,
    more=st.lists(NAMES, max_size=3).map(tuple),
    layer=st.none() | NAMES,
    stage=st.sampled_from(STAGES),
    step=st.none() | st.integers(0, 10**12),
    theme=st.sampled_from([None, "light", "dark"]),
    loss_by=st.sampled_from(["step", "tokens", "time"]),
    metric=st.sampled_from(list(METRICS)),
    neuron=st.none() | st.integers(0, 10**6),
    span=st.none() | st.tuples(st.integers(0, 999), st.integers(1000, 10**12)),
    table=st.booleans(),
)


@given(VIEWS)
def test_a_link_opens_the_same_view(view: View) -> None:
    assert parse(search(view)) == view


def test_one_run_alone_stands_in_the_address() -> None:
    view = View(a="muon", alone=True)
    assert parse(search(view)) == view


@given(st.text(max_size=80))
def test_no_address_is_an_error(text: str) -> None:
    assert isinstance(parse("?" + text), View)


@pytest.mark.parametrize("text", ["?step=-3", "?step=1e3", "?step=²", "?step=" + "9" * 40])
def test_a_step_that_is_none_is_not_chosen(text: str) -> None:
    assert parse(text).step is None


def test_muon_against_normuon_halfway_up_by_default(runs: Runs) -> None:
    view = resolve(View(), runs.all())
    assert (view.a, view.b, view.layer) == ("muon", "normuon", UP)


def test_what_the_runs_do_not_have_is_dropped(runs: Runs) -> None:
    asked = View(a="../../etc", b="normuon", more=("nothing", "adamw"), layer="no.such.layer")
    view = resolve(asked, runs.all())
    assert (view.a, view.b, view.more, view.layer) == ("adamw", "normuon", (), UP)


def test_no_run_at_all() -> None:
    assert resolve(View(a="x"), ()) == View()


@given(VIEWS)
def test_a_resolved_view_stays_as_it_is(runs: Runs, view: View) -> None:
    names = [None, "muon", "normuon", "adamw", "x"]
    for a in names:
        for b in names:
            once = resolved(runs, replace(view, a=a, b=b, layer=UP, more=("muon", "adamw")))
            assert resolved(runs, parse(search(once))) == once


def test_one_run_alone_has_none_beside_it(runs: Runs) -> None:
    view = resolved(runs, View(a="muon", alone=True, more=("normuon",)))
    assert view.runs == ("muon",)
    assert control_values(runs, view, None)["more_off"]
    assert touched(view, {"b": "muon"}, []) == view


def test_one_run_is_run_a(runs: Runs) -> None:
    (muon,) = runs.some(["muon"])
    view = resolve(View(), [muon])
    assert (view.a, view.b) == ("muon", None)


def test_a_stage_that_no_run_holds_gives_way_to_one_that_is_there(
    drawn: Drawn, broken: ModuleType, tmp_path: Path
) -> None:
    broken.train(tmp_path / "one", stages=("gradient",))
    broken.train(tmp_path / "two", stages=("gradient", "update"))
    one, two = Runs(tmp_path).all()
    assert resolve(View(), [one]).stage == "gradient"
    assert resolve(View(stage="momentum"), [one, two]).stage == "gradient"
    assert resolve(View(), [one, two]).stage == "update"
    runs = Runs(tmp_path / "one")
    view = resolved(runs, View())
    shown = control_values(runs, view, None)
    assert shown["stage_data"] == [{"value": "gradient", "label": "gradient"}]
    assert (shown["stage"], shown["step_text"]) == ("gradient", "step 5")
    assert headline(runs, view)[0].children.startswith("At step 5 one spreads the gradient")
    assert drawn("norms", runs, view, "light")[0].data
    assert drawn("spectrum", runs, view, "light")[0].data
    assert len(balance.rail_data(runs, view)[0]["groups"]) == 1


def test_stops_are_shared_steps(fake: ModuleType, tmp_path: Path) -> None:
    fake.write_run(tmp_path / "a", "muon", steps=(0, 10, 20), blocks=1)
    fake.write_run(tmp_path / "b", "normuon", steps=(0, 20, 25), blocks=1)
    fake.write_run(tmp_path / "c", "adamw", steps=(5, 15), blocks=1)
    a, b, c = Runs(tmp_path).all()
    layer = "blocks.0.mlp.up.weight"
    assert stops([a, b], layer, "update") == (0, 20)
    assert stops([a, c], layer, "update") == (0, 5, 10, 15, 20)
    assert stops([a], None, "update") == ()
    assert nearest_stop((), 3) is None


BEFORE = View(a="muon", b="normuon", layer=UP, neuron=3)
SAME: dict[str, object] = {"a": "muon", "b": "normuon", "layer": UP, "neuron": 3, "step": None}


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ({"step": 13.2}, {"step": 10}),
        ({"step": 900}, {"step": None}),
        ({"step": 16}, {"step": None}),
        ({"step": 4}, {"step": 0}),
        ({"step": "soon"}, SAME),
        ({"step": True}, SAME),
        ({"layer": "y"}, {"layer": "y", "neuron": None}),
        ({"layer": UP}, {"layer": UP, "neuron": 3}),
        ({"layer": None}, SAME),
        ({"stage": "momentum"}, {"stage": "momentum"}),
        ({"stage": "beauty"}, {"stage": "update"}),
        ({"swap": True}, {"a": "normuon", "b": "muon"}),
        ({"a": "normuon"}, {"a": "normuon", "b": "muon"}),
        ({"a": 7}, SAME),
        ({"b": "adamw"}, {"a": "muon", "b": "adamw"}),
        ({"b": "muon"}, {"a": "normuon", "b": "muon"}),
        ({"b": None}, {"b": None, "alone": True}),
        ({"more": ["adamw", 3]}, {"more": ("adamw",)}),
        ({"more": None}, {"more": ()}),
        ({"theme": "dark"}, {"theme": "dark"}),
        ({"theme": "pink"}, {"theme": None}),
        ({"span": [3.4, 17.6]}, {"span": (4, 17)}),
        ({"span": [9, 2]}, {"span": (2, 9)}),
        ({"span": [3.1, 3.2]}, {"span": (3, 4)}),
        ({"span": [-5, 2]}, {"span": (0, 2)}),
        ({"span": ["a", None]}, {"span": None}),
        ({"span": None}, {"span": None}),
        ({"neuron": 12}, {"neuron": 12}),
        ({"neuron": 3}, {"neuron": None}),
        ({"neuron": float("nan")}, {"neuron": None}),
        ({"table": True}, {"table": True}),
        ({"metric": "stable_rank"}, {"metric": "stable_rank"}),
        ({"metric": "beauty"}, {"metric": "neuron_norm_cv"}),
        ({"metric": ["stable_rank"]}, {"metric": "neuron_norm_cv"}),
        ({"by": "time"}, {"loss_by": "time"}),
        ({"nothing": 1}, SAME),
        ({}, SAME),
    ],
    ids=str,
)
def test_each_touch(what: dict[str, object], after: dict[str, object]) -> None:
    view = touched(BEFORE, what | {"number": 5}, [0, 10, 20])
    assert {name: getattr(view, name) for name in after} == after


def test_swapping_one_run_alone_and_moving_where_there_are_no_steps() -> None:
    alone = View(a="muon", alone=True)
    assert touched(alone, {"swap": True}, []) == alone
    assert touched(alone, {"step": 3}, []) == alone


def test_only_touches_without_an_answer_count() -> None:
    touches = [{"step": 1, "number": 3}, {"step": 2, "number": 4}, {"step": 3, "number": 5}]
    assert untold(touches, 3) == touches[1:]
    assert untold([{"step": 1}, "x", {"number": "y"}], 0) == []
    assert untold(None, 0) == untold({"number": 1}, 0) == []


def test_controls_show_the_view(runs: Runs) -> None:
    view = resolved(runs, View(step=19))
    shown = control_values(runs, view, "token")
    assert shown["view"]["q"] == f"?a=muon&b=normuon&layer={UP}&step=19"
    assert shown["steps"] == [0, 10, 20, 30, 40]
    assert (shown["slider"], shown["slider_max"], shown["step_text"]) == (1, 4, "step 10")
    assert shown["layer"] == shown["view"]["layer"] == UP
    assert shown["span_text"] == ""
    assert [option["value"] for option in shown["a_data"]] == ["adamw", "muon", "normuon"]
    assert shown["stage_data"][0]["value"] == "update"


def test_a_list_that_the_browser_has_is_not_sent_again(runs: Runs) -> None:
    view = resolved(runs, View())
    first = only_new(control_values(runs, view, "token"), None, {})
    assert no_update not in first.values()
    moved = control_values(runs, replace(view, step=10), "token")
    again = only_new(moved, first["view"], first | {"slider": 1})
    assert {name for name, value in again.items() if value is not no_update} == {
        "view",
        "step_text",
    }
    assert again["step_text"] == "step 10"
    # What the browser shows and the view does not: it is set back.
    refused = only_new(control_values(runs, view, "token"), again["view"], first | {"layer": "x"})
    assert refused["layer"] == view.layer
    other = control_values(runs, replace(view, b="adamw"), "token")
    new = only_new(other, again["view"], first)
    assert no_update not in (new["more_data"], new["b_mark"])
    assert new["a_data"] is no_update


def test_a_zoom_is_said_and_stands_in_the_address(runs: Runs) -> None:
    view = resolved(runs, View(span=(10, 1300)))
    shown = control_values(runs, view, "token")
    assert shown["span_text"] == "steps 10 to 1,300 \N{MULTIPLICATION SIGN}"
    assert shown["view"]["q"].endswith("span=10-1300")


def test_controls_without_runs(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    shown = control_values(runs, resolved(runs, View()), None)
    assert shown["step_text"] == "no step yet"
    assert shown["slider_off"]
    assert shown["swap_off"]
