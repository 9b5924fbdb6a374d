"""The contract: what a record is, how it is written durably, how it is read back.

Bottom room of the house: imports pyarrow and numpy, and nothing of ours. Only this room opens
trace files.
"""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.traces'")
