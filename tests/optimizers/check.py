"""What every optimizer's record has to be, whichever package it is from."""

from __future__ import annotations

from collections.abc import Sequence

from tests.optimizers.case import Case
from tests.optimizers.examine import examine
from tests.optimizers.table import DOCUMENT, rows_of, said_in

SAME_NUMBER = 1e-7
"""The factor 1 - decay is one number, which some optimizers keep as a float32 tensor."""

SPACINGS = 4.0
"""W_after from W_before and the row: the roundings of at most a few operations on the weights."""


def check(case: Case) -> None:
    """Assert that an optimizer is recorded as its documentation and its twin say."""
    found = examine(case)
    if case.cannot or found.cannot:
        assert case.cannot, found.cannot
        assert found.cannot.startswith(case.cannot)
        return
    assert found.failure == ""
    assert found.same_bits, "watching changed the run"
    assert found.once, "not one row per layer and step"
    assert found.unverified == case.unverified
    assert found.statuses <= {"ok", "zero", "lr_absent", "unverified"}
    assert found.source == case.source, found.why
    assert bool(found.why) == ("difference" in found.source)
    assert found.decay_form == case.decay_form
    assert found.decay_error <= SAME_NUMBER
    assert found.rate_error <= SAME_NUMBER
    assert found.error <= case.tolerance, found.worst
    assert found.rebuilt <= SPACINGS


def check_published(cases: Sequence[Case]) -> None:
    """Assert that the published table says what is found, once `check` has found it."""
    packages = {case.package for case in cases}
    published = {said for said in said_in(DOCUMENT.read_text()) if said[0] in packages}
    assert published == {row.said for row in rows_of(cases)}, "run: make table"
