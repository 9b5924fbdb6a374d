"""How layers and runs are written: "block 3 · mlp.up · 512 × 128", never a cut end."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable

from optgeom.traces.info import LayerInfo

DOT = " \N{MIDDLE DOT} "
TIMES = " \N{MULTIPLICATION SIGN} "

KIND_ORDER = (
    "attention.qkv",
    "attention.q",
    "attention.k",
    "attention.v",
    "attention.kv",
    "attention.o",
    "mlp.router",
    "mlp.gate_up",
    "mlp.up",
    "mlp.gate",
    "mlp.down",
    "lora.a",
    "lora.b",
    "conv",
    "embedding",
    "head",
    "other",
)
_RUNS = {
    "normuon": "NorMuon",
    "muon": "Muon",
    "adamw": "AdamW",
    "sgd": "SGD",
    "aurora": "Aurora",
}


def escape(text: str) -> str:
    """Escape a name for plotly's small HTML: no name of a layer or run is ever markup.

    >>> escape("<b>x</b>")
    '&lt;b&gt;x&lt;/b&gt;'
    """
    return html.escape(text, quote=False)


def shorten(text: str, limit: int) -> str:
    """Shorten in the middle, since ends tell layers apart.

    >>> shorten("transformer.blocks.3.mlp.up.weight", 17)
    'transfor…p.weight'
    """
    if len(text) <= limit:
        return text
    keep = limit - 1
    head = keep - keep // 2
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - keep // 2 :]}"


def run_label(run: str) -> str:
    """Return a run's name as it is written; the field's spelling for its optimizers.

    >>> run_label("normuon"), run_label("lr 0.02"), run_label("muon+normuon")
    ('NorMuon', 'lr 0.02', 'Muon+NorMuon')
    """
    return "+".join(_RUNS.get(part.lower(), part) for part in run.split("+"))


def run_short(run: str, *, limit: int = 16) -> str:
    """Return a run's written name where room is short: at a line's end, on a card.

    >>> run_short("sweep-2026-11-22-normuon-lr-0.01-seed-1")
    'sweep-20…-seed-1'
    """
    return shorten(run_label(run), limit)


def layer_part(layer: LayerInfo) -> str:
    """Return what a layer is within its block: its kind, or its name where no kind is known."""
    part = layer.name if layer.kind == "other" else layer.kind
    return f"{part}[{layer.piece}]" if layer.piece and layer.kind != "other" else part


def layer_place(layer: LayerInfo, *, limit: int = 48) -> str:
    """Return a layer's display name without its shape, such as ``block 3 · mlp.up``."""
    part = shorten(layer_part(layer), limit)
    return part if layer.block is None else f"block {layer.block}{DOT}{part}"


def layer_title(layer: LayerInfo, *, limit: int = 48) -> str:
    """Return a layer's display name, such as ``block 3 · mlp.up · 512 × 128``."""
    rows, columns = layer.shape
    return f"{layer_place(layer, limit=limit)}{DOT}{rows}{TIMES}{columns}"


def layer_phrase(layer: LayerInfo) -> str:
    """Return a layer's name inside a sentence: ``mlp.up of block 3``."""
    part = shorten(layer_part(layer), 48)
    return part if layer.block is None else f"{part} of block {layer.block}"


def layer_stage(layer: LayerInfo, stage: str) -> str:
    """Return a layer in a text alternative: ``block 3 · mlp.up``, with any stage but the update."""
    place = layer_place(layer)
    return place if stage == "update" else f"{place} ({stage.replace('_', ' ')})"


def layer_titles(layers: Iterable[LayerInfo], *, limit: int = 48) -> dict[str, str]:
    """Return a display name per layer; layers that would share one also carry their full name."""
    everything = list(layers)
    plain = {layer.name: layer_title(layer, limit=limit) for layer in everything}
    shared = Counter(plain.values())
    return {
        name: title if shared[title] == 1 else f"{title}{DOT}{shorten(name, limit)}"
        for name, title in plain.items()
    }


def by_kind(layers: Iterable[LayerInfo]) -> dict[str, list[LayerInfo]]:
    """Group layers by kind, kinds in the order of a forward pass, layers by depth."""
    groups: dict[str, list[LayerInfo]] = {}
    for layer in layers:
        groups.setdefault(layer.kind, []).append(layer)
    known = {kind: place for place, kind in enumerate(KIND_ORDER)}
    return {
        kind: sorted(groups[kind], key=lambda layer: (layer.block is None, layer.block or 0))
        for kind in sorted(groups, key=lambda kind: (known.get(kind, len(known)), kind))
    }
