from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from optgeom.dashboard.callbacks import PICTURES
from optgeom.dashboard.data import Runs
from optgeom.dashboard.view import View
from optgeom.figures.theme import ThemeName, theme_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

ROOM = Path(__file__).parent
HOSTILE_LAYER = "<b>bold</b><script>document.title='hacked'</script>"
HOSTILE_RUN = "<img src=x onerror=alert(1)>"
LONG = "transformer.encoder.deep_module_list.17.residual_attention_block.projection_out.w"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The maker of small runs."""
    return _load(ROOM.parent / "figures" / "fake_runs.py")


@pytest.fixture(scope="session")
def broken() -> ModuleType:
    """The trainer of runs that go wrong."""
    return _load(ROOM.parent / "figures" / "broken_runs.py")


@pytest.fixture(scope="session")
def shots() -> ModuleType:
    """The maker of screenshots: it starts the real server and a real browser."""
    return _load(ROOM / "screenshots.py")


@pytest.fixture(scope="session")
def demo(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs side by side."""
    return fake.write_demo(tmp_path_factory.mktemp("dashboard") / "demo", raw=(0, 20))


@pytest.fixture(scope="session")
def hostile(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs and layers whose names would be markup, or are very long."""
    folder = tmp_path_factory.mktemp("dashboard") / "hostile"
    for run, algorithm in ((HOSTILE_RUN, "muon"), ("a" * 80, "normuon")):
        fake.write_run(folder / run, algorithm, blocks=1, names=(HOSTILE_LAYER, LONG))
    return folder


@pytest.fixture(scope="session")
def runs(demo: Path) -> Runs:
    return Runs(demo)


Drawn = Callable[..., tuple[Any, str]]


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    """Draw a page's figure by name: the figure, and the note beside its title."""

    def draw(name: str, runs: Runs, view: View, scheme: ThemeName = "light") -> tuple[Any, str]:
        picture = PICTURES[name]
        seen = picture.look(runs, view)
        assert seen is not None
        return picture.draw(seen, view, theme_of(scheme)), picture.note(seen, view)

    return draw


@pytest.fixture(scope="session")
def address(shots: ModuleType, demo: Path) -> Iterator[str]:
    with shots.serving(demo) as found:
        yield found


@pytest.fixture(scope="session")
def browser(shots: ModuleType) -> Iterator[Browser]:
    with shots.chromium() as started:
        yield started


class Watched:
    """A page and everything that it said or asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)


@pytest.fixture
def open_page(browser: Browser, shots: ModuleType) -> Iterator[Callable[..., Watched]]:
    """Open an address and wait until it is drawn; the page must have stayed silent at the end."""
    opened: list[Watched] = []

    def opener(url: str, *, width: int = 1440, height: int = 900, drawn: bool = True) -> Watched:
        watched = Watched(browser.new_page(viewport={"width": width, "height": height}))
        opened.append(watched)
        watched.page.set_default_timeout(60_000)
        watched.page.goto(url)
        if drawn:
            shots.settle(watched.page)
        return watched

    yield opener
    for one in opened:
        one.page.close()
        assert one.errors == []
