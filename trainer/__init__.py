"""The real run: a small GPT, one process or FSDP2, that writes traces."""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.trainer'")
