"""A fault in each marked line, and the checker's name for it: it is not run."""

import torch

import optgeom

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters())

optgeom.wach(model, optimizer, "runs/mine")  # attr-defined
optgeom.geometry.METRIC  # attr-defined
optgeom.traces.open_tracee("runs/mine")  # attr-defined
optgeom.watch(model, optimizer)  # call-arg
optgeom.watch(model, optimizer, "runs/mine", evry=5)  # call-arg
optgeom.watch(model, optimizer, "runs/mine", when_full="stop")  # arg-type
optgeom.open_trace(3)  # arg-type
optgeom.open_trace("runs/mine").matrix("blocks.2.mlp.up", 10)  # arg-type
optgeom.figures.spectrum(optgeom.open_trace("runs/mine"), "head", theme="blue")  # arg-type
