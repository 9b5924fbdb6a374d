"""Which way round real modules keep their weights: their class names and shapes, in small."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from optgeom.hooks import View, WatchError
from optgeom.hooks.layers import Layer, select

D, INNER, EXPERTS, HEADS = 8, 12, 4, 2


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def module(name: str, *, base: type[nn.Module] = nn.Module, **parts: Any) -> Any:
    """A module of a class of that name, with the parameters, modules and attributes given."""
    made = type(name, (base,), {})()
    for key, value in parts.items():
        setattr(made, key, value)
    return made


def layers(model: nn.Module, view: View | None = None, pattern: str = ".") -> list[Layer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return list(select(model, [optimizer], None, {pattern: view} if view else None)[0])


def reasons(model: nn.Module) -> dict[str, str]:
    optimizer = torch.optim.SGD([*model.parameters(), parameter(1)], lr=0.1)
    held = nn.ModuleDict({"model": model, "held": nn.Linear(2, 2)})
    optimizer.add_param_group({"params": list(held["held"].parameters())})
    return {
        decision.name.removeprefix("model."): decision.reason
        for decision in select(held, [optimizer])[1]
        if not decision.captured
    }


def experts(name: str, *, turned: bool, fused: bool = True, width: int = D, **rest: Any) -> Any:
    """A stack of experts, either way round."""
    up, down = ((width, INNER), (INNER, width)) if turned else ((INNER, width), (width, INNER))
    if not fused:
        stacks = {"w1": up, "w2": down, "w3": up}
    else:
        double = (up[0], 2 * up[1]) if turned else (2 * up[0], up[1])
        stacks = {"gate_up_proj": double, "down_proj": down}
    return module(name, **{key: parameter(EXPERTS, *size) for key, size in stacks.items()}, **rest)


def moe(stack: nn.Module, **beside: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"moe": nn.ModuleDict({"experts": stack, **beside})})


def router(width: int = D) -> nn.Module:
    return nn.ModuleDict({"gate": nn.Linear(width, EXPERTS, bias=False)})


def shapes(found: list[Layer]) -> dict[str, tuple[int, int]]:
    return {
        layer.name.removeprefix("moe.experts.").removesuffix("[0]"): layer.shape
        for layer in found
        if layer.name.endswith("[0]")
    }


FUSED = {"gate_up_proj": (2 * INNER, D), "down_proj": (D, INNER)}
APART = {"w1": (INNER, D), "w2": (D, INNER), "w3": (INNER, D)}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (moe(experts("MixtralExperts", turned=False)), FUSED),  # transformers 5
        (moe(experts("Llama4TextExperts", turned=True)), FUSED),  # transformers 4 and 5
        (moe(experts("GptOssExperts", turned=True, is_transposed=True)), FUSED),
        (moe(experts("GroupedExperts", turned=False, fused=False), router=router()), APART),
        (moe(experts("GroupedExperts", turned=True, fused=False), router=router()), APART),
        (moe(experts("Mine", turned=True, fused=False), gate=nn.Linear(D, EXPERTS)), APART),
    ],
    ids=["mixtral", "llama4", "gpt-oss", "torchtitan", "torchtitan-2025", "custom"],
)
def test_stacks_of_experts(model: nn.Module, expected: dict[str, tuple[int, int]]) -> None:
    found = layers(model)
    assert shapes(found) == expected
    stack = model["moe"]["experts"]  # type: ignore[index]
    for layer in found:
        if "experts" in layer.name and layer.split is not None:
            entry = stack.get_parameter(layer.parameter_name.split(".")[-1])[int(layer.split)]
            assert torch.equal(
                layer.matrix(layer.parameter), entry.T if layer.transposed else entry
            )


def test_a_square_stack_is_decided_by_those_beside_it() -> None:
    stack = module(
        "MyExperts", up_proj=parameter(EXPERTS, D, D), down_proj=parameter(EXPERTS, D, 6)
    )
    found = layers(moe(stack, router=router()))
    assert [layer.transposed for layer in found if "up_proj" in layer.name] == [False] * EXPERTS
    alone = module("MyExperts", up_proj=parameter(EXPERTS, D, D))
    assert "View(experts=True)" in reasons(moe(alone, router=router()))["moe.experts.up_proj"]


def test_granite_keeps_inputs_last_and_says_so() -> None:
    stack = module(
        "GraniteMoeParallelExperts",
        weight=parameter(EXPERTS, 2 * INNER, D),
        num_experts=EXPERTS,
        input_size=D,
        output_size=2 * INNER,
    )
    model = nn.ModuleDict({"block_sparse_moe": nn.ModuleDict({"input_linear": stack})})
    found = layers(model)
    assert [layer.name for layer in found] == [
        f"block_sparse_moe.input_linear[{e}]" for e in range(EXPERTS)
    ]
    assert {(layer.kind, layer.shape) for layer in found} == {("mlp.gate_up", (2 * INNER, D))}


def test_contradicting_hints_decide_nothing() -> None:
    stack = experts("Experts", turned=False)
    stack.w1 = parameter(EXPERTS, 5, INNER)  # says (in, out) to a router of width 5
    model = moe(stack, router=router(5))
    assert reasons(model)["moe.experts.gate_up_proj"].startswith("axes of unknown meaning")


def test_what_is_no_matrix_by_rule() -> None:
    stack = experts("GptOssExperts", turned=True)
    stack.gate_up_proj_bias = parameter(EXPERTS, 2 * INNER)
    model = nn.ModuleDict(
        {
            "experts": stack,
            "norm": nn.LayerNorm((3, 4)),
            "token": module("Vit", cls_token=parameter(1, 1, D), pos_embed=parameter(1, 9, D)),
            "odd": module("Odd", mixing=parameter(2, 3, 4)),
        }
    )
    found = reasons(model)
    assert found["experts.gate_up_proj_bias"] == "not a matrix"
    assert found["norm"] == "not a matrix: a norm's scale"
    assert found["token.cls_token"] == found["token.pos_embed"] == "not a matrix"
    assert found["odd.mixing"] == (
        "axes of unknown meaning: name it in views=, as View(experts=True) or View(whole=True)"
    )


def test_the_way_out_of_unknown_axes() -> None:
    odd = module("Odd", mixing=parameter(2, 3, 4))
    assert [layer.shape for layer in layers(odd, View(experts=True))] == [(3, 4)] * 2
    turned = layers(odd, View(experts=True, transposed=True))
    assert [layer.shape for layer in turned] == [(4, 3)] * 2
    assert [layer.shape for layer in layers(odd, View(whole=True))] == [(2, 12)]
    (second,) = layers(odd, View(whole=True, transposed=True))
    assert torch.equal(second.matrix(odd.mixing), odd.mixing.transpose(0, 1).reshape(3, 8))
    with pytest.raises(WatchError, match=r"views\['\.'\] does not fit mixing: axes of unknown"):
        layers(odd, View(split="qkv"))


def test_views_overrule_the_rules() -> None:
    stack = moe(experts("MixtralExperts", turned=False))
    whole = layers(stack, View(whole=True))
    assert [layer.shape for layer in whole] == [(EXPERTS, 2 * INNER * D), (EXPERTS, D * INNER)]
    turned = layers(stack, View(transposed=True), "gate_up")
    assert turned[0].shape == (D, 2 * INNER)
    conv1d = module("Conv1D", weight=parameter(D, INNER))
    assert layers(conv1d)[0].shape == (INNER, D)
    assert layers(conv1d, View(transposed=False))[0].shape == (D, INNER)
    up = nn.ConvTranspose1d(4, 4, 3, groups=2, bias=False)
    assert layers(up)[0].shape == (4, 6)
    assert layers(up, View(transposed=False))[0].shape == (4, 6)
    assert (
        layers(up, View(transposed=False))[0].matrix(up.weight).data_ptr() == up.weight.data_ptr()
    )


# -- fused matrices ------------------------------------------------------------------------------

SIZE = D // HEADS


def attention(name: str, leaf: str, rows: int = 3 * D, **attributes: Any) -> nn.Module:
    """A block whose fused projection stands in an attention of that class."""
    inner = module(name, **{leaf: nn.Linear(D, rows, bias=False)}, **attributes)
    return nn.ModuleDict({"attention": inner})


def cut_rows(model: nn.Module, pattern: str = "attention.qkv") -> dict[str, list[int]]:
    """Which rows of the fused matrix each piece has."""
    found = [x for x in layers(model, View(split="qkv"), pattern) if x.split is not None]
    weight = found[0].parameter
    rows = torch.arange(weight.shape[0])[:, None].expand(*weight.shape)
    return {str(layer.split): layer.matrix(rows)[:, 0].tolist() for layer in found}


def per_head(order: str, groups: int, sizes: dict[str, int]) -> dict[str, list[int]]:
    """Rows by hand: `groups` times the pieces in that order."""
    rows: dict[str, list[int]] = {piece: [] for piece in order}
    at = 0
    for _ in range(groups):
        for piece in order:
            rows[piece] += range(at, at + sizes[piece])
            at += sizes[piece]
    return rows


EACH = {"q": SIZE, "k": SIZE, "v": SIZE}
CONFIG = SimpleNamespace(num_attention_heads=HEADS)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (attention("Attention", "qkv"), per_head("qkv", 1, {"q": D, "k": D, "v": D})),
        (
            attention("GPTNeoXAttention", "query_key_value", config=CONFIG),
            per_head("qkv", HEADS, EACH),
        ),
        (
            attention("BloomAttention", "query_key_value", num_heads=HEADS),
            per_head("qkv", HEADS, EACH),
        ),
        (
            attention("PersimmonAttention", "query_key_value", num_heads=HEADS),
            per_head("qkv", HEADS, EACH),
        ),
        (
            attention("MiniMaxLightningAttention", "qkv_proj", num_attention_heads=HEADS),
            per_head("qkv", HEADS, EACH),
        ),
        (
            attention("GPTBigCodeAttention", "c_attn", num_heads=HEADS, multi_query=False),
            per_head("qkv", HEADS, EACH),
        ),
        (
            attention(
                "GPTBigCodeAttention", "c_attn", D + 2 * SIZE, num_heads=HEADS, multi_query=True
            ),
            per_head("qkv", 1, {"q": D, "k": SIZE, "v": SIZE}),
        ),
        (
            attention(
                "FalconAttention",
                "query_key_value",
                8 * 2,
                num_heads=4,
                num_kv_heads=2,
                new_decoder_architecture=True,
            ),
            per_head("qkv", 2, {"q": 4, "k": 2, "v": 2}),
        ),
        (
            attention(
                "FalconAttention", "query_key_value", 6 * 2, num_heads=4, multi_query=True
            ),
            per_head("qkv", 1, {"q": 8, "k": 2, "v": 2}),
        ),
        (
            attention("FalconAttention", "query_key_value", num_heads=HEADS, multi_query=False),
            per_head("qkv", HEADS, EACH),
        ),
        (
            attention(
                "Phi3Attention", "qkv_proj", 8 * 2, num_key_value_heads=2,
                config=SimpleNamespace(num_attention_heads=4),
            ),
            per_head("qkv", 1, {"q": 8, "k": 4, "v": 4}),
        ),
        (
            attention("CodeGenAttention", "qkv_proj"),
            per_head("qvk", 4, {"q": D // 4, "k": D // 4, "v": D // 4}),
        ),
    ],
    ids=lambda value: type(value["attention"]).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_where_q_k_and_v_lie(model: nn.Module, expected: dict[str, list[int]]) -> None:
    assert cut_rows(model) == expected


def test_thirds_of_torch_and_of_gpt2() -> None:
    thirds = per_head("qkv", 1, {"q": D, "k": D, "v": D})
    assert cut_rows(nn.ModuleDict({"attn": nn.MultiheadAttention(D, HEADS)})) == thirds
    gpt2 = module("Conv1D", weight=parameter(D, 3 * D))
    model = nn.ModuleDict({"attn": module("GPT2Attention", c_attn=gpt2)})
    q, k, v = layers(model, View(split="qkv"))
    assert [(x.kind, x.shape) for x in (q, k, v)] == [(f"attention.{p}", (D, D)) for p in "qkv"]
    assert torch.equal(k.matrix(gpt2.weight), gpt2.weight[:, D : 2 * D].T)


def test_a_wrapped_projection_is_known_by_what_is_around_it() -> None:
    model = attention("GPTNeoXAttention", "query_key_value", config=CONFIG)
    plain = cut_rows(model)
    around = model["attention"]  # type: ignore[index]
    around.query_key_value = module("OptimizedModule", _orig_mod=around.query_key_value)
    model = module("DistributedDataParallel", module=module("Wrapper", _orig_mod=model))
    assert cut_rows(model) == plain


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (attention("Attention", "query_key_value"), "query_key_value of Attention"),
        (attention("Attention", "qkv", 4 * D), r"its 32 neurons lie in Attention of 8 inputs"),
        (attention("GPTNeoXAttention", "query_key_value"), "does not tell its heads"),
        (
            attention("Attention", "qkv_proj", num_heads=4, num_key_value_heads=3),
            "4 heads of q and 3 of k and v, which they do not fit",
        ),
    ],
)
def test_an_unknown_layout_asks_for_sizes(model: nn.Module, message: str) -> None:
    with pytest.raises(WatchError, match=message) as error:
        cut_rows(model)
    assert "View(split={'q': ..., 'k': ..., 'v': ...})" in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_by_hand_where_nothing_is_known() -> None:
    model = attention("Attention", "query_key_value")
    q, _, _ = layers(model, View(split="qkv", repeats=HEADS))
    assert torch.equal(q.matrix(q.parameter)[SIZE:], q.parameter[3 * SIZE : 4 * SIZE])


def test_gate_and_up() -> None:
    halves = nn.ModuleDict({"mlp": module("Phi3MLP", gate_up_proj=nn.Linear(D, 10, bias=False))})
    gate, up = layers(halves, View(split="gate_up"))
    assert [gate.kind, up.kind] == ["mlp.gate", "mlp.up"]
    assert torch.equal(up.matrix(up.parameter), up.parameter[5:])
    turns = moe(experts("GptOssExperts", turned=True))
    found = layers(turns, View(split="gate_up"), "gate_up")
    assert found[1].name == "moe.experts.gate_up_proj[0][up]"
    assert torch.equal(found[1].matrix(found[1].parameter), found[1].parameter[0][:, 1::2].T)
    odd = nn.ModuleDict({"mlp": module("Phi3MLP", gate_up_proj=nn.Linear(D, 9, bias=False))})
    with pytest.raises(WatchError, match="its 9 neurons are no 2 equal parts"):
        layers(odd, View(split="gate_up"))
