"""What another rule would have applied: its input, its second moment, the computed trace.

`optgeom.geometry.whatif` puts the parts together; `optgeom.rules` has the rules.
"""
