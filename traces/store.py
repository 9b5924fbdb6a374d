"""Where traces are opened: one run, or a folder of runs."""

from __future__ import annotations

from optgeom.traces.folder import Traces, open_traces
from optgeom.traces.trace import Trace, open_trace

__all__ = ["Trace", "Traces", "open_trace", "open_traces"]
