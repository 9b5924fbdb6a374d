"""The learning rate: up, then down, never outside its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.trainer.config import Decay, ScheduleConfig
from optgeom.trainer.schedule import lr_factor


@given(
    steps=st.integers(2, 60),
    warmup=st.integers(0, 59),
    decay=st.sampled_from(["linear", "cosine", "constant"]),
    final=st.floats(0, 1),
)
def test_it_rises_to_the_peak_and_falls_to_the_final_fraction(
    steps: int, warmup: int, decay: Decay, final: float
) -> None:
    warmup = min(warmup, steps - 1)
    schedule = ScheduleConfig(steps=steps, warmup=warmup, decay=decay, final=final)
    factors = [lr_factor(step, schedule) for step in range(steps)]
    peak = max(warmup - 1, 0)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[peak] == 1.0
    assert min(factors) > 0 or final == 0
    assert factors[-1] == pytest.approx(1.0 if decay == "constant" else final)
    assert lr_factor(steps + 10, schedule) == pytest.approx(factors[-1])


def test_warm_up_is_linear_and_its_first_step_moves() -> None:
    schedule = ScheduleConfig(steps=10, warmup=4)
    assert [lr_factor(step, schedule) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_half_way_down() -> None:
    linear = ScheduleConfig(steps=101, warmup=0, decay="linear", final=0.2)
    cosine = ScheduleConfig(steps=101, warmup=0, decay="cosine", final=0.2)
    assert lr_factor(50, linear) == pytest.approx(0.6)
    assert lr_factor(50, cosine) == pytest.approx(0.6)
    assert lr_factor(25, cosine) > lr_factor(25, linear)


def test_wsd_stays_at_the_peak_and_falls_at_the_end() -> None:
    schedule = ScheduleConfig(steps=101, warmup=10, decay="wsd", cooldown=0.2, final=0.0)
    factors = [lr_factor(step, schedule) for step in range(101)]
    assert factors[9] == factors[50] == factors[80] == 1.0
    assert factors[90] == pytest.approx(0.5)
    assert factors[100] == 0.0
    assert lr_factor(1000, schedule) == 0.0
