"""Shared by the audit's tests: one way to audit without two ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from optgeom.hooks.audit import audit
from optgeom.hooks.auditing.report import AuditReport


@pytest.fixture
def alone() -> Callable[..., AuditReport]:
    """``alone(factory)``: the audit in this process only."""
    return partial(audit, ranks=False)
