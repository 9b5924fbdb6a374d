"""WeightWatcher over stored matrices, as a user calls it: in the peers' environment."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn


def model_of(path: str) -> nn.Module:
    """A model whose linear layers hold the matrices of an npz file."""
    with np.load(path) as stored:
        layers = {}
        for name in stored.files:
            matrix = torch.from_numpy(stored[name])
            layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
            layer.weight.data = matrix
            layers[name.replace(".", "_")] = layer
    return nn.ModuleDict(layers)


def main(matrices: str) -> dict[str, float]:
    """Seconds of `WeightWatcher(model).analyze()` with its own defaults, the second time."""
    torch.set_num_threads(2)
    model = model_of(matrices)
    weightwatcher: Any = import_module("weightwatcher")
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stdout(sys.stderr):
        watcher = weightwatcher.WeightWatcher(model=model)
        watcher.analyze(plot=False)  # once for all that the first call alone has to do
        started = time.perf_counter()
        details = watcher.analyze(plot=False)
        took = time.perf_counter() - started
    return {"seconds": took, "layers": len(details)}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[-1]))))
