"""What `optgeom` can be told: make, look, ask, keep; a file for each."""
