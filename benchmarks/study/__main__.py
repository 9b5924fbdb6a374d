"""``make study``: the comparison and the ablations of arXiv:2510.05491 at a size for two cores.

Tunes each rule's learning rate, trains each at five seeds, measures steps and state, and writes
tables, figures and the numbers of docs/study.md. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.study.experiment import experiment

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    """Read the arguments and run the study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "study", help="its runs")
    parser.add_argument("--workers", type=int, help="runs side by side; default: one a core")
    arguments = parser.parse_args()
    experiment(arguments.runs, workers=arguments.workers)


if __name__ == "__main__":
    main()
