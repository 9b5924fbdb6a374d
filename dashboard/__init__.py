"""The page: layouts, callbacks of a line each, the app, and the offline report."""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.dashboard'")
