"""Which parameters are captured, and how they are seen as matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from optgeom.hooks import View, WatchError
from optgeom.hooks.layers import Layer, select
from optgeom.traces.info import dump, parse


class Conv1D(nn.Module):
    """Linear with weights (in, out), as Hugging Face's GPT-2 has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, 4)
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn": nn.ModuleDict({"c_attn": Conv1D(4, 12)})}) for _ in range(2)
        )
        self.up = nn.ConvTranspose1d(4, 2, 3)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.frozen = nn.Linear(4, 4)
        self.codes = nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))
        self.empty = nn.Parameter(torch.zeros(3, 0))


def sgd(model: nn.Module, **kwargs: Any) -> torch.optim.Optimizer:
    rest = [p for name, p in model.named_parameters() if not name.startswith("frozen")]
    return torch.optim.SGD(rest, lr=0.1, **kwargs)


def names(model: nn.Module, layers: Any = None) -> list[str]:
    return [layer.name for layer in select(model, [sgd(model)], layers)[0]]


ATTENTION = ["blocks.0.attn.c_attn", "blocks.1.attn.c_attn"]


def test_every_parameter_is_decided_and_every_refusal_has_a_reason() -> None:
    model = Model()
    layers, decisions = select(model, [sgd(model)], None)
    assert [layer.name for layer in layers] == ["stem", *ATTENTION, "up", "head"]
    reasons = {d.name: d.reason for d in decisions if not d.captured}
    assert reasons.keys() | {layer.name for layer in layers} == {
        name.removesuffix(".weight") for name, _ in model.named_parameters()
    }
    assert reasons["tokens"].startswith("embeddings are off")
    assert reasons["stem.bias"] == reasons["norm"] == "not a matrix"
    assert reasons["frozen"] == "the watched optimizer does not hold it"
    assert reasons["codes"] == "torch.complex64 weights are not captured yet"
    assert reasons["empty"] == "it has no entries"


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("attention.qkv", ATTENTION),
        ("embedding", ["tokens"]),
        ("conv", ["stem", "up"]),
        ("attention", ATTENTION),
        ("*", ["stem", *ATTENTION, "up", "head"]),
        (["embedding", "*"], ["tokens", "stem", *ATTENTION, "up", "head"]),
        (r"blocks\.1\.", ATTENTION[1:]),
        (["head", r"^blocks\.0"], [ATTENTION[0], "head"]),
        (lambda name, parameter: parameter.shape == (10, 4), ["tokens", "head"]),
    ],
)
def test_filters_by_kind_pattern_and_function(layers: Any, expected: list[str]) -> None:
    assert names(Model(), layers) == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("mlp.up", "layers='mlp.up' names no matrix that is updated; there are: tokens, stem"),
        (["head", "attn2"], "layers='attn2' names no matrix"),
        ("(", r"layers takes regular expressions or kinds of layer, got '\('"),
        ([3], "layers takes regular expressions or kinds of layer, got 3"),
        (lambda name, parameter: False, "nothing to capture: .*layers= does not name it"),
        ("frozen", "layers='frozen' names no matrix that is updated"),
    ],
)
def test_a_filter_that_names_nothing_is_refused(layers: Any, message: str) -> None:
    with pytest.raises(WatchError, match=message) as error:
        names(Model(), layers)
    assert "\n" not in str(error.value)


def test_tied_weights_are_one_layer_and_an_embedding() -> None:
    model = Model()
    model.head.weight = model.tokens.weight
    assert names(model) == ["stem", *ATTENTION, "up"]
    assert names(model, "embedding") == ["tokens"]
    decision = next(d for d in select(model, [sgd(model)])[1] if d.name == "tokens")
    assert decision.notes == ("tied to head",)


