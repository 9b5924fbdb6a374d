"""The capture: from a running optimizer to records, without changing a bit of the run."""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.hooks'")
