"""Real models' parameter names: cleaned name, kind of layer, depth."""

from __future__ import annotations

import pytest

from optgeom.hooks.names import (
    FAMILIES,
    KINDS,
    block_of,
    clean,
    kind_of,
    kind_of_piece,
    piece_name,
)

NAMES = [
    # ours
    ("embedding.weight", "embedding", "embedding", None),
    ("blocks.3.attention.q.weight", "blocks.3.attention.q", "attention.q", 3),
    ("blocks.3.attention.k.weight", "blocks.3.attention.k", "attention.k", 3),
    ("blocks.3.attention.v.weight", "blocks.3.attention.v", "attention.v", 3),
    ("blocks.3.attention.o.weight", "blocks.3.attention.o", "attention.o", 3),
    ("blocks.3.mlp.up.weight", "blocks.3.mlp.up", "mlp.up", 3),
    ("blocks.3.mlp.gate.weight", "blocks.3.mlp.gate", "mlp.gate", 3),
    ("blocks.10.mlp.down.weight", "blocks.10.mlp.down", "mlp.down", 10),
    ("head.weight", "head", "head", None),
    # GPT-2 in Hugging Face's transformers, and nanoGPT
    ("transformer.wte.weight", "transformer.wte", "embedding", None),
    ("transformer.wpe.weight", "transformer.wpe", "embedding", None),
    ("transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn", "attention.qkv", 0),
    ("transformer.h.0.attn.c_proj.weight", "transformer.h.0.attn.c_proj", "attention.o", 0),
    ("transformer.h.11.mlp.c_fc.weight", "transformer.h.11.mlp.c_fc", "mlp.up", 11),
    ("transformer.h.11.mlp.c_proj.weight", "transformer.h.11.mlp.c_proj", "mlp.down", 11),
    ("lm_head.weight", "lm_head", "head", None),
    # Llama, Qwen, Mistral in transformers
    ("model.embed_tokens.weight", "model.embed_tokens", "embedding", None),
    ("model.layers.7.self_attn.q_proj.weight", "model.layers.7.self_attn.q_proj", "attention.q", 7),
    ("model.layers.7.self_attn.k_proj.weight", "model.layers.7.self_attn.k_proj", "attention.k", 7),
    ("model.layers.7.self_attn.v_proj.weight", "model.layers.7.self_attn.v_proj", "attention.v", 7),
    ("model.layers.7.self_attn.o_proj.weight", "model.layers.7.self_attn.o_proj", "attention.o", 7),
    ("model.layers.7.mlp.gate_proj.weight", "model.layers.7.mlp.gate_proj", "mlp.gate", 7),
    ("model.layers.7.mlp.up_proj.weight", "model.layers.7.mlp.up_proj", "mlp.up", 7),
    ("model.layers.7.mlp.down_proj.weight", "model.layers.7.mlp.down_proj", "mlp.down", 7),
    # Llama as Meta and torchtitan name it
    ("tok_embeddings.weight", "tok_embeddings", "embedding", None),
    ("layers.2.attention.wq.weight", "layers.2.attention.wq", "attention.q", 2),
    ("layers.2.attention.wo.weight", "layers.2.attention.wo", "attention.o", 2),
    ("layers.2.feed_forward.w1.weight", "layers.2.feed_forward.w1", "mlp.gate", 2),
    ("layers.2.feed_forward.w2.weight", "layers.2.feed_forward.w2", "mlp.down", 2),
    ("layers.2.feed_forward.w3.weight", "layers.2.feed_forward.w3", "mlp.up", 2),
    ("output.weight", "output", "head", None),
    # nanochat, GPT-NeoX, BERT, T5, torch.nn.TransformerEncoderLayer, timm
    ("transformer.h.4.attn.c_q.weight", "transformer.h.4.attn.c_q", "attention.q", 4),
    (
        "gpt_neox.layers.1.attention.query_key_value.weight",
        "gpt_neox.layers.1.attention.query_key_value",
        "attention.qkv",
        1,
    ),
    (
        "gpt_neox.layers.1.attention.dense.weight",
        "gpt_neox.layers.1.attention.dense",
        "attention.o",
        1,
    ),
    (
        "gpt_neox.layers.1.mlp.dense_4h_to_h.weight",
        "gpt_neox.layers.1.mlp.dense_4h_to_h",
        "mlp.down",
        1,
    ),
    ("embed_out.weight", "embed_out", "head", None),
    (
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.attention.self.query",
        "attention.q",
        0,
    ),
    (
        "encoder.layer.0.attention.output.dense.weight",
        "encoder.layer.0.attention.output.dense",
        "attention.o",
        0,
    ),
    (
        "encoder.layer.0.intermediate.dense.weight",
        "encoder.layer.0.intermediate.dense",
        "mlp.up",
        0,
    ),
    ("encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense", "mlp.down", 0),
    (
        "encoder.block.5.layer.0.SelfAttention.v.weight",
        "encoder.block.5.layer.0.SelfAttention.v",
        "attention.v",
        5,
    ),
    (
        "encoder.block.5.layer.1.DenseReluDense.wo.weight",
        "encoder.block.5.layer.1.DenseReluDense.wo",
        "mlp.down",
        5,
    ),
    ("layers.0.self_attn.in_proj_weight", "layers.0.self_attn.in_proj_weight", "attention.qkv", 0),
    ("layers.0.self_attn.out_proj.weight", "layers.0.self_attn.out_proj", "attention.o", 0),
    ("layers.0.linear1.weight", "layers.0.linear1", "mlp.up", 0),
    ("layers.0.linear2.weight", "layers.0.linear2", "mlp.down", 0),
    ("blocks.6.attn.qkv.weight", "blocks.6.attn.qkv", "attention.qkv", 6),
    ("blocks.6.attn.proj.weight", "blocks.6.attn.proj", "attention.o", 6),
    ("blocks.6.mlp.fc2.weight", "blocks.6.mlp.fc2", "mlp.down", 6),
    # wrappers
    ("_orig_mod.blocks.0.mlp.up.weight", "blocks.0.mlp.up", "mlp.up", 0),
    ("module.blocks.0.mlp.up.weight", "blocks.0.mlp.up", "mlp.up", 0),
    ("module._orig_mod.blocks.0.mlp.up.weight", "blocks.0.mlp.up", "mlp.up", 0),
    ("blocks.0._fsdp_wrapped_module.mlp.up.weight", "blocks.0.mlp.up", "mlp.up", 0),
    ("blocks.0._checkpoint_wrapped_module.mlp.up.weight", "blocks.0.mlp.up", "mlp.up", 0),
    (
        "module.model.layers.0.mlp.gate_up_proj.weight",
        "model.layers.0.mlp.gate_up_proj",
        "mlp.gate_up",
        0,
    ),
    # peft, parametrizations
    (
        "base_model.model.model.layers.2.self_attn.q_proj.base_layer.weight",
        "model.layers.2.self_attn.q_proj",
        "attention.q",
        2,
    ),
    (
        "base_model.model.model.layers.2.self_attn.q_proj.lora_A.default.weight",
        "model.layers.2.self_attn.q_proj.lora_A",
        "lora.a",
        2,
    ),
    (
        "base_model.model.model.layers.2.self_attn.q_proj.lora_B.other.weight",
        "model.layers.2.self_attn.q_proj.lora_B.other",
        "lora.b",
        2,
    ),
    (
        "base_model.model.transformer.wte.lora_embedding_A.default",
        "transformer.wte.lora_embedding_A",
        "lora.a",
        None,
    ),
    ("module.base_model.model.score.modules_to_save.default.weight", "score", "head", None),
    ("base_model.model.score.original_module.weight", "score.original_module", "other", None),
    ("layers.1.attn.wq.lora_a.weight", "layers.1.attn.wq.lora_a", "lora.a", 1),
    ("blocks.0.mlp.fc1.parametrizations.weight.original", "blocks.0.mlp.fc1", "mlp.up", 0),
    (
        "blocks.0.mlp.fc1.parametrizations.weight.original1",
        "blocks.0.mlp.fc1.weight.original1",
        "other",
        0,
    ),
    # experts, routers, latent attention
    (
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.gate_up_proj",
        "mlp.gate_up",
        0,
    ),
    ("layers.3.moe.experts.w1", "layers.3.moe.experts.w1", "mlp.gate", 3),
    ("layers.3.moe.experts.w2", "layers.3.moe.experts.w2", "mlp.down", 3),
    ("layers.3.moe.router.gate.weight", "layers.3.moe.router.gate", "mlp.router", 3),
    (
        "model.layers.0.block_sparse_moe.gate.weight",
        "model.layers.0.block_sparse_moe.gate",
        "mlp.router",
        0,
    ),
    (
        "model.layers.0.block_sparse_moe.experts.7.w3.weight",
        "model.layers.0.block_sparse_moe.experts.7.w3",
        "mlp.up",
        0,
    ),
    (
        "model.layers.0.mlp.shared_expert_gate.weight",
        "model.layers.0.mlp.shared_expert_gate",
        "mlp.router",
        0,
    ),
    (
        "model.layers.4.self_attn.kv_b_proj.weight",
        "model.layers.4.self_attn.kv_b_proj",
        "attention.kv",
        4,
    ),
    (
        "model.layers.4.self_attn.q_b_proj.weight",
        "model.layers.4.self_attn.q_b_proj",
        "attention.q",
        4,
    ),
    (
        "transformer.h.0.crossattention.c_attn.weight",
        "transformer.h.0.crossattention.c_attn",
        "attention.kv",
        0,
    ),
    (
        "down_blocks.0.attentions.0.attn1.to_out.0.weight",
        "down_blocks.0.attentions.0.attn1.to_out.0",
        "attention.o",
        None,
    ),
    ("backbone.layers.0.mixer.in_proj.weight", "backbone.layers.0.mixer.in_proj", "other", 0),
    # what no rule knows, and what only looks as if one did
    ("proj.weight", "proj", "other", None),
    ("weight", "weight", "other", None),
    ("blocks.0.query_norm.weight", "blocks.0.query_norm", "other", 0),
    ("blocks.0.overhead.weight", "blocks.0.overhead", "other", 0),
    ("blocks.0.attention_output.weight", "blocks.0.attention_output", "other", 0),
    ("experts[0].weight", "experts%5B0%5D", "other", None),
]


