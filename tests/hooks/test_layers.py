"""Which parameters are captured, and how they are seen as matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from optgeom.hooks import WatchError
from optgeom.hooks.layers import select


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
    assert [layer.name for layer in layers] == ["stem", *ATTENTION, "head"]
    reasons = {d.name: d.reason for d in decisions if not d.captured}
    assert reasons.keys() | {layer.name for layer in layers} == {
        name.removesuffix(".weight") for name, _ in model.named_parameters()
    }
    assert reasons["tokens"].startswith("embeddings are off")
    assert reasons["stem.bias"] == reasons["up"] == reasons["norm"] == "not a matrix"
    assert reasons["frozen"] == "the watched optimizer does not hold it"
    assert reasons["codes"] == "torch.complex64 weights are not captured yet"
    assert reasons["empty"] == "it has no entries"


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("attention.qkv", ATTENTION),
        ("embedding", ["tokens"]),
        ("conv", ["stem"]),
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
    assert names(model) == ["stem", *ATTENTION]
    assert names(model, "embedding") == ["tokens"]


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


def test_describe_lists_every_parameter(watched) -> None:
    model = Model()
    recorder = watched(model, sgd(model))
    description = recorder.describe()
    lines = str(description).splitlines()
    assert len(lines) == len(list(model.parameters())) + 1
    assert lines[-1].endswith("MB per 1000 steps")
    assert description.megabytes_per_1000_steps > 0
