"""Callbacks for the frameworks that run the training loop: docs/frameworks.md.

Each is a class of its framework's, made on first use, so that importing optgeom imports no
framework.

>>> import optgeom.frameworks
>>> sorted(optgeom.frameworks.__all__)
['HuggingFaceCallback', 'LightningCallback']
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "HuggingFaceCallback": "optgeom.hooks.frameworks.hugging_face",
    "LightningCallback": "optgeom.hooks.frameworks.lightning",
}

__all__ = ["HuggingFaceCallback", "LightningCallback"]  # noqa: F822 -- made on first use


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'optgeom.frameworks' has no attribute {name!r}")
    return importlib.import_module(_HOMES[name]).callback_class()


def __dir__() -> list[str]:
    return __all__
