"""The numbers of docs/study.md, from the study's tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.study.arms import ARMS
from benchmarks.study.pictures import KINDS, SHORT
from benchmarks.study.search import best_rate
from benchmarks.study.statistics import Mean, paired, shares_saved
from benchmarks.study.tables import Tables
from benchmarks.timing import table, unbroken

PAPER_SAVED, PAPER_BEYOND_MUON = 21.74, 11.31
"""arXiv:2510.05491, 1.1 B: per cent of AdamW's steps that NorMuon saves; points more than Muon."""

FROM = 100
"""Captured steps that the geometry's medians are over: the warm-up and its end left out."""


def shares(tables: Tables, arm: str) -> list[float | None]:
    """Of AdamW's steps, what a rule saves to AdamW's final loss of the same seed."""
    return shares_saved(tables.curves_of(arm), tables.losses("adamw"))


def results(tables: Tables) -> str:
    """The comparison, a row a rule."""
    rows = []
    for arm, about in ARMS.items():
        cost = tables.cost_of(arm)
        losses, adamw = tables.losses(arm), tables.losses("adamw")
        is_adamw = arm == "adamw"
        rows.append(
            {
                "rule": about.label,
                "lr": f"{tables.rate(arm):.4g}",
                "final held-out loss": f"{Mean.of(losses):.4f}",
                "minus AdamW's": "" if is_adamw else f"{paired(losses, adamw):+.4f}",
                "steps to AdamW's loss": _whole(tables) if is_adamw else _steps(tables, arm),
                "saved, %": "" if is_adamw else _saved(shares(tables, arm)),
                "step, times AdamW's": "1" if is_adamw else _times(cost),
                "state, MB": f"{cost['state_bytes'] / 1e6:.2f}",
            }
        )
    return table(rows)


def _times(cost: Mapping[str, float]) -> str:
    return unbroken(f"{cost['ratio']:.2f} [{cost['low']:.2f}, {cost['high']:.2f}]")


def _whole(tables: Tables) -> str:
    return str(tables.curves_of("adamw")[0][-1][0])


def _steps(tables: Tables, arm: str) -> str:
    curves = tables.curves_of(arm)
    found = [
        round((1 - share) * curve[-1][0])
        for share, curve in zip(shares(tables, arm), curves, strict=True)
        if share is not None
    ]
    if not found:
        return "not reached"
    some = "" if len(found) == len(curves) else f", {len(found)} of {len(curves)} seeds"
    return f"{min(found)} to {max(found)}{some}"


