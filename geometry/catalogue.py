"""Every metric's name, unit, range, formula and source: the one table that all others read.

The docs page, the dashboard's tooltips, ``trace info --metrics`` and the columns of a trace come
from here. Importing it costs nothing: no torch, no scipy, no numpy.

>>> METRICS["condition_number"].formula
's_1 / s_r'
>>> columns("spectra")["resolved_rank"]
'int64'
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from optgeom.geometry.metric import Metric, Table
from optgeom.geometry.norm_metrics import NORM_METRICS
from optgeom.geometry.spectrum_metrics import SPECTRUM_METRICS
from optgeom.traces.errors import OptgeomError

SYMBOLS = (
    "A is the m x n matrix, rows = neurons (output features); r = min(m, n); s_1 >= ... >= s_r are "
    "its singular values; p_i = s_i / sum(s); q_i = s_i^2 / sum(s^2); rho_j is the norm of row j; "
    "u_j = rho_j / mean(rho); W the weight before the step; G the gradient; O the orthogonalized "
    "momentum; P = U_k V_k^T the exact polar factor."
)

_ENTRIES = (*NORM_METRICS, *SPECTRUM_METRICS)

METRICS: Mapping[str, Metric] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
TABLES: tuple[Table, ...] = ("metrics", "spectra")


def metric_named(name: str) -> Metric:
    """The catalogue's entry of a metric.

    Raises:
        OptgeomError: if there is none; names the nearest.
    """
    if name not in METRICS:
        close = difflib.get_close_matches(name, METRICS, n=3) or list(METRICS)[:3]
        raise OptgeomError(f"no metric {name!r} in the catalogue: try {' or '.join(close)}")
    return METRICS[name]


def columns(table: Table) -> dict[str, str]:
    """Columns that one table of a trace gets from the catalogue.

    Args:
        table: "metrics" for the norms clock, "spectra" for the spectra clock.

    Returns:
        Arrow type by column name, in the catalogue's order.

    Raises:
        OptgeomError: if there is no such table.
    """
    if table not in TABLES:
        raise OptgeomError(f"the catalogue has the tables {', '.join(TABLES)}, not {table!r}")
    return {entry.name: entry.dtype for entry in _ENTRIES if entry.table == table}
