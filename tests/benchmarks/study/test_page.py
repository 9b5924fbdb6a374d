"""docs/study.md says what the kept tables say, and its figures are drawn from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.study import __main__ as study
from benchmarks.study.arms import ARMS
from benchmarks.study.page import filled
from benchmarks.study.pictures import PICTURES
from benchmarks.study.search import TRIALS, best_rate, is_inside
from benchmarks.study.tables import Tables
from optgeom.figures.theme import DARK, LIGHT, Theme

LIMIT = 5_000_000


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables.load(study.RESULTS)


def test_the_page_is_what_the_tables_say(tables: Tables) -> None:
    text = study.PAGE.read_text()
    assert filled(text, tables) == text


def test_a_table_that_changes_changes_the_page(tables: Tables) -> None:
    rows = tables.curves.to_pylist()
    for row in rows:
        row["loss"] += 0.1 * (row["arm"] == "normuon")
    other = Tables(
        **{name: getattr(tables, name) for name in ("trials", "geometry", "figure_1", "cost")},
        curves=tables.curves.from_pylist(rows),
        about=tables.about,
    )
    text = study.PAGE.read_text()
    assert filled(text, other) != text


def test_every_rule_was_searched_as_often_and_its_best_lies_inside(tables: Tables) -> None:
    for arm in ARMS:
        found = tables.search(arm)
        assert is_inside(found), arm
        assert len(found) >= TRIALS
        # the two neighbours of the best were half a step away, for every rule
        rates = sorted(found)
        best = rates.index(best_rate(found))
        assert rates[best + 1] / rates[best - 1] < 2.01, arm
        assert len(tables.losses(arm)) >= 5


def test_steps_to_the_loss_by_another_way(tables: Tables) -> None:
    """On a grid of hundredths of a step, where the page solves for the crossing."""
    text = study.PAGE.read_text()
    for arm in ("muon", "normuon"):
        saved = []
        for curve, loss in zip(tables.curves_of(arm), tables.losses("adamw"), strict=True):
            steps, losses = np.array(curve).T
            grid = np.arange(steps[0], steps[-1] + 0.005, 0.01)
            below = np.interp(grid, steps, losses) <= loss + 1e-9
            if below.any():
                saved.append(100 * (1 - grid[below.argmax()] / steps[-1]))
        row = next(line for line in text.splitlines() if line.startswith(f"| {ARMS[arm].label} |"))
        if len(saved) == len(tables.curves_of(arm)):
            assert f"| {np.mean(saved):.1f}\N{NO-BREAK SPACE}±" in row
        else:
            assert f"reached in {len(saved)} of" in row


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", PICTURES)
def test_figures_are_drawn_and_kept(tables: Tables, name: str, theme: Theme) -> None:
    figure = PICTURES[name](tables, theme)
    assert figure.layout.paper_bgcolor == theme.ground
    assert (study.PAGE.parent / "study" / f"{name}-{theme.name}.svg").exists()
    if name == "loss-by-step":
        (line,) = (one for one in figure.data if one.name == "AdamW")
        assert line.y[-1] == pytest.approx(np.mean(tables.losses("adamw")), rel=1e-4)


def test_what_is_kept_is_small() -> None:
    folder = Path(study.RESULTS)
    assert sum(one.stat().st_size for one in folder.iterdir()) < LIMIT
