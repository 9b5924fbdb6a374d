"""Block numbers beside the rows of a figure that has a row per layer, kind by kind."""

from __future__ import annotations

from collections.abc import Sequence

from optgeom.figures.arrays import Floats
from optgeom.figures.labels import note
from optgeom.figures.theme import Theme

HEIGHT = 12
"""Pixels that a number takes."""
SIZE = 10
"""Of its font."""


def block_numbers(
    blocks: Sequence[int | None],
    members: Sequence[int],
    begins: Floats,
    ends: Floats,
    *,
    theme: Theme,
) -> list[dict[str, object]]:
    """Write the numbers as annotations: of every row, or every second, fourth, ... that fits.

    Args:
        blocks: of each row; None where it is in no block.
        members: how many rows each kind has, in their order.
        begins: each row's upper edge in pixels from the top of the plot.
        ends: each row's lower edge; the last is the plot's height.
        theme: the colours.
    """
    found: list[dict[str, object]] = []
    start = 0
    for count in members:
        each = 1
        while each * (ends[start] - begins[start]) < HEIGHT:
            each *= 2
        for row in range(start, start + count, each):
            if blocks[row] is not None:
                middle = (begins[row] + ends[row]) / 2
                text = note(
                    str(blocks[row]),
                    theme,
                    x=0,
                    xref="paper",
                    xanchor="right",
                    xshift=-6,
                    y=float(1 - middle / ends[-1]),
                    yref="paper",
                    yanchor="middle",
                )
                text["font"] = {**text["font"], "size": SIZE}
                found.append(text)
        start += count
    return found
