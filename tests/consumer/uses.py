"""What the README shows, as somebody's own program that is type-checked: it is not run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, assert_type

import numpy as np
import torch
from numpy.typing import NDArray

import optgeom
from optgeom.geometry import Comparison, Diagnosis, Finding, WhatIf
from optgeom.hooks import Description, View, register_state_reader
from optgeom.optim import NorMuon, param_groups
from optgeom.traces import Grid, LayerInfo, RunInfo


def told(finding: Finding) -> None:
    assert_type(finding.severity, Literal["note", "warning", "severe"])
    assert_type(finding.layers, tuple[str, ...])


def attach(model: torch.nn.Module, batches: Iterable[torch.Tensor]) -> Description:
    optimizer = NorMuon(param_groups(model, adamw_lr=3e-3), lr=0.01, family="paper")
    views = {"qkv": View(split="qkv")}
    rec = optgeom.watch(model, optimizer, out="runs/mine", on_finding=told, views=views)
    assert_type(rec, optgeom.Recorder)
    for batch in batches:
        loss: torch.Tensor = model(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        rec.log(loss=loss)
    rec.capture_next()
    assert_type(rec.flush(), bool)
    rec.close()
    with optgeom.watch(model, [optimizer], Path("runs")) as other:
        assert_type(other, optgeom.Recorder)
    return rec.describe()


def read(path: str | Path) -> NDArray[np.float32]:
    trace = optgeom.open_trace(path)
    assert_type(trace, optgeom.Trace)
    assert_type(trace.info, RunInfo)
    assert_type(trace.layers, tuple[LayerInfo, ...])
    assert_type(trace.last_step, int | None)
    assert_type(trace.grid("neuron_norm_cv"), Grid)
    traces = optgeom.open_traces(path)
    assert_type(traces, optgeom.Traces)
    assert_type(traces["a"], optgeom.Trace)
    assert_type(list(traces), list[str])
    return trace.matrix(10, "blocks.2.mlp.up")


def ask(trace: optgeom.Trace, traces: optgeom.Traces) -> list[str]:
    assert_type(optgeom.compare(traces), Comparison)
    found = optgeom.diagnose(trace)
    assert_type(found, Diagnosis)
    assert_type(optgeom.whatif(trace), WhatIf)
    optgeom.analyze(trace, workers=2)
    optgeom.figures.neuron_norms(trace, "blocks.2.mlp.up").show()
    optgeom.figures.spectrum(traces, "blocks.2.mlp.up", theme="dark")
    optgeom.figures.layer_map(trace, "update_to_weight")
    assert_type(optgeom.dashboard.write_report("runs", "a.html"), Path)
    assert_type(optgeom.geometry.METRICS["stable_rank"].formula, str)
    assert_type(optgeom.measure(torch.eye(3))["stable_rank"], float | int | str | None)
    try:
        optgeom.traces.verify("runs")
    except optgeom.OptgeomError as error:
        return [str(error)]
    return [finding.title for finding in found.findings]


def teach(kind: type[torch.optim.Optimizer]) -> None:
    def reader(optimizer: Any, parameter: torch.Tensor) -> torch.Tensor | None:
        momentum = optimizer.state[parameter].get("my_momentum")
        return momentum if isinstance(momentum, torch.Tensor) else None

    register_state_reader(kind, reader)
