"""Every metric of every kind of matrix against its formula, within the catalogue's own bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from optgeom.geometry import METRICS, Context, measure_norms
from tests.geometry import oracles
from tests.geometry.examined import HANDED_THROUGH, Examined, bound_of, examined
from tests.geometry.families import cases

MEASURED = sorted(set(METRICS) - HANDED_THROUGH)
OF_ROWS = [
    *(name for name in METRICS if name.startswith("neuron_")),
    *("frobenius_norm", "update_rms"),
]


@pytest.mark.parametrize("name", cases())
def test_within_the_catalogues_bound(name: str) -> None:
    seen = examined(name)
    _assert_within(seen, {metric: seen.found[metric] for metric in MEASURED})


@pytest.mark.parametrize("name", cases())
def test_rows_alone_within_the_same_bounds(name: str) -> None:
    seen = examined(name)
    found = measure_norms(seen.case.matrix, Context(rows_only=True)).values
    _assert_within(seen, {metric: found[metric] for metric in OF_ROWS})


def _assert_within(seen: Examined, found: Mapping[str, Any]) -> None:
    """All metrics of a case in one test, each judged: one test each would be 10,000."""
    wrong = [said for metric, value in found.items() if (said := _wrong(metric, seen, value))]
    assert not wrong, "\n".join(wrong)


def _wrong(metric: str, seen: Examined, found: Any) -> str:
    exact = seen.exact[metric]
    if isinstance(exact, oracles.Counted):
        fewest, most = exact.interval(bound_of(metric, seen, exact.limit))
        return "" if fewest <= found <= most else f"{metric} {found!r} is not {fewest} to {most}"
    if exact is None or found is None:
        return "" if found is exact else f"{metric} {found!r} is not {exact!r}"
    error = abs(float(np.longdouble(found) - exact))
    bound = bound_of(metric, seen, float(exact))
    if error <= bound:  # False where either is NaN
        return ""
    return f"{metric} {found!r} is {error:.1e} from {exact!r}: {error / bound:.1f} bounds"
