"""The packages of `make optimizers` are not in the development environment."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("heavyball") else ["package_cases.py", "test_packages.py"]
