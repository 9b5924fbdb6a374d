"""The sentences of docs/study.md: every number in them comes from the tables that are kept."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.study import __main__ as study
from benchmarks.study.arms import ARMS
from benchmarks.study.statistics import paired, shares_saved
from benchmarks.study.tables import Tables

FAMILY = [arm for arm in ARMS if not arm.startswith("adamw")]
SQUARE = ("attention.q", "attention.k", "attention.v", "attention.o")


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables.load(study.RESULTS)


@pytest.fixture(scope="module")
def prose() -> str:
    """The page in one line, without what is filled in."""
    text = re.sub(r"<!-- study.*?<!-- end -->", "", study.PAGE.read_text(), flags=re.DOTALL)
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def plain(found: object, spec: str) -> str:
    return format(found, spec).replace("\N{NO-BREAK SPACE}", " ")


def against(tables: Tables, arm: str, other: str, step: int, spec: str = "+.3f") -> str:
    """Losses of two rules at one step, seed by seed."""
    at = [[dict(curve)[step] for curve in tables.curves_of(one)] for one in (arm, other)]
    return plain(paired(*at), spec)


def median(tables: Tables, arm: str, kind: str, metric: str) -> float:
    """Of updates from step 100 on, over captures, blocks and seeds."""
    rows = tables.geometry.to_pylist()
    found = [
        row[metric]
        for row in rows
        if (row["arm"], row["kind"], row["stage"]) == (arm, kind, "update")
        and row["step"] >= 100
        and row[metric] is not None
    ]
    return float(np.nanmedian(found))


def neighbours(tables: Tables) -> str:
    apart = []
    for arm in ARMS:
        losses = list(tables.search(arm).values())
        best = int(np.argmin(losses))
        apart += [losses[i] - losses[best] for i in (best - 1, best + 1)]
    return f"the best trial and its neighbours below differ by {min(apart):.3f} to {max(apart):.3f}"


def reached(tables: Tables) -> str:
    found = [
        share
        for arm in FAMILY
        for share in shares_saved(tables.curves_of(arm), tables.losses("adamw"))
    ]
    assert None not in found
    shares = [100 * (1 - share) for share in found if share is not None]
    return f"AdamW's final loss after {min(shares):.0f} to {max(shares):.0f} % of the steps"


def second_rate(tables: Tables) -> str:
    found = against(tables, "adamw-two-rates", "adamw", 600)
    return f"with one for hidden matrices alone, AdamW's final loss changes by {found}."


def below_muon(tables: Tables) -> str:
    """By how little NorMuon is below Muon in most seeds."""
    apart = np.sort(np.subtract(tables.losses("muon"), tables.losses("normuon")))
    difference = plain(paired(tables.losses("muon"), tables.losses("normuon")), ".3f")
    assert apart[0] > 0
    return (
        f"{difference} nats a byte. It does in all five seeds, but in three of them by no more "
        f"than {apart[2]:.3f}"
    )


def fixed_norm(tables: Tables) -> str:
    early, late, end = (against(tables, "muon-fixed-norm", "muon", s) for s in (80, 360, 600))
    return (
        f"ahead at steps 80 ({early}) to 160, behind at 360 ({late}); at the end not told apart "
        f"({end})"
    )


def up_projections(tables: Tables) -> str:
    muon, adamw, normuon = (
        median(tables, arm, "mlp.up", "neuron_norm_cv") for arm in ("muon", "adamw", "normuon")
    )
    return (
        f"Up-projections are not: {muon:.2f} under Muon, above AdamW's {adamw:.2f}; "
        f"NorMuon brings them to {normuon:.2f}"
    )


def even_ones(tables: Tables) -> str:
    found = [median(tables, "muon", kind, "neuron_norm_cv") for kind in (*SQUARE, "mlp.down")]
    return f"are even under Muon already ({min(found):.2f} to {max(found):.2f})"


def conditioning(tables: Tables) -> str:
    muon, normuon, adamw, before = (
        median(tables, arm, "mlp.up", "condition_number")
        for arm in ("muon", "normuon", "adamw", "normalized-before")
    )
    rows = median(tables, "normalized-before", "mlp.up", "neuron_norm_cv")
    return (
        f"{muon:.1f} under Muon, {normuon:.1f} under NorMuon, {adamw:.0f} under AdamW, on "
        "up-projections. Where the normalization comes first, the condition number stays at "
        f"{before:.1f} and the rows at {rows:.2f}"
    )


@pytest.mark.parametrize(
    "sentence",
    [
        neighbours,
        reached,
        second_rate,
        below_muon,
        fixed_norm,
        up_projections,
        even_ones,
        conditioning,
    ],
)
def test_a_sentence_says_what_the_tables_say(
    sentence: Callable[[Tables], str], tables: Tables, prose: str
) -> None:
    assert sentence(tables) in prose


def test_words_about_order_hold(tables: Tables) -> None:
    """What the page says in words, such as "in every seed"."""

    def lower(arm: str, other: str) -> int:
        return int(np.sum(np.less(tables.losses(arm), tables.losses(other))))

    assert all(lower(arm, "adamw") == 5 for arm in FAMILY)
    assert all(lower("normuon-released", arm) == 5 for arm in ("muon", "normuon"))
    assert lower("normuon-tall", "muon") == 5
    assert lower("normalized-before", "muon") == 5
    assert lower("coordinate-wise", "normuon") == 5
