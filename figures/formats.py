"""How numbers are written: never more than three significant digits outside CSV."""

from __future__ import annotations

import math


def number(value: float | None, *, digits: int = 3) -> str:
    """Write a number for people: ``0.083``, ``3.3``, ``12,400``, ``1.2e6``.

    Args:
        value: any number; None, NaN and infinities have a written form too.
        digits: significant digits, trailing zeros dropped.

    >>> [number(x) for x in (0.0832, 3.3, 12412.0, 1.23e6, 0.0, None)]
    ['0.0832', '3.3', '12,400', '1.23e6', '0', '\N{EM DASH}']
    >>> number(0.000012), number(0.4301, digits=2), number(1.0)
    ('1.2e-5', '0.43', '1')
    """
    if value is None or math.isnan(value):
        return "\N{EM DASH}"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    if value == 0:
        return "0"
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value):.{digits - 1}e}".partition("e")
    power = int(exponent)
    if power >= 6 or power <= -4:
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{sign}{mantissa}e{power}"
    rounded = float(f"{mantissa}e{power}")
    decimals = max(0, digits - 1 - power)
    text = f"{rounded:,.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return sign + text


def short(value: float | None) -> str:
    """Write a number inside a sentence or on a card: two digits, three from 100.

    >>> short(0.0546), short(3.27), short(126.4), short(12412.0)
    ('0.055', '3.3', '126', '12,400')
    """
    large = value is not None and abs(value) >= 99.5
    return number(value, digits=3 if large else 2)


def ratio(value: float) -> str:
    """Write a ratio with two digits (three from 100): ``5.2 ×``, never broken over lines.

    >>> ratio(5.1807).split(), ratio(126.4).split()
    (['5.2', '×'], ['126', '×'])
    """
    return f"{short(value)}\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}"


def whole(value: int) -> str:
    """Write a count or a step with separators.

    >>> whole(12400)
    '12,400'
    """
    return f"{value:,}"


def nice(value: float) -> float:
    """Round up to where an axis may end: 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten.

    >>> [nice(x) for x in (0.39, 0.41, 7.0, 0.0)]
    [0.4, 0.5, 8.0, 1.0]
    """
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = math.floor(math.log10(value))
    step = next((s for s in (1, 1.5, 2, 3, 4, 5, 6, 8) if s * 10.0**power >= value), 10)
    return float(f"{step * 10.0**power:.6g}")


def bound(value: float | None, *, is_bound: bool) -> str:
    """Write a number, prefixed with ``≥`` where it is only a lower bound.

    >>> bound(3.3, is_bound=False), bound(1.2e6, is_bound=True)
    ('3.3', '≥ 1.2e6')
    """
    written = number(value)
    return f"\N{GREATER-THAN OR EQUAL TO} {written}" if is_bound and value is not None else written


def power_of_two(exponent: int) -> str:
    """Write 2 ** exponent as a tick: ``1/4``, ``1``, ``4``.

    >>> [power_of_two(e) for e in (-2, 0, 2)]
    ['1/4', '1', '4']
    """
    return str(2**exponent) if exponent >= 0 else f"1/{2**-exponent}"


def hover_format(low: float, high: float) -> str:
    """Return the d3 format that writes values of an extent with three significant digits.

    Where a hover reads a number from an array, the browser writes it: no string per point.

    >>> hover_format(0.01, 12400.0), hover_format(1e-9, 1.0)
    (',.3~r', '.3~g')
    """
    size = max(abs(low), abs(high))
    small = min(abs(low), abs(high)) if low * high > 0 else size
    return ",.3~r" if small >= 1e-4 and size < 1e6 else ".3~g"
