"""Runs that went wrong: the page and the report say so, and show no earlier number for it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plotly
import pytest
from plotly.offline import get_plotlyjs

from optgeom.dashboard import write_report
from optgeom.dashboard.cards import cards
from optgeom.dashboard.data import Runs, cell, loss_at
from optgeom.dashboard.headline import headline
from optgeom.dashboard.state import resolved
from optgeom.dashboard.view import View

WORDS = {"non_finite": "not finite", "zero": "zero", "lr_zero": "zero"}
DASH = "\N{EM DASH}"
Drawn = Callable[..., tuple[Any, str]]
UP = "blocks.0.mlp.up.weight"


@pytest.fixture(scope="module")
def folder(broken: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("broken")
    broken.train(made / "healthy")
    for fault in WORDS:
        broken.train(made / fault, fault)
    return made


@pytest.fixture(scope="module")
def wrecks(folder: Path) -> Runs:
    return Runs(folder)


def _text(tree: Any) -> str:
    return json.dumps(tree, cls=plotly.utils.PlotlyJSONEncoder, ensure_ascii=False)


@pytest.mark.parametrize("fault", WORDS)
def test_a_broken_step_has_a_dash_and_its_reason(
    wrecks: Runs, broken: ModuleType, fault: str
) -> None:
    healthy, trace = wrecks.some(["healthy", fault])
    for metric in ("neuron_norm_cv", "condition_number"):
        one = cell(trace, broken.LAYER, metric, stage="update", step=5)
        assert (one.value, one.step) == (None, 5)
        assert one.note(5) == f"{WORDS[fault]} at step 5"
        assert cell(trace, broken.LAYER, metric, stage="update", step=4).value is not None
    found = cards([healthy, trace], broken.LAYER, stage="update", step=5)
    for card in found[:3]:
        assert (card.main, card.note) == (DASH, f"{WORDS[fault]} at step 5")
        assert card.others[0].value != DASH
        assert card.versus == ""


@pytest.mark.parametrize("fault", WORDS)
def test_the_sentence_says_what_happened(wrecks: Runs, fault: str) -> None:
    tree = headline(wrecks, resolved(wrecks, View(a="healthy", b=fault, step=5)))
    assert tree[0].children == f"The update of 0 is {WORDS[fault]} at step 5 in {fault}."
    assert f"{WORDS[fault]} at step 5" in _text(tree[1])


def test_a_loss_that_is_not_finite_is_shown_as_such(
    drawn: Drawn, wrecks: Runs, broken: ModuleType
) -> None:
    (trace,) = wrecks.some(["non_finite"])
    one = loss_at(trace, 5)
    assert one.value is not None
    assert math.isnan(one.value)
    (*_, loss) = cards([trace], broken.LAYER, stage="update", step=5)
    assert (loss.main, loss.note) == ("NaN", "not finite at step 5")
    note = drawn("loss", wrecks, View(a="healthy", b="non_finite"), "light")[1]
    assert "non_finite: loss not finite from step 5." in note


def test_panels_note_the_reason_and_draw_the_other_run(drawn: Drawn, wrecks: Runs) -> None:
    view = resolved(wrecks, View(a="healthy", b="non_finite", step=5))
    norms, said = drawn("norms", wrecks, view, "light")
    assert said == "non_finite: not finite at step 5"
    assert [line.name for line in norms.data] == ["healthy"]
    spectrum, said = drawn("spectrum", wrecks, view, "light")
    assert said == "non_finite: not finite at step 5"
    assert {line.name for line in spectrum.data if line.name} == {"healthy", "healthy momentum"}


def test_an_earlier_capture_is_named_on_its_card(fake: ModuleType, tmp_path: Path) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", blocks=1, steps=(0, 10), close=False)
    fake.put_steps(writer, "muon", (20,), spectra=False)
    writer.close()
    (trace,) = Runs(tmp_path).all()
    cv, _, condition, loss = cards([trace], UP, stage="update", step=20)
    assert (cv.note, condition.note, loss.note) == ("", "step 10", "")
    assert condition.main != DASH
    tree = headline(Runs(tmp_path), resolved(Runs(tmp_path), View()))
    assert '"step 10"' in _text(tree[1])


def test_a_row_that_is_not_verified_is_shown_and_never_compared(
    fake: ModuleType, tmp_path: Path
) -> None:
    writer = fake.write_run(tmp_path / "x", "muon", blocks=1, steps=(0,), close=False)
    key = fake.Cell(5, "optimizer", UP, "mlp.up", 0, "update")
    writer.metrics(key, {"neuron_norm_cv": 0.4, "frobenius_norm": 1.0, "status": "unverified"})
    writer.neurons(key, np.linspace(1, 2, 64, dtype=np.float32))
    writer.spectrum(key, None, {"condition_number": 3.0, "spectrum_status": "ok"})
    writer.close()
    runs = Runs(tmp_path)
    (trace,) = runs.all()
    cv, _, condition, _ = cards([trace], UP, stage="update", step=5)
    assert (cv.main, cv.note) == ("0.4", "not verified at step 5")
    assert (condition.main, condition.note) == ("3", "not verified at step 5")
    tree = headline(runs, resolved(runs, View(step=5)))
    assert tree[0].children == ("The update of mlp.up of block 0 is not verified at step 5 in x.")


def test_the_report_is_written_whole(folder: Path, tmp_path: Path) -> None:
    path = write_report(folder, tmp_path / "r.html", a="healthy", b="non_finite")
    page = path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert "The update of 0 is not finite at step 5 in non_finite." in page
    assert f"<td>{DASH} <small>not finite at step 5</small></td>" in page
    assert "Singular spectrum <small>non_finite: not finite at step 5" in page
    figures = json.loads(re.findall(r"const figures=(\[.*\]);const config", page)[0])
    assert len(figures) == 2 + 2 + 2 + 2 + 2 + 2
    assert all(one["data"] for one in figures)
