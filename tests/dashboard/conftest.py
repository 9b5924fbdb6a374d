from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from optgeom.dashboard.data import Runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@pytest.fixture(scope="session")
def address(shots: ModuleType, demo: Path) -> Iterator[str]:
    with shots.serving(demo) as found:
        yield found


@pytest.fixture(scope="session")
def browser(shots: ModuleType) -> Iterator[Browser]:
    with shots.chromium() as started:
        yield started
