from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optgeom.figures.names import (
    TIMES,
    by_kind,
    escape,
    layer_phrase,
    layer_place,
    layer_title,
    layer_titles,
    run_label,
    run_short,
    shorten,
)
from optgeom.traces.info import LayerInfo


def _layer(name: str, kind: str = "mlp.up", block: int | None = 3, **rest: object) -> LayerInfo:
    return LayerInfo(name, kind, block, (512, 128), "float32", "opt", 0, **rest)  # type: ignore[arg-type]


def test_a_layer_is_written_as_the_design_says() -> None:
    layer = _layer("blocks.3.mlp.up.weight")
    assert layer_title(layer) == f"block 3 · mlp.up · 512{TIMES}128"
    assert layer_place(layer) == "block 3 · mlp.up"
    assert layer_phrase(layer) == "mlp.up of block 3"


def test_an_unknown_kind_is_called_by_its_name() -> None:
    assert layer_place(_layer("h.3.w[left]", "other", split="left")) == "block 3 · h.3.w[left]"
    assert layer_title(_layer("codebook", "other", None)) == f"codebook · 512{TIMES}128"
    assert layer_phrase(_layer("codebook", "other", None)) == "codebook"


def test_a_split_is_named() -> None:
    layer = _layer("blocks.3.qkv[q]", "attention.qkv", split="q")
    assert layer_title(layer) == f"block 3 · attention.qkv[q] · 512{TIMES}128"


def test_a_split_that_the_kind_says_is_not_said_twice() -> None:
    assert layer_place(_layer("h.3.qkv[q]", "attention.q", split="q")) == "block 3 · attention.q"
    expert = _layer("h.3.experts.w13[7][gate]", "mlp.gate", split="7,gate")
    assert layer_place(expert) == "block 3 · mlp.gate[7]"
    assert expert.label == f"block 3 · mlp.gate[7] · 512{TIMES}128"


def test_titles_stay_apart() -> None:
    layers = [_layer("a.3.w1.weight"), _layer("a.3.w2.weight"), _layer("b", block=4)]
    titles = layer_titles(layers)
    assert len(set(titles.values())) == 3
    assert titles["b"] == f"block 4 · mlp.up · 512{TIMES}128"


@given(st.text(min_size=1, max_size=120), st.integers(3, 60))
def test_shortening_keeps_both_ends(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short[0] == text[0]
    assert short[-1] == text[-1]
    assert short == text if len(text) <= limit else "\N{HORIZONTAL ELLIPSIS}" in short


@given(st.text(max_size=40))
def test_no_name_is_markup(text: str) -> None:
    assert "<" not in escape(text)
    assert ">" not in escape(text)


def test_runs_are_written_in_the_fields_spelling() -> None:
    assert [run_label(run) for run in ("normuon", "adamw", "my-run")] == [
        "NorMuon",
        "AdamW",
        "my-run",
    ]
    assert run_short("x" * 80, limit=12) == "xxxxxx…xxxxx"


def test_kinds_come_in_the_order_of_a_forward_pass_and_layers_by_depth() -> None:
    layers = [
        _layer("d1", "mlp.down", 1),
        _layer("z", "zeta", 0),
        _layer("q1", "attention.q", 1),
        _layer("d0", "mlp.down", 0),
        _layer("q", "attention.q", None),
    ]
    groups = by_kind(layers)
    assert list(groups) == ["attention.q", "mlp.down", "zeta"]
    assert [layer.name for layer in groups["mlp.down"]] == ["d0", "d1"]
    assert [layer.name for layer in groups["attention.q"]] == ["q1", "q"]
