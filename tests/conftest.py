"""What several folders of tests share: one short demo, trained once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.traces.objects import Objects, serving


@pytest.fixture(scope="session")
def objects() -> Iterator[Objects]:
    """An S3 server; each test writes below a path of its own."""
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def demo_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's three traces after 61 steps, in a folder laid out like the checkout."""
    from optgeom.trainer.demo import demo

    root = tmp_path_factory.mktemp("checkout") / "runs" / "demo"
    demo(root, overrides={"schedule.steps": 61})
    return root
