"""The optimizers that people install besides: the record is what they applied."""

from __future__ import annotations

import pytest

from tests.optimizers.case import Case
from tests.optimizers.check import check
from tests.optimizers.package_cases import CASES, HEAVYBALL_BASES, PACKAGES, classes_of
from tests.optimizers.table import DOCUMENT, rows_of, said_in


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.package}: {case.key}")
def test_the_record_is_what_the_optimizer_applied(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("module", sorted(PACKAGES.keys() - {"pytorch_optimizer"}))
def test_every_class_is_there(module: str) -> None:
    known = {case.optimizer for case in CASES if case.package == PACKAGES[module]}
    assert set(classes_of(module)) - set(HEAVYBALL_BASES) <= known


@pytest.mark.slow
def test_the_published_table_is_what_is_found() -> None:
    published = {
        said for said in said_in(DOCUMENT.read_text()) if said[0] in set(PACKAGES.values())
    }
    assert published == {row.said for row in rows_of(CASES)}, "run: make table"
