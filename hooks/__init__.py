"""The capture: from a running optimizer to records, without changing a bit of the run."""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.hooks'")

from optgeom.hooks.clock import Clock
from optgeom.hooks.describe import Description
from optgeom.hooks.errors import WatchError
from optgeom.hooks.recorder import Recorder
from optgeom.hooks.state import register_state_reader
from optgeom.hooks.taps import tap
from optgeom.hooks.views import View
from optgeom.hooks.watch import watch

__all__ = [
    "Clock",
    "Description",
    "Recorder",
    "View",
    "WatchError",
    "register_state_reader",
    "tap",
    "watch",
]
