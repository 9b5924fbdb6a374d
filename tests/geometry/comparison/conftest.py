from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import optgeom
from optgeom.traces import open_trace
from tests.geometry.comparison.test_comparison import Pair, Run


@pytest.fixture
def opened(tmp_path: Path) -> Pair:
    def write(**runs: Run) -> Mapping[str, optgeom.Trace]:
        for name, run in runs.items():
            run.write(tmp_path / name)
        return {name: open_trace(tmp_path / name) for name in runs}

    return write
