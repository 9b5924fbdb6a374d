"""The mathematics: a matrix to a spectrum, a spectrum to a number, a trace to a table.

torch appears only in the kernels; summaries of spectra and norms are numpy. Names resolve on
first use, so that reading the catalogue imports no torch. `measure`, `analyze`, `compare` and
`diagnose` are modules here; the functions of those names are in `optgeom`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.geometry'")

if TYPE_CHECKING:
    from optgeom.geometry.catalogue import METRICS, columns
    from optgeom.geometry.compare import by_algorithm, by_kind
    from optgeom.geometry.comparison.result import Comparison
    from optgeom.geometry.context import Context
    from optgeom.geometry.counterfactual.result import WhatIf
    from optgeom.geometry.counterfactual.rule import Rule
    from optgeom.geometry.diagnosis.finding import Diagnosis, Evidence, Finding
    from optgeom.geometry.finish import NormsRow, finish_norms
    from optgeom.geometry.floor import difference_floor, dispatch_floor
    from optgeom.geometry.measure import SpectrumRow, measure_norms, measure_spectrum
    from optgeom.geometry.metric import Band, Metric
    from optgeom.geometry.partial import Partial, norms_pass

_HOMES = {
    "METRICS": "catalogue",
    "Band": "metric",
    "Comparison": "comparison.result",
    "Context": "context",
    "Diagnosis": "diagnosis.finding",
    "Evidence": "diagnosis.finding",
    "Finding": "diagnosis.finding",
    "Metric": "metric",
    "NormsRow": "finish",
    "Partial": "partial",
    "Rule": "counterfactual.rule",
    "SpectrumRow": "measure",
    "WhatIf": "counterfactual.result",
    "by_algorithm": "compare",
    "by_kind": "compare",
    "columns": "catalogue",
    "difference_floor": "floor",
    "dispatch_floor": "floor",
    "finish_norms": "finish",
    "measure_norms": "measure",
    "measure_spectrum": "measure",
    "norms_pass": "partial",
}

__all__ = [
    "METRICS",
    "Band",
    "Comparison",
    "Context",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Metric",
    "NormsRow",
    "Partial",
    "Rule",
    "SpectrumRow",
    "WhatIf",
    "by_algorithm",
    "by_kind",
    "columns",
    "difference_floor",
    "dispatch_floor",
    "finish_norms",
    "measure_norms",
    "measure_spectrum",
    "norms_pass",
]


if not TYPE_CHECKING:  # to a type checker, a name that is not there is an error

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'optgeom.geometry' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"optgeom.geometry.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
