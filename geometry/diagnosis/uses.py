"""Which thresholds a rule uses, read from its code: no list by hand goes out of date."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType

from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.thresholds import THRESHOLDS, Threshold

_PACKAGE = __name__.rpartition(".")[0]


def thresholds_of(rule: Rule) -> tuple[Threshold, ...]:
    """The thresholds that a rule's code names, or that of the functions which it calls.

    Args:
        rule: One of the rules.

    Returns:
        In the order of the page.
    """
    used: set[str] = set()
    seen: set[int] = set()
    waiting: list[object] = [rule.judge]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Threshold):
            used.add(one.name)
        elif id(one) not in seen:
            seen.add(id(one))
            waiting += _named_in(one)
    return tuple(one for one in THRESHOLDS if one.name in used)


def _named_in(one: object) -> list[object]:
    if isinstance(one, property):
        return [one.fget]
    if isinstance(one, classmethod | staticmethod):
        return [one.__func__]
    if isinstance(one, type) and one.__module__.startswith(_PACKAGE):
        return list(vars(one).values())
    if isinstance(one, FunctionType) and one.__module__.startswith(_PACKAGE):
        known = one.__globals__
        return [known[name] for name in _names(one.__code__) if name in known]
    return []


def _names(code: CodeType) -> Iterator[str]:
    """Names that code looks up, and those of functions within it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
