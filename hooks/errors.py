"""What `watch` raises, always at the place where the user attaches."""

from __future__ import annotations

from optgeom.traces.errors import OptgeomError


class WatchError(OptgeomError):
    """The model, optimizer or settings cannot be watched as asked."""