def test_lazy_modules_say_what_to_do() -> None:
    model = nn.LazyLinear(3, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(WatchError, match="watch after the first forward pass"):
        select(model, [optimizer], None)


def test_two_parameters_that_clean_to_one_name_keep_their_full_names() -> None:
    model = nn.Module()
    model.inner = nn.Module()
    model.inner.module = nn.Module()
    model.inner.module.proj = nn.Linear(2, 2, bias=False)
    model.inner.proj = nn.Linear(2, 3, bias=False)
    assert names(model) == ["inner.module.proj.weight", "inner.proj.weight"]


def test_rows_are_neurons_whatever_the_module_keeps(watched, opened) -> None:
    model = Model()
    shapes = {"head": (10, 4), "stem": (8, 27), "blocks.0.attn.c_attn": (12, 4)}
    with watched(model, sgd(model), layers=list(shapes)) as recorder:
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        recorder._optimizers[0].step()
    trace = opened()
    kept = {
        "head": model.head.weight.grad,
        "stem": model.stem.weight.grad.flatten(1),
        "blocks.0.attn.c_attn": model.blocks[0]["attn"]["c_attn"].weight.grad.T,
    }
    for name, gradient in kept.items():
        assert trace.layer(name).shape == tuple(gradient.shape) == shapes[name]
        assert torch.allclose(torch.from_numpy(trace.matrix(0, name)), gradient, atol=1e-6)
        norms = torch.from_numpy(trace.neuron_norms(0, name))
        assert torch.allclose(norms, gradient.norm(dim=1), rtol=1e-5)
    assert trace.layer("blocks.0.attn.c_attn").transposed
    assert not trace.layer("head").transposed


def test_run_json_says_which_axis_is_normalized(watched, opened) -> None:
    from optgeom.optim import NorMuon

    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False))
    groups = [
        {"params": [model[0].weight], "neuron_axis": "larger"},
        {"params": [model[1].weight], "algorithm": "adamw", "lr": 0.1},
    ]
    watched(model, NorMuon(groups, lr=0.1)).close()
    first, second = opened().layers
    assert (first.neuron_axis, first.algorithm, first.group) == ("rows", "normuon", 0)
    assert (second.neuron_axis, second.algorithm, second.group) == (None, "adamw", 1)


# -- pieces ----------------------------------------------------------------------------------------

QKV = {"attention.qkv": View(split="qkv")}


def chosen(layers: Any = None, views: Any = QKV, model: nn.Module | None = None) -> list[Layer]:
    model = model or Model()
    return list(select(model, [sgd(model)], layers, views)[0])


def test_pieces_stand_side_by_side_under_names_of_their_own() -> None:
    found = chosen()
    assert [layer.name for layer in found] == [
        "stem",
        *(f"{name}[{piece}]" for name in ATTENTION for piece in "qkv"),
        "up",
        "head",
    ]
    piece = found[2]
    assert (piece.name, piece.kind, piece.split) == (
        "blocks.0.attn.c_attn[k]",
        "attention.k",
        "k",
    )
    assert (piece.parameter_name, piece.block, piece.shape) == ("blocks.0.attn.c_attn", 0, (4, 4))
    assert found[0].split is None
    assert torch.equal(piece.matrix(piece.parameter), piece.parameter[:, 4:8].T)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("attention.k", ["blocks.0.attn.c_attn[k]", "blocks.1.attn.c_attn[k]"]),
        (r"0\.attn\.c_attn\[q\]", ["blocks.0.attn.c_attn[q]"]),
        ("attention.qkv", [f"{name}[{piece}]" for name in ATTENTION for piece in "qkv"]),
        ("attention", [f"{name}[{piece}]" for name in ATTENTION for piece in "qkv"]),
        (lambda name, parameter: name.endswith("[v]"), [f"{name}[v]" for name in ATTENTION]),
    ],
)
def test_filters_see_the_pieces(layers: Any, expected: list[str]) -> None:
    assert [layer.name for layer in chosen(layers)] == expected


def test_the_first_key_of_a_mapping_chooses() -> None:
    found = chosen({r"\[q\]": 1, "attention": 2, "*": 3, "embedding": 4})
    keys = {layer.name: layer.chosen_by for layer in found}
    assert keys == {
        "tokens": "embedding",
        "stem": "*",
        **{f"{name}[q]": r"\[q\]" for name in ATTENTION},
        **{f"{name}[{piece}]": "attention" for name in ATTENTION for piece in "kv"},
        "up": "*",
        "head": "*",
    }
    assert {layer.chosen_by for layer in chosen(["attention", "head"])} == {None}


