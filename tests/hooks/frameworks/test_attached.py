"""What the callbacks share, without a framework: its steps, and whatever it logs."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optgeom.hooks.frameworks.attached import Attached


@pytest.fixture
def attached(tmp_path: Path, bag: Callable[..., Any]) -> Any:
    def make(step: int, **settings: Any) -> Attached:
        model = bag()
        one = Attached(tmp_path / "trace", budget=None, **settings)
        one.attach(model, [torch.optim.SGD(model.parameters(), lr=0.1)], step)
        return one

    return make


@pytest.mark.parametrize(
    ("given", "step", "begins"),
    [({"start_step": 500}, 100, 500), ({"start_step": 0}, 7, 0), ({"start_step": None}, 7, 7)],
)
def test_a_given_start_is_taken_before_the_framework_s(
    given: dict[str, Any], step: int, begins: int, attached: Any, opened: Any
) -> None:
    one = attached(step, **given)
    assert one.recorder.step == begins
    one.detach()
    assert [attempt.start_step for attempt in opened().info.attempts] == [begins]


def test_numbers_of_any_type_are_recorded_under_any_name(attached: Any, opened: Any) -> None:
    one = attached(0)
    logged = {
        "self": 1.0,
        "step": 2,
        3: 3.0,
        ("a", 4): 4,
        "float32": np.float32(5),
        "int64": np.int64(6),
        "zero_d": np.array(7.0),
        "tensor": torch.tensor(8),
        "fraction": Fraction(9),
        "decimal": Decimal(10),
    }
    one.follow(lambda: logged)
    assert one.recorder.failure is None
    one.detach()
    names = [str(name) for name in logged]
    found = {name: opened().scalars(name)["value"].to_pylist() for name in names}
    assert found == {name: [float(value)] for name, value in zip(names, range(1, 11), strict=True)}


def test_what_is_no_number_stays_out_and_raises_nothing(attached: Any, opened: Any) -> None:
    one = attached(0)
    odd = ("text", [1.0], None, True, np.ones(2), torch.ones(2), 10**400, 1j, object())
    for place, value in enumerate(odd):
        one.follow(lambda place=place, value=value: {"odd": value, f"after{place}": 1.0})
    one.follow(lambda: 5)  # type: ignore[arg-type, return-value]
    one.follow(lambda: {"late": 1.0})
    assert one.recorder.failure is None
    one.detach()
    trace = opened()
    assert trace.scalars("odd").num_rows == 0
    assert [trace.scalars(f"after{place}").num_rows for place in range(len(odd))] == [1] * len(odd)
    assert trace.scalars("late").num_rows == 0  # what cannot be read is not asked any more


def test_a_recorder_s_own_log_takes_any_name(watched: Any, bag: Any, opened: Any) -> None:
    model = bag()
    with watched(model, torch.optim.SGD(model.parameters(), lr=0.1)) as recorder:
        recorder.log(**{"self": 1.0})
    assert opened().scalars("self")["value"].to_pylist() == [1.0]
