"""Every metric of every kind of matrix against its formula, within the catalogue's own bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optgeom.geometry import METRICS, Context, measure_norms
from tests.geometry import oracles
from tests.geometry.examined import HANDED_THROUGH, Examined, bound_of, examined
from tests.geometry.families import cases


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("metric", sorted(set(METRICS) - HANDED_THROUGH))
def test_within_the_catalogues_bound(metric: str, name: str) -> None:
    seen = examined(name)
    _assert_within(metric, seen, seen.found[metric])


@pytest.mark.parametrize("name", cases())
def test_rows_alone_within_the_same_bounds(name: str) -> None:
    seen = examined(name)
    found = measure_norms(seen.case.matrix, Context(rows_only=True)).values
    of_rows = [name for name in METRICS if name.startswith("neuron_")]
    for metric in (*of_rows, "frobenius_norm", "update_rms"):
        _assert_within(metric, seen, found[metric])


def _assert_within(metric: str, seen: Examined, found: Any) -> None:
    exact = seen.exact[metric]
    if isinstance(exact, oracles.Counted):
        fewest, most = exact.interval(bound_of(metric, seen, exact.limit))
        assert fewest <= found <= most
    elif exact is None:
        assert found is None
    else:
        assert found is not None
        error = abs(float(np.longdouble(found) - exact))
        bound = bound_of(metric, seen, float(exact))
        assert error <= bound, (
            f"{metric} {found!r} is {error:.1e} from {exact!r}: {error / bound:.1f} bounds"
        )
