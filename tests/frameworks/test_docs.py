"""The examples of docs/frameworks.md run as they stand, one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import wandb
from accelerate.state import AcceleratorState, GradientState

import optgeom

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
NOT_RUN = re.compile(r"<!-- not run: .+ -->\n```python\n.*?```", re.DOTALL)
EVERY = {"trainer": 10, "lightning": 10, "accelerate": 5, "ddp": 5, "sent": 5}


@pytest.mark.filterwarnings("ignore")  # those of an example's settings are the framework's
def test_every_example_runs_and_leaves_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    wandb.teardown()  # it remembers the folder in which it was first used
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in re.findall(r"```python\n(.*?)```", NOT_RUN.sub("", PAGE.read_text()), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    traces = optgeom.open_traces("runs")
    assert set(traces) == set(EVERY)
    for name, every in EVERY.items():
        assert traces[name].closed
        steps = traces[name].steps().tolist()
        assert steps[:2] == [0, every], name  # later ones are the budget's
        assert not any(step % every for step in steps)
    assert set(traces["trainer"].scalars("loss")["step"].to_pylist()) == {4, 9, 14, 19}
    assert list(tmp_path.glob("runs/tb/*tfevents*"))
    assert list(tmp_path.glob("wandb/offline-run-*"))
