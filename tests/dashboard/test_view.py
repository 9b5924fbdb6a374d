from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.dashboard.data import Runs
from optgeom.dashboard.pages import balance
from optgeom.dashboard.state import chosen, control_values, resolved
from optgeom.dashboard.view import STAGES, View, nearest_stop, parse, resolve, search, stops

NAMES = st.text(min_size=1, max_size=12)
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


def test_one_run_is_run_a(runs: Runs) -> None:
    (muon,) = runs.some(["muon"])
    view = resolve(View(), [muon])
    assert (view.a, view.b) == ("muon", None)


def test_a_stage_that_no_run_holds_gives_way_to_one_that_is_there(
    broken: ModuleType, tmp_path: Path
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
    assert balance.headline(runs, view)[0].children.startswith("At step 5 one spreads the gradient")
    assert balance.norms_figure(runs, view, "light")[0].data
    assert balance.spectrum_figure(runs, view, "light")[0].data
    assert len(balance.rail_rows(runs, view)[0]) == 1


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


def _given(**rest: object) -> dict[str, object]:
    base = dict.fromkeys(("url", "a", "b", "more", "layer", "rail", "stage", "slider", "by"))
    return base | {"scheme": "light", "steps": [0, 10, 20]} | rest


BEFORE = View(a="muon", b="normuon", layer=UP)


@pytest.mark.parametrize(
    ("trigger", "given_values", "after"),
    [
        ("slider", {"slider": 1}, {"step": 10}),
        ("slider", {"slider": 99}, {"step": 20}),
        ("layer", {"layer": "x"}, {"layer": "x"}),
        ("rail", {"rail": "y"}, {"layer": "y"}),
        ("rail", {"rail": None}, {"layer": UP}),
        ("stage", {"stage": "momentum"}, {"stage": "momentum"}),
        ("swap", {}, {"a": "normuon", "b": "muon"}),
        ("run-a", {"a": "normuon"}, {"a": "normuon", "b": "muon"}),
        ("run-b", {"b": "adamw"}, {"a": "muon", "b": "adamw"}),
        ("run-b", {"b": None}, {"b": None, "alone": True}),
        ("theme", {}, {"theme": "dark"}),
        ("theme", {"scheme": "dark"}, {"theme": "light"}),
        ("more", {"more": ["adamw"]}, {"more": ("adamw",)}),
        ("loss-by", {"by": "time"}, {"loss_by": "time"}),
        ("url", {"url": "?a=adamw"}, {"a": "adamw", "b": None, "layer": None}),
        ("token", {}, {"a": "muon"}),
    ],
)
def test_each_action(
    trigger: str, given_values: dict[str, object], after: dict[str, object]
) -> None:
    view = chosen(trigger, BEFORE, _given(**given_values))
    assert {name: getattr(view, name) for name in after} == after


def test_controls_show_the_view(runs: Runs) -> None:
    view = resolved(runs, View(step=19))
    shown = control_values(runs, view, "token")
    assert shown["view"]["q"] == f"?a=muon&b=normuon&layer={UP}&step=19"
    assert shown["view"]["steps"] == [0, 10, 20, 30, 40]
    assert (shown["slider"], shown["slider_max"], shown["step_text"]) == (1, 4, "step 10")
    assert shown["layer"] == shown["rail"] == UP
    assert [option["value"] for option in shown["a_data"]] == ["adamw", "muon", "normuon"]
    assert shown["stage_data"][0]["value"] == "update"


def test_controls_without_runs(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    shown = control_values(runs, resolved(runs, View()), None)
    assert shown["step_text"] == "no step yet"
    assert shown["slider_off"]
    assert shown["swap_off"]
