"""The contract: what a record is, how it is written durably, how it is read back.

Bottom room of the house: imports pyarrow and numpy, and nothing of ours. Only this room opens
trace files.
"""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.traces'")

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optgeom.traces.info import AttemptInfo, LayerInfo, OptimizerInfo, RunInfo
    from optgeom.traces.keeping.compact import compact
    from optgeom.traces.keeping.export import export
    from optgeom.traces.keeping.repair import repair
    from optgeom.traces.keeping.upload import upload
    from optgeom.traces.keeping.verify import verify
    from optgeom.traces.reading.grid import Grid, WordGrid
    from optgeom.traces.schema import Cell
    from optgeom.traces.store import Trace, Traces, open_trace, open_traces
    from optgeom.traces.writer import TraceWriter

_HOMES = {
    "AttemptInfo": "optgeom.traces.info",
    "Cell": "optgeom.traces.schema",
    "Grid": "optgeom.traces.reading.grid",
    "LayerInfo": "optgeom.traces.info",
    "OptimizerInfo": "optgeom.traces.info",
    "RunInfo": "optgeom.traces.info",
    "Trace": "optgeom.traces.store",
    "TraceWriter": "optgeom.traces.writer",
    "Traces": "optgeom.traces.store",
    "WordGrid": "optgeom.traces.reading.grid",
    "compact": "optgeom.traces.keeping.compact",
    "export": "optgeom.traces.keeping.export",
    "open_trace": "optgeom.traces.store",
    "open_traces": "optgeom.traces.store",
    "repair": "optgeom.traces.keeping.repair",
    "upload": "optgeom.traces.keeping.upload",
    "verify": "optgeom.traces.keeping.verify",
}

__all__ = [
    "AttemptInfo",
    "Cell",
    "Grid",
    "LayerInfo",
    "OptimizerInfo",
    "RunInfo",
    "Trace",
    "TraceWriter",
    "Traces",
    "WordGrid",
    "compact",
    "export",
    "open_trace",
    "open_traces",
    "repair",
    "upload",
    "verify",
]


if not TYPE_CHECKING:  # to a type checker, a name that is not there is an error

    def __getattr__(name: str) -> Any:
        # lazily: `import optgeom.traces` must not cost what pyarrow costs
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'optgeom.traces' has no attribute {name!r}")
