"""What run.json may say: the types and sizes of its entries, compared before they are used.

Its digest tells a changed byte from a changed mind, not a friend from a stranger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optgeom.traces import limits
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.limits import refuse

Check = Callable[[Any], bool]
_SHOWN = 60
_MOST_DIMENSIONS = 16


def _is_integer(value: Any) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _is_size(value: Any) -> bool:
    # numpy's integers were written as text
    digits = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19
    return digits or (type(value) is int and 0 <= value < 1 << 62)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_pairs(value: Any) -> bool:
    return isinstance(value, dict)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_size, value))


def _is_stored(value: Any) -> bool:
    sizes = isinstance(value, list) and len(value) <= _MOST_DIMENSIONS
    return sizes and all(map(_is_size, value))


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_block(value: Any) -> bool:
    return value is None or (type(value) is int and -(1 << 15) <= value < 1 << 15)


def _is_columns(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, dict) and all(map(_is_text, one.values())) for one in value.values()
    )


_RUN: Mapping[str, tuple[Check, str]] = {
    "run": (_is_text, "a text"),
    "created": (_is_text, "a text"),
    "versions": (_is_pairs, "an object"),
    "command": (_list_of(_is_text), "a list of texts"),
    "world_size": (_is_integer, "an integer"),
    "capture": (_is_pairs, "an object"),
    "optimizers": (_list_of(_is_pairs), "a list of objects"),
    "layers": (_list_of(_is_pairs), "a list of objects"),
    "config": (_is_pairs, "an object"),
    "columns": (_is_columns, "an object of tables, their columns and types"),
    "attempts": (_list_of(_is_pairs), "a list of objects"),
    "computed": (_is_pairs, "an object"),
}
_LAYER: Mapping[str, tuple[Check, str]] = {
    "name": (_is_text, "a text"),
    "kind": (_is_text, "a text"),
    "block": (_is_block, "a small integer"),
    "shape": (_is_shape, "two sizes"),
    "dtype": (_is_text, "a text"),
    "optimizer": (_is_text, "a text"),
    "group": (_is_integer, "an integer"),
    "algorithm": (_or_null(_is_text), "a text"),
    "neuron_axis": (_or_null(_is_text), "a text"),
    "transposed": (lambda value: isinstance(value, bool), "true or false"),
    "split": (_or_null(_is_text), "a text"),
    "placement": (_is_text, "a text"),
    "parameter": (_or_null(_is_text), "a text"),
    "stored": (_is_stored, "a list of sizes"),
}
_OPTIMIZER: Mapping[str, tuple[Check, str]] = {
    "name": (_is_text, "a text"),
    "type": (_is_text, "a text"),
    "groups": (_list_of(_is_pairs), "a list of objects"),
}
_ATTEMPT: Mapping[str, tuple[Check, str]] = {
    "attempt": (lambda value: _is_integer(value) and 0 <= value < 1 << 31, "a small integer"),
    "start_step": (_is_integer, "an integer"),
    "created": (_is_text, "a text"),
    "closed": (_or_null(_is_text), "a text"),
    "failed": (_or_null(_is_text), "a text"),
}


def check_bytes(data: bytes, name: str) -> None:
    """Raise DamagedTrace if run.json would take more memory than any run's does.

    Args:
        data: the whole file.
        name: how to call it in errors.
    """
    refuse(name, "bytes", len(data), limits.MAX_RUN_BYTES)
    refuse(name, "values", sum(map(data.count, (b",", b"[", b"{"))), limits.MAX_RUN_VALUES)


def check_depth(content: Any, name: str) -> None:
    """Raise DamagedTrace if values nest deeper than any run's do."""
    level = [content]
    for depth in range(1, limits.MAX_RUN_DEPTH + 2):
        refuse(name, "lists within lists", depth, limits.MAX_RUN_DEPTH)
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [value for one in inner for value in one if isinstance(value, (dict, list))]
        if not level:
            return


def check_content(content: Mapping[str, Any], name: str) -> None:
    """Raise DamagedTrace unless the entries of run.json have the types and sizes of a run's.

    Args:
        content: as it was parsed; entries that are not known are not looked at.
        name: how to call the file in errors.
    """
    _check(content, _RUN, "", name)
    layers = content.get("layers", [])
    refuse(name, "layers", len(layers), limits.MAX_LAYERS)
    names = set()
    for at, layer in enumerate(layers):
        _check(layer, _LAYER, f"layers[{at}].", name)
        for side in layer.get("shape", ()):
            refuse(name, f"rows or columns in layers[{at}]", int(side), limits.MAX_SIDE)
        names.add(layer.get("name"))
    if len(names) < len(layers):
        raise DamagedTrace(f"{name} has two layers of one name: no run wrote it")
    for key, checks in (("optimizers", _OPTIMIZER), ("attempts", _ATTEMPT)):
        for at, one in enumerate(content.get(key, [])):
            _check(one, checks, f"{key}[{at}].", name)
    declared = content.get("columns", {})
    refuse(name, "columns", sum(map(len, declared.values())), limits.MAX_COLUMNS)


def _check(
    content: Mapping[str, Any], checks: Mapping[str, tuple[Check, str]], path: str, name: str
) -> None:
    for key, (check, what) in checks.items():
        if key in content and not check(content[key]):
            raise DamagedTrace(
                f"{name} has {ascii(content[key])[:_SHOWN]} as {path}{key}, which is not {what}: "
                "no run wrote it"
            )
