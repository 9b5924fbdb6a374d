"""The site: pages made from code are current, the menu is whole, public names are explained."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from typing import Any

import pytest

import optgeom
from optgeom.traces.errors import OptgeomError
from tests.docs.blocks import ROOT, pages
from tests.docs.pages import DOCS, GENERATED

NOT_HERE = {"optgeom.frameworks.HuggingFaceCallback", "optgeom.frameworks.LightningCallback"}
"""Made of packages that are not installed where this runs; a heading has their names."""


@pytest.mark.parametrize("name", GENERATED)
def test_generated_pages_are_current(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == GENERATED[name](), "make pages"


def test_every_page_is_in_the_menu_once() -> None:
    menu = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(one.removeprefix("docs/") for one in pages() if "/" in one)


def explained() -> dict[str, Any]:
    """What stands on the reference pages, from the path it is asked for by to the object."""
    text = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    return {path: resolve(path) for path in re.findall(r"(?m)^::: (\S+)$", text)}


def resolve(path: str) -> Any:
    """The object of that path: of ``optgeom.trainer.train.train``, the function of the module."""
    home, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(home), name)
    except ModuleNotFoundError:
        return importlib.import_module(path)


def public() -> dict[str, Any]:
    """Every public name, from its path to the object; of modules, the names that they list."""
    found: dict[str, Any] = {}
    for name in optgeom.__all__:
        one = getattr(optgeom, name)
        inner = [f"{name}.{other}" for other in one.__all__] if inspect.ismodule(one) else [name]
        found |= {f"optgeom.{path}": None for path in inner}
    return {path: resolve(path) for path in found.keys() - NOT_HERE}


def test_every_public_name_is_on_a_reference_page() -> None:
    there = [id(value) for value in explained().values()]
    assert [path for path, value in public().items() if id(value) not in there] == []
    headings = (DOCS / "reference" / "frameworks.md").read_text()
    assert {path for path in NOT_HERE if f"heading: {path}\n" in headings} == NOT_HERE
    assert set(optgeom.frameworks.__all__) == {path.rpartition(".")[2] for path in NOT_HERE}


def test_every_error_is_on_a_reference_page() -> None:
    for module in pkgutil.walk_packages(optgeom.__path__, "optgeom."):
        if module.name.endswith(("errors", "report", "place", "subject", "access", "analyze")):
            importlib.import_module(module.name)
    there = list(map(id, explained().values()))
    ours, queue = set[type](), [OptgeomError]
    while queue:
        ours.add(one := queue.pop())
        queue += [kind for kind in one.__subclasses__() if kind.__module__.startswith("optgeom")]
    public_ones = {kind for kind in ours if not kind.__name__.startswith("_")}
    assert sorted(kind.__name__ for kind in public_ones if id(kind) not in there) == []


def test_nothing_is_explained_twice() -> None:
    there = [id(value) for value in explained().values() if not isinstance(value, (str, tuple))]
    assert len(there) == len(set(there))


def test_links_of_the_readme_lead_somewhere() -> None:
    """Those between pages are checked as the site is built; README is not one of them."""
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", (ROOT / path).read_text())
            assert anchor in {re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings}
