"""All of torch.optim: the record is what a float64 twin applied, and the run keeps its bits."""

from __future__ import annotations

import pytest

from tests.optimizers.case import Case
from tests.optimizers.check import check, check_published
from tests.optimizers.torch_cases import CASES, CLASSES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_the_record_is_what_the_optimizer_applied(case: Case) -> None:
    check(case)


@pytest.mark.slow
def test_the_published_table_is_what_is_found() -> None:
    """In this file, where each case has been examined."""
    check_published(CASES)


def test_every_class_is_there() -> None:
    assert {case.optimizer for case in CASES} == set(CLASSES)


def test_what_updates_in_place_is_read_from_its_operations() -> None:
    for case in CASES:
        if case.optimizer != "LBFGS" and not case.form.startswith("fused"):
            assert case.source == "dispatch", case.key