def _saved(values: list[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if len(known) < len(values):
        return f"reached in {len(known)} of {len(values)} seeds"
    return f"{Mean.of(known):.1f}"


def paper(tables: Tables) -> str:
    """The paper's two numbers beside ours."""

    def row(what: str, theirs: float | None, arm: str, other: str | None) -> dict[str, str]:
        ours, against = shares(tables, arm), shares(tables, other) if other else None
        if None in ours or (against is not None and None in against):
            said = "not reached in every seed"
        else:
            values = [100 * share for share in ours if share is not None]
            if against is None:
                said = f"{Mean.of(values):.1f}"
            else:
                said = f"{paired(values, [100 * s for s in against if s is not None]):.1f}"
        return {"": what, "paper, 1.1 B": f"{theirs or ''}", "here, 0.85 M": said}

    return table(
        [
            row("% of AdamW's steps that NorMuon saves", PAPER_SAVED, "normuon", None),
            row("points more than Muon saves", PAPER_BEYOND_MUON, "normuon", "muon"),
            row("the same, both with Nesterov", None, "normuon-nesterov", "muon-nesterov"),
        ]
    )


def pairs(tables: Tables) -> str:
    """Final losses against Muon's and NorMuon's, seed by seed."""
    rows = []
    for arm, about in ARMS.items():
        losses = tables.losses(arm)
        rows.append(
            {
                "rule": about.label,
                **{
                    f"minus {SHORT[other]}'s": ""
                    if arm == other
                    else f"{paired(losses, tables.losses(other)):+.4f}"
                    for other in ("muon", "normuon")
                },
                "seeds below Muon's": ""
                if arm == "muon"
                else f"{sum(np.less(losses, tables.losses('muon')))} of {len(losses)}",
            }
        )
    return table(rows)


def steps_between(tables: Tables) -> str:
    """From Muon to the released form by one change at a time: final losses, seed by seed."""
    ways = (
        ("NorMuon instead of Muon, both without Nesterov", "normuon", "muon"),
        ("NorMuon instead of Muon, both with Nesterov", "normuon-nesterov", "muon-nesterov"),
        ("Nesterov in Muon", "muon-nesterov", "muon"),
        ("Nesterov in NorMuon", "normuon-nesterov", "normuon"),
        (
            "released form instead of the paper's, both with Nesterov",
            "normuon-released",
            "normuon-nesterov",
        ),
    )
    rows = []
    for change, to, of in ways:
        after, before = tables.losses(to), tables.losses(of)
        rows.append(
            {
                "change": change,
                "final held-out loss": f"{paired(after, before):+.4f}",
                "seeds in which it is lower": f"{sum(np.less(after, before))} of {len(after)}",
            }
        )
    return table(rows)


def searches(tables: Tables) -> str:
    """Every learning rate that was tried, with its loss; the best in bold."""
    rows = []
    for arm, about in ARMS.items():
        found = tables.search(arm)
        best = best_rate(found)
        said = [
            f"{'**' * (lr == best)}{lr:.4g}: {found[lr]:.4f}{'**' * (lr == best)}" for lr in found
        ]
        rows.append({"rule": about.label, "lr: held-out loss": " · ".join(said)})
    return table(rows)


def geometry(tables: Tables) -> str:
    """CV and κ of the update by kind of layer: medians over captures, blocks and seeds."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in tables.geometry.to_pylist():
        values = row["neuron_norm_cv"], row["condition_number"]
        if row["stage"] == "update" and row["step"] >= FROM and None not in values:
            found.setdefault((row["arm"], row["kind"]), []).append(values)
    rows = []
    for arm, about in ARMS.items():
        cells = {}
        for kind, words in KINDS.items():
            cv, condition = np.nanmedian(np.array(found[arm, kind]), axis=0)
            cells[words] = f"{cv:.2f}; {condition:.3g}"
        rows.append({"rule": about.label, **cells})
    return table(rows)


def circumstances(tables: Tables) -> str:
    """What was run, when, on what."""
    about = tables.about
    runs = f"{about['runs']} runs of {about['steps']} steps, {about['tokens']:,} bytes of text each"
    first, last = about["trained"]
    return (
        f"{runs}, trained from {first} to {last} UTC; {about['worker_minutes']} minutes of "
        f"one-thread workers, not idle. Steps were timed on {about['machine']}; "
        f"{about['calibration']}."
    )


SECTIONS: Mapping[str, Callable[[Tables], str]] = {
    "circumstances": circumstances,
    "results": results,
    "paper": paper,
    "steps-between": steps_between,
    "pairs": pairs,
    "searches": searches,
    "geometry": geometry,
}
"""From the name of a mark in the page to what stands there."""


def filled(text: str, tables: Tables) -> str:
    """A page with every marked place filled.

    Args:
        text: With places ``<!-- study: NAME -->`` to ``<!-- end -->``.
        tables: The study's.

    Raises:
        KeyError: A mark that nothing belongs to.
    """

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}\n{SECTIONS[found[2]](tables)}\n{found[3]}"

    return re.sub(r"(<!-- study: ([\w-]+) -->)\n.*?(<!-- end -->)", fill, text, flags=re.DOTALL)


def write(page: Path, tables: Tables) -> None:
    """Fill a page's marked places."""
    page.write_text(filled(page.read_text(), tables))
