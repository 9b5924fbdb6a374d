"""A computed run on the page: told from a trained one wherever a run is named."""

from __future__ import annotations

from pathlib import Path

import pytest

import optgeom
from optgeom.dashboard import capture, controls, looks
from optgeom.dashboard.data import NOTHING, UNTRAINED, Runs, loss_at
from optgeom.dashboard.headline import headline
from optgeom.dashboard.pages import balance
from optgeom.dashboard.pages.runs import LOSS, config_table
from optgeom.dashboard.view import View, resolve
from tests.geometry.counterfactual.training import UP, train


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A Muon run of sparse captures, and what NorMuon and Muon would have applied."""
    folder = tmp_path_factory.mktemp("computed")
    muon = train(folder / "muon", "muon", 31, every=10, updates_every=10)
    optgeom.whatif(muon, ("normuon", "muon"))
    return Runs(folder)


@pytest.fixture(scope="module")
def view(computed: Runs) -> View:
    return resolve(View(), computed.all())


def test_it_stands_beside_the_original(computed: Runs, view: View) -> None:
    assert (view.a, view.b) == ("muon", "muon+normuon")
    assert computed.slots() == {"muon": 1, "muon+normuon": 0, "muon+muon": 3}


def test_it_is_marked_wherever_it_is_named(computed: Runs, view: View) -> None:
    options = {one["value"]: one for one in controls.run_options(computed.all())}
    assert options["muon+normuon"]["badge"] == "computed"
    assert options["muon+normuon"]["label"] == "…+NorMuon"
    assert "badge" not in options["muon"]
    (box,) = controls.more_options(computed.some(["muon+muon"]), computed.slots())
    assert "computed from Muon, never trained" in str(box)
    assert "badge" in str(looks.run_heading(computed, view, 1))
    assert "badge" not in str(looks.run_heading(computed, view, 0))
    rows, _ = balance.rail_data(computed, view)
    assert [one["computed"] for one in rows["runs"]] == [False, True]
    _, columns, _ = config_table(computed, view, everything=False)
    assert [one["headerName"] for one in columns[2:]] == [
        "Muon+NorMuon (computed)",
        "Muon+Muon (computed)",
    ]


def test_what_it_lacks_is_said(computed: Runs, view: View) -> None:
    trace = computed.some(["muon+normuon"])[0]
    assert loss_at(trace, None) == NOTHING._replace(status=UNTRAINED)
    said = str(headline(computed, view))
    assert "computed, never trained" in said
    assert "not known (no second moment)" in said
    seen = LOSS.look(computed, view)
    assert seen is not None
    whats = [one.what for one in seen.what.missing]
    assert "Muon+NorMuon is computed from Muon: it was never trained, so it has no loss." in whats


def test_the_configuration_says_what_it_was_made_of(computed: Runs) -> None:
    traces = computed.some(["muon", "muon+normuon"])
    rows = {row.name: row for row in capture.configuration(traces)}
    assert next(iter(rows)) == "computed · from"
    assert rows["computed · from"].values == (capture.LATER, "muon")
    assert rows["computed · input"].values[1] == "ns_input (3 layers)"
    assert rows["computed · second moment"].values[1] == (
        "not known in 9 cells; exact since the run's first step in 3 cells"
    )
    assert rows["group 0 · beta2"].differs
    assert not rows["group 0 · lr"].differs  # a computed run has none of its own
    assert {row.name: row.values for row in capture.cost(traces)}["state"] == ("ended", "computed")


def test_every_page_draws(computed: Runs, view: View, drawn: object) -> None:
    for name in ("norms", "spectrum", "loss"):
        figure, _ = drawn(name, computed, view)  # type: ignore[operator]
        assert figure.to_json()
    assert view.layer == UP


def test_pages_in_a_folder_of_one_computed_run(computed: Runs, tmp_path: Path) -> None:
    alone = Runs(Path(computed.path) / "muon+muon")
    found = resolve(View(), alone.all())
    assert (found.a, found.b) == ("muon+muon", None)
    assert headline(alone, found)
