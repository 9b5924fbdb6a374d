"""The pictures: a table to a plotly figure. Each file is info(table) -> NamedTuple -> plot(info)."""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.figures'")
