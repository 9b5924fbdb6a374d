"""The optimizers that people install besides: the record is what they applied."""

from __future__ import annotations

import pytest

from tests.optimizers.case import Case
from tests.optimizers.check import check, check_published
from tests.optimizers.package_cases import CASES, HEAVYBALL_BASES, PACKAGES, classes_of


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.package}: {case.key}")
def test_the_record_is_what_the_optimizer_applied(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("module", sorted(PACKAGES.keys() - {"pytorch_optimizer"}))
def test_every_class_is_there(module: str) -> None:
    known = {case.optimizer for case in CASES if case.package == PACKAGES[module]}
    assert set(classes_of(module)) - set(HEAVYBALL_BASES) <= known


@pytest.mark.slow
def test_the_published_table_is_what_is_found() -> None:
    check_published(CASES)
