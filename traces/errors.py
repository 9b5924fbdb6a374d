"""What optgeom raises.

OptgeomError(ValueError)       wrong use, or data that cannot be read: one line, exit code 2
+-- TraceError                 a trace cannot be written or read
    +-- NotATrace              the folder holds no run.json, or it is a folder of traces
    +-- TraceExists            `out` already holds a trace
    +-- SchemaTooNew           written by a newer optgeom
    +-- DamagedTrace           a file is truncated or its bytes changed
    +-- NotCaptured            the trace is fine, but holds no such step, layer or stage
"""

from __future__ import annotations


class OptgeomError(ValueError):
    """Base of every error that optgeom raises at its users."""


class TraceError(OptgeomError):
    """A trace cannot be written or read."""


class NotATrace(TraceError):
    """The path is not what the function opens."""


class TraceExists(TraceError):
    """The output folder already holds a trace."""


class SchemaTooNew(TraceError):
    """The trace was written by a newer schema than this optgeom knows."""


class DamagedTrace(TraceError):
    """A file of the trace is truncated or corrupt."""


class NotCaptured(TraceError):
    """The trace holds no such step, layer or stage."""
