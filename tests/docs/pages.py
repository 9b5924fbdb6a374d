"""The pages made from code: ``make pages`` writes them, the tests say when they are old."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from optgeom.cli import SECTIONS, cli
from optgeom.commands.page import command_line_page
from optgeom.geometry.diagnosis.page import diagnose_page
from optgeom.geometry.reference import metrics_page

DOCS = Path(__file__).parents[2] / "docs"
GENERATED: Mapping[str, Callable[[], str]] = {
    "command-line.md": lambda: command_line_page(cli, SECTIONS),
    "diagnose.md": diagnose_page,
    "metrics.md": metrics_page,
}

if __name__ == "__main__":
    for name, make in GENERATED.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
