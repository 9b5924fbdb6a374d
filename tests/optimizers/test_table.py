"""The published table says what the suite finds."""

from __future__ import annotations

import pytest

from tests.optimizers import pytorch_optimizer_cases, torch_cases
from tests.optimizers.case import Case
from tests.optimizers.table import DOCUMENT, rows_of, said_in


@pytest.mark.slow
@pytest.mark.parametrize("cases", [torch_cases.CASES, pytorch_optimizer_cases.CASES])
def test_the_published_table_is_what_is_found(cases: tuple[Case, ...]) -> None:
    package = cases[0].package
    published = {said for said in said_in(DOCUMENT.read_text()) if said[0] == package}
    assert published == {row.said for row in rows_of(cases)}, "run: make table"
