"""What several folders of tests share: one short demo, trained once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sharing import made_once
from tests.traces.objects import Objects, serving


def pytest_collection_finish() -> None:
    """What is imported by now, a million objects of torch, is left out of every collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def objects() -> Iterator[Objects]:
    """An S3 server; each test writes below a path of its own."""
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def demo_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's three traces after 61 steps, in a folder laid out like the checkout."""
    from optgeom.trainer.demo import demo

    def train(folder: Path) -> None:
        demo(folder / "runs" / "demo", overrides={"schedule.steps": 61})

    return made_once(tmp_path_factory, "checkout", train) / "runs" / "demo"
