"""What is known of fused matrices: in which order and of what size q, k, v or gate, up lie.

The same name means different layouts in different models, so a class is asked where one is known
to differ; where nothing is sure, the sizes must be given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from optgeom.hooks.errors import WatchError
from optgeom.hooks.stored import Place
from optgeom.hooks.views import SHORT_FORMS, Fused, View

_PER_HEAD = re.compile(
    r"(GPTNeoX|GPTNeoXJapanese|Bloom|Persimmon|Falcon|MiniMaxLightning|GPTBigCode)"
    r"\w*Attention\w*"
)
"""Classes of transformers whose every head keeps its own q, k and v."""


def fused(view: View, shape: tuple[int, int], place: Place) -> Fused | None:
    """The pieces that a view asks for, with their sizes; None if it asks for none.

    Args:
        view: the user's.
        shape: (neurons, inputs) of the matrix to be cut.
        place: where it stands.

    Raises:
        WatchError: a short form of a matrix whose layout is not known.
    """
    if view.split is None:
        return None
    if isinstance(view.split, Mapping):
        return Fused(dict(view.split), view.repeats)
    if view.repeats == 1:
        known = _qkv(shape, place) if view.split == "qkv" else _gate_up(shape[0], place)
        if known is not None:
            return known
    return _equal(SHORT_FORMS[view.split], shape[0], view.repeats)


def _equal(names: tuple[str, ...], rows: int, repeats: int) -> Fused:
    size, rest = divmod(rows, repeats * len(names))
    if rest or not size:
        times = f", {repeats} times" if repeats > 1 else ""
        raise WatchError(
            f"its {rows} neurons are no {len(names)} equal parts{times}; write the sizes: "
            f"View(split={{{', '.join(f'{name!r}: ...' for name in names)}}})"
        )
    return Fused(dict.fromkeys(names, size), repeats)


def _gate_up(rows: int, place: Place) -> Fused | None:
    """Halves, but for the experts of GPT-OSS, where gate and up take turns."""
    concatenated = getattr(place.module, "is_concatenated", None)  # transformers from 5.0 on
    if concatenated is False or type(place.module).__name__ == "GptOssExperts":
        return _equal(SHORT_FORMS["gate_up"], rows, rows // 2)
    return None


def _qkv(shape: tuple[int, int], place: Place) -> Fused | None:
    """The layout that the module around a fused matrix tells; None: equal thirds, as it looks."""
    rows, columns = shape
    around = place.parent or place.module
    name, config = type(around).__name__, getattr(around, "config", None)
    heads = _count(around, config, "num_attention_heads", "num_heads", "n_heads", "n_head")
    groups = _count(around, config, "num_key_value_heads", "num_kv_heads", "n_kv_heads")
    if isinstance(place.module, nn.MultiheadAttention):
        return None
    if name.startswith("CodeGen"):  # four parts, each of q, v, k
        return Fused(dict.fromkeys(("q", "v", "k"), rows // 12), 4)
    if _PER_HEAD.fullmatch(name):
        if heads is None:
            raise WatchError(_unknown(rows, f"{name}, which does not tell its heads"))
        if _says(around, config, "new_decoder_architecture") and groups is not None:
            return _grouped(rows, heads, groups, repeats=groups)
        if _says(around, config, "multi_query"):
            return _grouped(rows, heads, 1)
        return _equal(SHORT_FORMS["qkv"], rows, heads)
    if place.called == "query_key_value":
        raise WatchError(
            _unknown(rows, f"query_key_value of {name}, where heads often keep their own")
        )
    if heads is not None and groups is not None:
        return _grouped(rows, heads, groups)
    if rows != 3 * columns:
        raise WatchError(_unknown(rows, f"{name} of {columns} inputs"))
    return None


def _grouped(rows: int, heads: int, groups: int, *, repeats: int = 1) -> Fused:
    """Fewer heads of k and v than of q; `repeats` parts of their own q, k and v."""
    size, rest = divmod(rows, heads + 2 * groups)
    if rest:
        raise WatchError(
            _unknown(rows, f"{heads} heads of q and {groups} of k and v, which they do not fit")
        )
    return Fused(
        {
            "q": heads // repeats * size,
            "k": groups // repeats * size,
            "v": groups // repeats * size,
        },
        repeats,
    )


def _unknown(rows: int, what: str) -> str:
    return (
        f"split='qkv' does not know how its {rows} neurons lie in {what}; write the sizes: "
        "View(split={'q': ..., 'k': ..., 'v': ...}), with repeats=heads where every head keeps "
        "its own"
    )


def _count(around: nn.Module, config: Any, *names: str) -> int | None:
    """The first of several attributes that is a positive integer, of a module or its config."""
    for name in names:
        for holder in (around, config):
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _says(around: nn.Module, config: Any, name: str) -> bool:
    return getattr(around, name, getattr(config, name, False)) is True
