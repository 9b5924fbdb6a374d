"""Optimizers whose bits a dispatch mode would change: those that ask for singular values alone.

Under any dispatch mode PyTorch computes the singular vectors beside `svdvals` and the spectral
`matrix_norm`, by another algorithm with other last bits. Such optimizers are read from
differences, without the mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

SPECTRAL = frozenset({"svdvals", "matrix_norm", "cond", "matrix_rank"})
"""Functions of torch.linalg that ask for singular values alone."""

WITH_VECTORS = frozenset({"svd", "pinv", "lstsq"})
"""Functions that compute the vectors anyway, and so keep their bits."""

SVD = "aten::_linalg_svd"
"""What they, and everything that wants the vectors too, arrive as under a mode."""


def names_any(optimizer: Any, wanted: frozenset[str]) -> bool:
    """Whether an optimizer's code names a function, itself or in what it calls.

    Args:
        optimizer: whose class and bases are searched, torch.optim.Optimizer and object left out.
        wanted: the names.
    """
    seen: set[CodeType] = set()
    return any(
        _code_names(function, wanted, seen)
        for cls in type(optimizer).__mro__[:-1]
        if cls.__module__ != "torch.optim.optimizer"
        for function in _functions(cls)
    )


def _code_names(function: FunctionType, wanted: frozenset[str], seen: set[CodeType]) -> bool:
    while isinstance(wrapped := getattr(function, "__wrapped__", None), FunctionType):
        function = wrapped
    if function.__code__ in seen:
        return False
    seen.add(function.__code__)
    names = {name for code in _nested(function.__code__) for name in code.co_names}
    if names & wanted:
        return True
    package = _package_of(function)
    return any(
        _code_names(called, wanted, seen)
        for named in map(function.__globals__.get, names)
        for called in _functions(named)
        if _package_of(called) == package
    )


def _package_of(function: FunctionType) -> str:
    return str(function.__module__ or "").partition(".")[0]  # None in code that was exec'ed


def _functions(named: object) -> Iterator[FunctionType]:
    """A function itself; of a class, such as a projector that is kept in the state, its own."""
    for member in vars(named).values() if isinstance(named, type) else (named,):
        function = getattr(member, "__func__", member)
        if isinstance(function, FunctionType):
            yield function


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
