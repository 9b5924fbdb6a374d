"""Runs side by side: common cells, what may be compared and why not, rows, sentences.

`cells` puts runs on common axes, `rules` says what has a common unit and size, `rows` makes
medians, quartiles and ratios, `findings` the sentences; `result` is what `optgeom.compare` returns.
"""
