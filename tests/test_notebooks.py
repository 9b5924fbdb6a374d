"""Notebooks run on freshly made traces, hold no outputs, and use public names only."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
FIGURES = {
    "01_attach_to_your_own_loop": 5,
    "02_muon_against_normuon": 5,
    "03_tall_and_wide": 5,
    "04_would_normuon_change_my_adamw_run": 3,
    "05_audit_an_optimizer": 2,
    "06_a_large_trace": 3,
}
"""The notebooks, and how many figures each shows."""
ALLOWED = {"optgeom", "torch", "numpy", "polars", "duckdb", "plotly", "pyarrow"}
STANDARD = {"math", "pathlib", "tempfile", "textwrap"}
SHOWN = {"application/vnd.plotly.v1+json", "text/html"}

named = pytest.mark.parametrize("name", FIGURES)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(name: str) -> list[str]:
    return [cell.source for cell in read(name).cells if cell.cell_type == "code"]


def test_the_list_and_the_page_are_whole() -> None:
    assert [path.stem for path in sorted(FOLDER.glob("*.ipynb"))] == list(FIGURES)
    page = (FOLDER / "README.md").read_text()
    assert re.findall(r"\((\d\d_\w+)\.ipynb\)", page) == list(FIGURES)


@named
def test_no_outputs_are_kept(name: str) -> None:
    for cell in read(name).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@named
def test_an_essay(name: str) -> None:
    """A title, a question, and at the end what the reader can do."""
    cells = read(name).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert "?" in cells[0].source or name.startswith("02")
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert any("## Now yours" in text or "In your own run" in text for text in texts[-2:])


@named
def test_public_names_only_and_nothing_printed(name: str) -> None:
    for source in code(name):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                assert node.attr in ("__init__", "__file__") or not node.attr.startswith("_")
                assert node.attr != "show"
            if isinstance(node, ast.Import):
                roots = {one.name.partition(".")[0] for one in node.names}
                assert roots <= ALLOWED | STANDARD
                assert not any(one.name.startswith("optgeom.") for one in node.names)
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] == "torch"
            if isinstance(node, ast.Name):
                assert node.id != "print"


@named
def test_links_lead_somewhere(name: str) -> None:
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            for page in re.findall(r"\bdocs/\w+\.md", cell.source):
                assert (FOLDER.parent / page).is_file()
            for other in re.findall(r"\((\w+\.ipynb)\)", cell.source):
                assert (FOLDER / other).is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
@named
def test_runs_on_the_demo(name: str, demo_runs: Path) -> None:
    folder = demo_runs.parents[1] / "notebooks"
    folder.mkdir(exist_ok=True)
    notebook = nbformat.read(shutil.copy(FOLDER / f"{name}.ipynb", folder), as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    flat = [one for each in outputs for one in each]
    # a recorder says on stderr, once, what it has captured: that is the library's own line
    said = [one.text for one in flat if one.output_type == "stream"]
    assert all(line.startswith("optgeom: ") for text in said for line in text.splitlines())
    assert all(one.name == "stderr" for one in flat if one.output_type == "stream")
    drawn = [one for one in flat if "application/vnd.plotly.v1+json" in one.get("data", {})]
    assert len(drawn) == FIGURES[name]
    for figure in drawn:
        content = figure.data["application/vnd.plotly.v1+json"]
        assert content["data"], "an empty figure"
    assert SHOWN & set(outputs[-1][-1].data)
