"""The page: layouts, callbacks of a line each, the app, and the offline report.

``create_app`` and ``serve`` import dash, which takes a second or two; they resolve on first use.
"""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.dashboard'")

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optgeom.dashboard.app import create_app
    from optgeom.dashboard.report import write_report
    from optgeom.dashboard.server import serve

__all__ = ["create_app", "serve", "write_report"]

_HOMES = {"create_app": "app", "serve": "server", "write_report": "report"}


if not TYPE_CHECKING:  # to a type checker, a name that is not there is an error

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            return getattr(importlib.import_module(f"optgeom.dashboard.{_HOMES[name]}"), name)
        raise AttributeError(f"module 'optgeom.dashboard' has no attribute {name!r}")
