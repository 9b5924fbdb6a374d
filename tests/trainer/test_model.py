"""The model: shapes, causality, and weights that follow from the seed."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from optgeom.hooks.names import block_of, clean, kind_of
from optgeom.trainer.config import ModelConfig
from optgeom.trainer.model import build_model, cross_entropy, rotary_table, rotate

FORMS = [
    ModelConfig(width=16, heads=4, blocks=2),
    ModelConfig(width=16, heads=4, blocks=2, mlp="gated"),
    ModelConfig(width=16, heads=4, kv_heads=1, blocks=1, vocab_size=300),
]


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", FORMS)
def test_a_later_token_never_changes_earlier_logits(config: ModelConfig) -> None:
    model = build_model(config, length=12, seed=0)
    before = tokens(2, 12)
    for changed in range(1, 12):
        after = before.clone()
        after[:, changed] = (after[:, changed] + 1) % 256
        first, second = model(before), model(after)
        assert torch.equal(first[:, :changed], second[:, :changed])
        assert not torch.equal(first[:, changed], second[:, changed])


@pytest.mark.parametrize("config", FORMS)
def test_earlier_tokens_matter(config: ModelConfig) -> None:
    model = build_model(config, length=12, seed=0)
    before, after = tokens(1, 12), tokens(1, 12)
    after[0, 0] = (after[0, 0] + 1) % 256
    assert (model(before)[0, -1] - model(after)[0, -1]).abs().max() > 1e-6


@pytest.mark.parametrize("config", FORMS)
def test_count_and_shapes_of_the_weights(config: ModelConfig) -> None:
    model = build_model(config, length=8, seed=0)
    width, channels = config.width, config.width // config.heads
    kv = config.key_value_heads * channels
    matrices = 3 if config.mlp == "gated" else 2
    block = 2 * width * width + 2 * kv * width + matrices * width * config.neurons
    norms = 2 * width + 2 * channels
    expected = 2 * config.vocab_size * width + config.blocks * (block + norms) + width
    assert sum(weight.numel() for weight in model.parameters()) == expected
    assert model.blocks[0].mlp.up.weight.shape == (config.neurons, width)
    assert model(tokens(3, 5)).shape == (3, 5, config.vocab_size)


def test_the_demo_s_model_has_0_85_million_weights() -> None:
    model = build_model(ModelConfig(), length=64, seed=0)
    assert sum(weight.numel() for weight in model.parameters()) == 853_376


def test_every_matrix_has_a_kind_and_a_depth() -> None:
    model = build_model(FORMS[1], length=8, seed=0)
    names = [clean(name) for name, weight in model.named_parameters() if weight.ndim == 2]
    assert {kind_of(name) for name in names} == {
        "embedding",
        "head",
        *(f"attention.{one}" for one in "qkvo"),
        *(f"mlp.{one}" for one in ("up", "gate", "down")),
    }
    assert "blocks.1.mlp.up" in names
    assert "blocks.0.attention.q" in names
    assert {block_of(name) for name in names} == {None, 0, 1}


def test_weights_follow_from_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_model(FORMS[0], length=8, seed=1)
    assert torch.equal(torch.rand(3), expected)
    again, other = (build_model(FORMS[0], length=8, seed=seed) for seed in (1, 2))
    for one, same, different in zip(
        first.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(one, same)
        assert one.ndim == 1 or not torch.equal(one, different)


def test_no_gradient_is_zero_at_the_start() -> None:
    model = build_model(FORMS[0], length=8, seed=0)
    batch = tokens(4, 9)
    loss = cross_entropy(model(batch[:, :-1]), batch[:, 1:])
    assert abs(loss.item() - math.log(256)) < 1
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0, name


def test_rotation_keeps_norms_and_sees_distances_alone() -> None:
    cos, sin = rotary_table(20, 8, base=100.0)
    one, other = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    turned, against = (rotate(x.expand(1, 1, 20, 8), cos, sin)[0, 0] for x in (one, other))
    assert torch.allclose(turned.norm(dim=-1), one.norm(), atol=1e-5)
    products = turned @ against.T
    for distance in range(1, 20):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4)


def test_grouped_heads_equal_repeated_ones() -> None:
    attention = build_model(FORMS[2], length=8, seed=0).blocks[0].attention
    x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in
               (attention.q, attention.k, attention.v))  # fmt: skip
    q = rotate(F.rms_norm(q, (4,)), attention.cos, attention.sin)
    k = rotate(F.rms_norm(k, (4,)), attention.cos, attention.sin).expand_as(q)
    scores = (q @ k.mT / 2).masked_fill(torch.ones(8, 8).triu(1).bool(), -math.inf)
    mixed = (scores.softmax(-1) @ v.expand_as(q)).transpose(1, 2).flatten(2)
    assert torch.allclose(attention(x), attention.o(mixed), atol=1e-5)
