"""The rules: NorMuon and Muon, usable in anyone's job. Imports nothing of ours."""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.optim'")
