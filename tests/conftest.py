"""What several folders of tests share: one short demo, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's three traces after 61 steps, in a folder laid out like the checkout."""
    from optgeom.trainer.demo import demo

    root = tmp_path_factory.mktemp("checkout") / "runs" / "demo"
    demo(root, overrides={"schedule.steps": 61})
    return root
