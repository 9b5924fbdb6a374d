"""optgeom shows the geometry of what an optimizer does to a network.

Public names resolve on first use, so that ``import optgeom`` and ``optgeom --help`` cost
nothing: opening a trace imports no torch, watching a run imports no dash.

>>> import optgeom
>>> "watch" in optgeom.__all__
True
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optgeom import (
        dashboard,
        figures,
        frameworks,
        geometry,
        hooks,
        optim,
        sinks,
        traces,
        trainer,
    )
    from optgeom.geometry.analyze import analyze
    from optgeom.geometry.compare import compare
    from optgeom.geometry.diagnose import diagnose
    from optgeom.geometry.measure import measure
    from optgeom.hooks.audit import audit
    from optgeom.hooks.recorder import Recorder
    from optgeom.hooks.watch import watch
    from optgeom.rules import whatif
    from optgeom.traces.errors import OptgeomError
    from optgeom.traces.store import Trace, Traces, open_trace, open_traces

__version__ = "0.1.0"

_ROOMS = ("dashboard", "figures", "geometry", "hooks", "optim", "traces", "trainer")
_MODULES = ("frameworks", "sinks")
_HOMES = {
    "OptgeomError": "optgeom.traces.errors",
    "Recorder": "optgeom.hooks.recorder",
    "Trace": "optgeom.traces.store",
    "Traces": "optgeom.traces.store",
    "analyze": "optgeom.geometry.analyze",
    "audit": "optgeom.hooks.audit",
    "compare": "optgeom.geometry.compare",
    "diagnose": "optgeom.geometry.diagnose",
    "measure": "optgeom.geometry.measure",
    "open_trace": "optgeom.traces.store",
    "open_traces": "optgeom.traces.store",
    "watch": "optgeom.hooks.watch",
    "whatif": "optgeom.rules",
}

__all__ = [
    "OptgeomError",
    "Recorder",
    "Trace",
    "Traces",
    "analyze",
    "audit",
    "compare",
    "dashboard",
    "diagnose",
    "figures",
    "frameworks",
    "geometry",
    "hooks",
    "measure",
    "open_trace",
    "open_traces",
    "optim",
    "sinks",
    "traces",
    "trainer",
    "watch",
    "whatif",
]


def _check_rooms() -> None:
    for room in _ROOMS:
        if not (Path(__file__).parent / room).is_dir():
            raise ImportError(
                f"optgeom/{room} is not a folder: this checkout was made without symbolic links. "
                "Run 'git config core.symlinks true' and check the files out again, or install "
                "the wheel."
            )


_check_rooms()


if not TYPE_CHECKING:  # to a type checker, a name that is not there is an error

    def __getattr__(name: str) -> Any:
        if name in _ROOMS or name in _MODULES:
            return importlib.import_module(f"optgeom.{name}")
        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module 'optgeom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
