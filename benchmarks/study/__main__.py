"""``make study``: the comparison and the ablations of arXiv:2510.05491 at a size for two cores.

Tunes each rule's learning rate, trains each at five seeds, measures steps and state, and writes
tables, figures and the numbers of docs/study.md. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks.study import cost, page
from benchmarks.study.arms import ARMS, BASE
from benchmarks.study.drawing import draw
from benchmarks.study.experiment import Runs, experiment
from benchmarks.study.pictures import PICTURES
from benchmarks.study.tables import Tables, collect
from benchmarks.study.trials import ROOT
from benchmarks.study.workers import workers
from benchmarks.timing import machine
from optgeom.figures.theme import theme_of

RESULTS = ROOT / "benchmarks" / "results" / "study"
PAGE = ROOT / "docs" / "study.md"


def main() -> None:
    """Read the arguments and run the study, or draw what was kept of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "study", help="its runs")
    parser.add_argument("--workers", type=int, help="runs side by side; default: one a core")
    parser.add_argument(
        "--draw", action="store_true", help="train nothing: figures and page from the kept tables"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="tables (benchmarks/results/study)"
    )
    parser.add_argument(
        "--page", type=Path, help="to be filled (docs/study.md, where results are there)"
    )
    arguments = parser.parse_args()
    # a page of the documentation says what its own results say, and no others
    own = arguments.results.resolve() == RESULTS
    place: Path | None = arguments.page or (PAGE if own else None)
    if not arguments.draw:
        where = machine()
        with workers(arguments.workers or os.cpu_count() or 1, arguments.runs) as executor:
            runs = experiment(arguments.runs, executor)
        print("timing the steps", flush=True)
        costs, calibration = cost.measure()
        about = {**_about(runs), "machine": where, "calibration": calibration}
        collect(runs, arguments.runs, cost=costs, about=about).save(arguments.results)
    tables = Tables.load(arguments.results)
    print(f"{page.results(tables)}\n\ntables: {arguments.results}")
    if place is not None:
        _fill(place, tables)


def _fill(place: Path, tables: Tables) -> None:
    for theme in ("light", "dark"):
        colours = theme_of(theme)
        figures = {
            f"{name}-{theme}": picture(tables, colours) for name, picture in PICTURES.items()
        }
        draw(figures, place.parent / "study")
    page.write(place, tables)
    print(f"page: {place}")


def _about(runs: Runs) -> dict[str, Any]:
    outcomes = [one for some in (*runs.searches.values(), *runs.finals.values()) for one in some]
    config = ARMS["adamw"].config(lr=1e-3, adamw_lr=1e-3, seed=0)
    return {
        "runs": len(outcomes),
        "steps": config.schedule.steps,
        "tokens": config.schedule.steps * config.data.batch * config.data.sequence,
        # of the runs themselves: a study that was stopped and gone on with took as long
        "worker_minutes": round(sum(one.seconds for one in outcomes) / 60),
        "trained": [min(one.date for one in outcomes), max(one.date for one in outcomes)],
        "settings": dict(BASE),
    }


if __name__ == "__main__":
    main()
