from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from optgeom.traces.store import Traces, open_traces


def _load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The maker of small runs."""
    return _load("fake_runs")


@pytest.fixture(scope="session")
def broken() -> ModuleType:
    """The trainer of runs that go wrong."""
    return _load("broken_runs")


@pytest.fixture(scope="session")
def demo(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs side by side, raw ns_input at steps 0 and 20."""
    return fake.write_demo(tmp_path_factory.mktemp("figures") / "demo", raw=(0, 20))


@pytest.fixture(scope="session")
def traces(demo: Path) -> Traces:
    return open_traces(demo)
