"""What the pages' callbacks return, without a browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plotly
import pytest

from optgeom.dashboard.app import create_app
from optgeom.dashboard.callbacks import PICTURES
from optgeom.dashboard.capture import configuration, cost
from optgeom.dashboard.cards import cards
from optgeom.dashboard.data import Runs, cell, loss_at
from optgeom.dashboard.headline import headline
from optgeom.dashboard.live import Live
from optgeom.dashboard.pages import balance
from optgeom.dashboard.pages import runs as runs_page
from optgeom.dashboard.state import resolved
from optgeom.dashboard.view import View
from optgeom.figures.formats import number
from optgeom.traces.errors import NotATrace

Drawn = Callable[..., tuple[Any, str]]
UP = "blocks.1.mlp.up.weight"
VIEW = View(a="muon", b="normuon", layer=UP)


def _strings(tree: Any) -> Iterator[str]:
    content = json.loads(json.dumps(tree, cls=plotly.utils.PlotlyJSONEncoder))
    stack = [content]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            stack += one.values()
        elif isinstance(one, list):
            stack += one


def _text(tree: Any) -> str:
    return " ".join(_strings(tree))


def test_the_headline_says_the_sentence_and_four_numbers(runs: Runs) -> None:
    tree = headline(runs, VIEW)
    assert tree[0].children.startswith("At step 40 NorMuon spreads mlp.up of block 1 over its")
    text = _text(tree)
    for title in ("CV of neuron norms", "largest / smallest neuron", "condition number", "loss"):
        assert title in text


def test_cards_against_the_trace(runs: Runs) -> None:
    muon, normuon = runs.some(["muon", "normuon"])
    found = cards([muon, normuon], UP, stage="update", step=20)
    norms = normuon.neuron_norms(20, UP).astype(np.float64)
    assert float(found[0].main) == pytest.approx(norms.std() / norms.mean(), rel=0.05)
    assert found[0].main_run == "NorMuon"
    assert found[0].others[0][0] == "Muon"
    assert found[0].versus.endswith("as large")
    values = muon.spectrum(20, UP)
    assert float(found[2].others[0][1]) == pytest.approx(values[0] / values[-1], rel=0.05)


def test_a_bound_is_written_as_one(fake: ModuleType, tmp_path: Path) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", blocks=1, steps=(0,), close=False)
    key = fake.Cell(5, "optimizer", "blocks.0.mlp.up.weight", "mlp.up", 0, "update")
    writer.metrics(key, {"neuron_norm_cv": 0.4, "status": "ok"})
    writer.spectrum(key, None, {"condition_number": 1.2e6, "spectrum_status": "at_floor"})
    writer.close()
    (trace,) = Runs(tmp_path).all()
    value = cell(trace, key.layer, "condition_number", stage="update", step=5)
    assert value.is_bound
    (_, _, condition, _) = cards([trace], key.layer, stage="update", step=5)
    assert condition.main == "\N{GREATER-THAN OR EQUAL TO} 1.2e6"
    # A captured row without this number has none: the earlier one's would be stale.
    absent = cell(trace, key.layer, "neuron_norm_max_min", stage="update", step=5)
    assert (absent.value, absent.step, absent.note(5)) == (None, 5, "not defined at step 5")


def test_loss_is_the_nearest_earlier(runs: Runs) -> None:
    (muon,) = runs.some(["muon"])
    assert loss_at(muon, 13).step == 13
    assert loss_at(muon, 4000).step == 40
    assert loss_at(muon, 3, name="nothing").value is None


def test_panels_name_an_earlier_capture(drawn: Drawn, fake: ModuleType, tmp_path: Path) -> None:
    fake.write_run(tmp_path / "muon", "muon", steps=(0, 10), blocks=1)
    fake.write_run(tmp_path / "normuon", "normuon", steps=(5, 15), blocks=1)
    runs = Runs(tmp_path)
    view = resolved(runs, View(step=15))
    assert drawn("norms", runs, view, "light")[1] == "Muon: step 10"
    assert drawn("spectrum", runs, view, "dark")[1] == "Muon: step 10"
    sentence = headline(runs, view)[0].children
    assert sentence == "Mlp.up of block 0 was not captured at step 15 in Muon."


def test_the_rail_is_grouped_and_its_dots_stand_at_the_values(runs: Runs) -> None:
    rows, values = balance.rail_data(runs, VIEW)
    assert [group["kind"] for group in rows["groups"]][4] == "mlp.up"
    assert not rows["folded"]
    assert [(run["name"], run["side"]) for run in rows["runs"]] == [
        ("muon", "a"),
        ("normuon", "b"),
    ]
    flat = [row["layer"] for group in rows["groups"] for row in group["rows"]]
    (muon, _) = runs.some(["muon", "normuon"])
    one = cell(muon, UP, "neuron_norm_cv", stage="update", step=40).value
    assert one is not None
    top = float(values["scale"][2])
    assert values["at"][flat.index(UP)][0] == pytest.approx(100 * one / top, abs=0.01)
    assert values["said"][flat.index(UP)][0] == number(one)
    assert len(values["medians"]) == len(rows["groups"])


def test_a_step_changes_the_rails_values_and_not_its_rows(runs: Runs) -> None:
    rows, values = balance.rail_data(runs, VIEW)
    others, moved = balance.rail_data(runs, replace(VIEW, step=0))
    assert rows == others
    assert values["at"] != moved["at"]
    assert values["scale"] == moved["scale"]


def test_over_forty_layers_groups_start_folded(fake: ModuleType, tmp_path: Path) -> None:
    fake.write_run(tmp_path / "muon", "muon", steps=(0,), blocks=7, width=4)
    runs = Runs(tmp_path)
    assert balance.rail_data(runs, resolved(runs, View()))[0]["folded"]


def test_one_run_alone_has_no_empty_half(drawn: Drawn, fake: ModuleType, tmp_path: Path) -> None:
    fake.write_run(tmp_path / "solo", "adamw", blocks=1)
    runs = Runs(tmp_path)
    view = resolved(runs, View())
    tree = headline(runs, view)
    assert tree[0].children.startswith("At step 40 solo spreads mlp.up of block 0")
    assert len(drawn("norms", runs, view, "light")[0].data) == 1
    assert runs_page.config_table(runs, view, everything=False)[2].endswith("settings")


def test_an_empty_folder_says_what_to_do_and_is_followed(
    drawn: Drawn, fake: ModuleType, tmp_path: Path
) -> None:
    runs = Runs(tmp_path)
    before = runs.refresh()
    text = _text(headline(runs, resolved(runs, View())))
    assert "No runs yet" in text
    assert "optgeom.watch(model, optimizer" in text
    assert PICTURES["loss"].look(runs, View()) is None
    assert balance.rail_data(runs, View()) == ({}, {})
    fake.write_run(tmp_path / "first", "muon", blocks=1)
    assert runs.refresh() != before
    assert [trace.name for trace in runs.all()] == ["first"]


def test_new_steps_and_new_runs_change_the_token(fake: ModuleType, tmp_path: Path) -> None:
    writer = fake.write_run(tmp_path / "muon", "muon", blocks=1, steps=(0,), close=False)
    runs = Runs(tmp_path)
    first = runs.refresh()
    assert runs.refresh() == first
    live = Live()
    assert live.text(runs, first, 0.0) == "step 0"
    fake.put_steps(writer, "muon", (10,))
    writer.flush()
    second = runs.refresh()
    assert second != first
    assert live.text(runs, second, 10.0) == "step 10 · 0 s ago"
    assert live.text(runs, second, 13.0) == "step 10 · 3 s ago"
    assert live.text(runs, second, 10.0 + 240) == "step 10 · no new step for 4 min"
    writer.close()
    third = runs.refresh()
    assert live.text(runs, third, 300.0) == "step 10 · ended"


def test_a_trace_alone_and_a_folder_that_is_none(demo: Path, tmp_path: Path) -> None:
    assert [trace.name for trace in Runs(demo / "muon").all()] == ["muon"]
    (tmp_path / "notes.txt").write_text("no trace")
    with pytest.raises(NotATrace):
        Runs(tmp_path)
    with pytest.raises(NotATrace):
        Runs(tmp_path / "nowhere")


def test_runs_are_looked_up_never_joined_to_a_path(runs: Runs) -> None:
    assert runs.some(["../demo/muon", "muon/..", "normuon"]) == list(runs.some(["normuon"]))


def test_only_differing_settings_unless_asked(runs: Runs) -> None:
    few, columns, note = runs_page.config_table(runs, VIEW, everything=False)
    every, _, _ = runs_page.config_table(runs, VIEW, everything=True)
    assert len(every) > len(few)
    assert [column["headerName"] for column in columns[1:]] == ["Muon", "NorMuon", "AdamW"]
    assert {row["name"] for row in few} >= {"optimizer", "group 0 · lr"}
    assert note == f"{len(few)} of {len(every)} settings differ"


def test_configuration_and_cost(runs: Runs) -> None:
    traces = runs.all()
    rows = {row.name: row for row in configuration(traces)}
    assert rows["group 0 · lr"].values == ("0.003", "0.01", "0.01")
    assert not rows["config · model.width"].differs
    assert rows["config · model.width"].values[0] == "16"
    spent = {row.name: row.values for row in cost(traces)}
    assert spent["update read from"] == ("dispatch",) * 3
    assert spent["capture time"][0] == "0.06 s"
    assert spent["state"] == ("ended",) * 3
    assert cost(()) == ()


def test_the_app_is_made_without_reaching_out(demo: Path) -> None:
    app = create_app(demo)
    page = app.server.test_client().get("/").get_data(as_text=True)
    assert "http://" not in page
    assert "https://" not in page
    assert "--run-0:#1F5FBF" in page
