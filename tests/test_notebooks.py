"""Notebooks run on freshly made traces, hold no outputs, and use public names only."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def _name(path: Path) -> str:
    return path.stem


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_no_outputs_are_kept(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_public_names_only(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    for source in (cell.source for cell in cells if cell.cell_type == "code"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_")
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] != "optgeom"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_runs_on_the_demo(path: Path, demo_runs: Path) -> None:
    folder = demo_runs.parents[1] / "notebooks"
    folder.mkdir(exist_ok=True)
    copy = shutil.copy(path, folder)
    notebook = nbformat.read(copy, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    drawn = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    assert len(drawn) >= 4
