"""Measuring the raw matrices of a trace: what is pending, how it is measured, and who does it.

`units` finds what is left to do, `measuring` is the pure function from raw matrices to rows, and
`threads`, `processes` and `cluster` call it: the same function and so the same results.
"""
