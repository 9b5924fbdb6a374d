"""The examples of docs/loops.md run as they stand, one after the other."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch

import optgeom

PAGE = Path(__file__).parents[2] / "docs" / "loops.md"
STEPS = {
    "plain": [0, 10],
    "groups": [],
    "two": [0, 10],
    "backward": [0, 10],
    "closure": [0, 2],
    "rule": [0, 10],
    "judged": [0, 10],
    "spike": [0, 11, 12],
    "long": [0, 5, 10, 15, 20, 25, 30, 35],
}


def test_every_example_runs_and_leaves_its_trace(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    traces = optgeom.open_traces("runs")
    assert set(traces) == set(STEPS)
    for name, steps in STEPS.items():
        trace = traces[name]
        assert trace.closed
        captured = [trace.steps(layer.name).tolist() for layer in trace.layers] if steps else []
        if name == "spike":  # what follows the fault depends on the numbers
            captured = [of_layer[:3] for of_layer in captured]
        assert captured == [steps] * len(captured)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