@pytest.mark.parametrize(("full", "name", "kind", "block"), NAMES, ids=[n[0] for n in NAMES])
def test_names(full: str, name: str, kind: str, block: int | None) -> None:
    assert clean(full) == name
    assert kind_of(clean(full)) == kind
    assert block_of(clean(full)) == block


def test_every_kind_is_one_that_traces_know() -> None:
    assert {
        *(f"attention.{part}" for part in ("q", "k", "v", "o", "qkv", "kv")),
        *(f"mlp.{part}" for part in ("up", "gate", "down", "gate_up", "router")),
        *("lora.a", "lora.b", "embedding", "head", "conv", "other"),
    } == KINDS
    assert {"attention", "mlp", "lora"} == FAMILIES


@pytest.mark.parametrize(
    ("kind", "labels", "name", "piece"),
    [
        ("attention.qkv", ("q",), "x[q]", "attention.q"),
        ("attention.qkv", ("v", "h2"), "x[v][h2]", "attention.v"),
        ("attention.o", ("h2",), "x[h2]", "attention.o"),
        ("mlp.gate_up", ("3", "gate"), "x[3][gate]", "mlp.gate"),
        ("mlp.down", ("3",), "x[3]", "mlp.down"),
        ("other", ("k",), "x[k]", "attention.k"),
        ("other", ("left",), "x[left]", "other"),
        ("lora.b", ("q",), "x[q]", "lora.b"),
        ("head", (), "x", "head"),
    ],
)
def test_names_and_kinds_of_pieces(
    kind: str, labels: tuple[str, ...], name: str, piece: str
) -> None:
    assert piece_name("x", labels) == name
    assert kind_of_piece(kind, labels) == piece
