"""Where a run's numbers go besides its trace: docs/frameworks.md.

A sink imports its package when it is made, and says which is missing.

>>> import optgeom.sinks
>>> optgeom.sinks.Series(metrics=("neuron_norm_cv",)).stages
('update',)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optgeom.hooks.sinks.mlflow import MLflow
    from optgeom.hooks.sinks.sending import Sent, send
    from optgeom.hooks.sinks.series import Point, Series
    from optgeom.hooks.sinks.sink import Sink
    from optgeom.hooks.sinks.tensorboard import TensorBoard
    from optgeom.hooks.sinks.wandb import WandB

_HOMES = {
    "MLflow": "mlflow",
    "Point": "series",
    "Sent": "sending",
    "Series": "series",
    "Sink": "sink",
    "TensorBoard": "tensorboard",
    "WandB": "wandb",
    "send": "sending",
}

__all__ = ["MLflow", "Point", "Sent", "Series", "Sink", "TensorBoard", "WandB", "send"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'optgeom.sinks' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"optgeom.hooks.sinks.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