def test_the_first_view_that_names_a_parameter_counts() -> None:
    views = {r"blocks\.0": View(heads=2), "attention": View(split="qkv")}
    found = chosen("attention.qkv", views)
    assert [layer.name.partition("[")[2] for layer in found] == ["h0]", "h1]", "q]", "k]", "v]"]


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (
            {"attn2": View()},
            r"views='attn2' names no parameter that could be captured; there are: t",
        ),
        ({"norm": View()}, "views='norm' names no parameter"),
        ({"frozen": View()}, "views='frozen' names no parameter"),
        ({"(": View()}, r"views takes regular expressions or kinds of layer, got '\('"),
        ({"head": None}, r"views\['head'\] must be a View, got None"),
        ([View()], "views takes a mapping"),
        (
            {"c_attn": View(split={"q": 4, "k": 4, "v": 5})},
            r"views\['c_attn'\] does not fit blocks.0.attn.c_attn: its 12 neurons do not split "
            r"into 4 \(q\) \+ 4 \(k\) \+ 5 \(v\) = 13",
        ),
        ({"head": View(experts=True)}, r"does not fit head: .* its shape is \(10, 4\)"),
    ],
)
def test_a_view_that_does_not_fit_is_refused(views: Any, message: str) -> None:
    with pytest.raises(WatchError, match=message) as error:
        chosen(views=views)
    assert "\n" not in str(error.value)


def test_an_error_about_many_layers_stays_short() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(200)))
    with pytest.raises(WatchError, match=r"there are: .*, … \(200 in all\)") as error:
        select(model, [torch.optim.SGD(model.parameters())], "layer")
    assert len(str(error.value)) < 200


def test_lora_is_captured_and_the_frozen_weights_are_not() -> None:
    model = nn.Module()
    model.base_model = nn.Module()
    inner = model.base_model.model = nn.Module()
    inner.q_proj = nn.Module()
    inner.q_proj.base_layer = nn.Linear(6, 4, bias=False).requires_grad_(False)
    inner.q_proj.lora_A = nn.ModuleDict({"default": nn.Linear(6, 2, bias=False)})
    inner.q_proj.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})
    trained = [p for p in model.parameters() if p.requires_grad]
    found, decisions = select(model, [torch.optim.SGD(trained, lr=0.1)])
    assert [(x.name, x.kind, x.shape) for x in found] == [
        ("q_proj.lora_A", "lora.a", (2, 6)),
        ("q_proj.lora_B", "lora.b", (4, 2)),
    ]
    assert [(d.name, d.reason) for d in decisions if not d.captured] == [("q_proj", "frozen")]
    assert [layer.name for layer in select(model, [torch.optim.SGD(trained)], "lora")[0]] == [
        "q_proj.lora_A",
        "q_proj.lora_B",
    ]


def test_flat_shards_are_no_matrices_and_the_reason_says_what_to_do() -> None:
    model = nn.Module()
    model._fsdp_wrapped_module = nn.Module()
    model._fsdp_wrapped_module.weight = nn.Parameter(torch.zeros(8))
    with pytest.raises(WatchError, match="FullyShardedDataParallel keeps flat shards; use fully"):
        select(model, [torch.optim.SGD(model.parameters())])


def test_run_json_says_of_what_a_piece_is_cut_and_what_is_normalized() -> None:
    from optgeom.hooks.manifest import run_info

    model = Model()
    optimizer = sgd(model)
    optimizer.param_groups[0]["neuron_axis"] = "larger"
    layers, _ = select(model, [optimizer], None, QKV)
    info = run_info("r", layers, [optimizer], capture={}, config={}, world_size=1)
    written = {layer.name: layer for layer in parse(dump(info), "run.json").layers}
    q = written["blocks.0.attn.c_attn[q]"]
    assert (q.parameter, q.split, q.stored, q.shape) == (
        "blocks.0.attn.c_attn",
        "q",
        (4, 12),
        (4, 4),
    )
    assert q.transposed
    assert q.neuron_axis == "rows"  # the optimizer's longer axis is the stored columns
    head = written["head"]
    assert (head.parameter, head.split, head.stored) == (None, None, (10, 4))
    assert head.neuron_axis == "rows"
    assert written["stem"].neuron_axis is None
