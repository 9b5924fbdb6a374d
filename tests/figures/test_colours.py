"""Run colours stay apart for people with colour-vision deficiencies.

Deficiencies after Machado, Oliveira & Fernandes 2009 (severity 1, matrices for linear RGB);
distances are CIEDE2000 (Sharma, Wu & Dalal 2005), where 2.3 is a just noticeable difference.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from optgeom.figures.theme import DARK, LIGHT, Theme, scale, scale_stops

SEEN_BY = {
    "everyone": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear(color: str) -> np.ndarray:
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    ratio = to_xyz @ np.clip(rgb, 0, 1) / (to_xyz @ np.ones(3))
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return CIEDE2000 between two CIELAB colours."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    dl, dc = l2 - l1, c2 - c1
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    light, c = (l1 + l2) / 2, (c1 + c2) / 2
    h = h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    t = (
        1
        - 0.17 * np.cos(np.radians(h - 30))
        + 0.24 * np.cos(np.radians(2 * h))
        + 0.32 * np.cos(np.radians(3 * h + 6))
        - 0.20 * np.cos(np.radians(4 * h - 63))
    )
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * c, 1 + 0.015 * c * t
    bend = 60 * np.exp(-(((h - 275) / 25) ** 2))
    rt = -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * np.sin(np.radians(bend))
    parts = dl / sl, dc / sc, dh / sh
    return float(np.sqrt(sum(x * x for x in parts) + rt * parts[1] * parts[2]))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_distance_is_that_of_its_publication(
    one: tuple[float, ...], other: tuple[float, ...], expected: float
) -> None:
    assert distance(np.array(one), np.array(other)) == pytest.approx(expected, abs=1e-4)


# Three just noticeable differences between any two, six between the three optimizers' own colours.
LEAST, LEAST_RESERVED = 7.5, 14.0
themes = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


@themes
@pytest.mark.parametrize("eyes", SEEN_BY)
def test_run_colours_are_told_apart(theme: Theme, eyes: str) -> None:
    seen = [lab(SEEN_BY[eyes] @ linear(color)) for color in theme.runs]
    for (place, one), (other_place, other) in combinations(enumerate(seen), 2):
        least = LEAST_RESERVED if max(place, other_place) < 3 else LEAST
        pair = theme.runs[place], theme.runs[other_place]
        assert distance(one, other) >= least, pair


@themes
def test_run_colours_stand_out_from_the_ground(theme: Theme) -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    ground = weights @ linear(theme.ground) + 0.05
    for color in theme.runs:
        own = weights @ linear(color) + 0.05
        assert max(own, ground) / min(own, ground) >= 3, color


@themes
@pytest.mark.parametrize("eyes", SEEN_BY)
def test_scales_grow_evenly_to_every_eye_and_in_grey(theme: Theme, eyes: str) -> None:
    def lightness(name: str) -> list[float]:
        colors = [color for _, color in scale(theme, name)]  # type: ignore[arg-type]
        return [float(lab(SEEN_BY[eyes] @ linear(color))[0]) for color in colors]

    assert np.all(np.diff(lightness("sequential")) > 0)
    low, middle_low, middle, middle_high, high = lightness("diverging")
    falling = low < middle_low < middle > middle_high > high
    rising = low > middle_low > middle < middle_high < high
    assert falling if theme.name == "light" else rising


@themes
def test_stops_for_css_are_those_of_the_figures(theme: Theme) -> None:
    assert scale_stops(theme, "diverging") == tuple(
        f"{color} {100 * share:.0f}%" for share, color in theme.diverging
    )
    stops = scale_stops(theme, "sequential")
    assert (stops[0], stops[-1]) == ("#00224E 0%", "#FEE838 100%")
