"""What a trace says is wrong with an optimizer: one file per concept, one pure function per rule.

`finding` is what `optgeom.diagnose` returns, `seen` what rules may ask of a trace, `declared` what
the run's settings promise, `thresholds` every number that a rule decides by, `registry` the rules.
"""
