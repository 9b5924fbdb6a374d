from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.figures.formats import bound, nice, number, power_of_two, ratio, short, whole

FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


def _value(text: str) -> float:
    return float(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))


@given(FINITE)
def test_never_more_than_three_significant_digits(value: float) -> None:
    mantissa = number(value).partition("e")[0]
    digits = re.sub(r"[^0-9]", "", mantissa).strip("0")
    assert len(digits) <= 3


@given(FINITE.filter(lambda x: x == 0 or abs(x) > 1e-290))
def test_reads_back_within_half_a_unit_of_the_third_digit(value: float) -> None:
    assert math.isclose(_value(number(value)), value, rel_tol=5.1e-3, abs_tol=0.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.083, "0.083"),
        (3.3, "3.3"),
        (12400, "12,400"),
        (1.2e6, "1.2e6"),
        (999.9, "1,000"),
        (999_999, "1e6"),
        (0.00099996, "0.001"),
        (float("nan"), "\N{EM DASH}"),
        (None, "\N{EM DASH}"),
        (math.inf, "\N{INFINITY}"),
        (-2.5, "\N{MINUS SIGN}2.5"),
    ],
)
def test_as_the_design_writes_them(value: float | None, text: str) -> None:
    assert number(value) == text


def test_small_numbers_in_sentences_have_two_digits_and_large_ones_three() -> None:
    assert [short(x) for x in (0.4321, 5.18, 99.4, 99.6, 126.4)] == [
        "0.43",
        "5.2",
        "99",
        "99.6",
        "126",
    ]


def test_a_ratio_does_not_break_over_lines() -> None:
    assert ratio(5.1807) == "5.2\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}"


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_an_axis_ends_at_or_above_its_largest_value(value: float) -> None:
    assert value <= nice(value) * (1 + 1e-5)
    assert nice(value) <= 2 * value


def test_bounds_ticks_and_counts() -> None:
    assert bound(1.2e6, is_bound=True) == "\N{GREATER-THAN OR EQUAL TO} 1.2e6"
    assert bound(None, is_bound=True) == "\N{EM DASH}"
    assert [power_of_two(e) for e in range(-2, 3)] == ["1/4", "1/2", "1", "2", "4"]
    assert whole(1240) == "1,240"
