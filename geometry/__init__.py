"""The mathematics: a matrix to a spectrum, a spectrum to a number, a trace to a table.

torch appears only in the kernels; summaries of spectra and norms are numpy.
"""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.geometry'")
