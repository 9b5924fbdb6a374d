"""From a parameter's name to what it is: cleaned name, kind of layer, depth.

Rules first, in one table; a name that no rule knows is `other`, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

WRAPPER_PREFIXES = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_fpw_module",
    "module",
    "base_layer",
)
"""Path components of torch.compile, FSDP, activation checkpointing, fairscale, DDP (accelerate and
DeepSpeed too) and of peft's wrapped layers."""

_ATTENTION = r"(attn|attention|selfattention|encdecattention|mha)\.(.*\.)?"
_MLP = r"(mlp|ffn|feed_forward|ff|densereludense|moe|experts(\.\d+)?)\.(.*\.)?"

# Matched against the end of a lower-case dotted path, at a dot or an underscore; the first decides.
_RULES: tuple[tuple[str, str], ...] = (
    (r"lora(_embedding)?_a(\.\w+)?", "lora.a"),
    (r"lora(_embedding)?_b(\.\w+)?", "lora.b"),
    (r"crossattention\.c_attn", "attention.kv"),
    (r"(qkv|qkv_w|c_attn|query_key_value|wqkv|in_proj_weight)(_proj)?", "attention.qkv"),
    (_ATTENTION + r"in_proj", "attention.qkv"),
    (r"(kv_proj|to_kv|wkv|kv_[ab]_proj|kv_a_proj_with_mqa|wkv_[ab]|key_value)", "attention.kv"),
    (_ATTENTION + r"(q|wq|c_q|q_proj|q_proj_weight|query|q_attn)", "attention.q"),
    (_ATTENTION + r"(k|wk|c_k|k_proj|k_proj_weight|key)", "attention.k"),
    (_ATTENTION + r"(v|wv|c_v|v_proj|v_proj_weight|value)", "attention.v"),
    (_ATTENTION + r"(o|wo|o_proj|out|out_proj|c_proj|proj|dense)", "attention.o"),
    (r"(q_proj|wq|to_q|q_[ab]_proj|wq_[ab])", "attention.q"),
    (r"(k_proj|wk|to_k)", "attention.k"),
    (r"(v_proj|wv|to_v)", "attention.v"),
    (r"(router(\.(gate|layer|classifier))?|block_sparse_moe\.gate|shared_expert_gate)",
     "mlp.router"),
    (r"(gate_up|gate_up_proj|w13|(moe|mlp)\.input_linear)", "mlp.gate_up"),
    (_MLP + r"(gate|gate_proj|w1|wi_0)", "mlp.gate"),
    (_MLP + r"(up|up_proj|c_fc|fc1|fc_in|w3|wi|wi_1|dense_h_to_4h)", "mlp.up"),
    (_MLP + r"(down|down_proj|c_proj|fc2|fc_out|w2|wo|dense_4h_to_h|output_linear)", "mlp.down"),
    (r"(o_proj|wo|to_out(\.0)?)", "attention.o"),
    (r"gate_proj", "mlp.gate"),
    (r"(up_proj|c_fc|fc1|dense_h_to_4h|intermediate\.dense|layers\.\d+\.linear1)", "mlp.up"),
    (r"(down_proj|fc2|dense_4h_to_h|output\.dense|layers\.\d+\.linear2)", "mlp.down"),
    (r"(lm_head|head|embed_out|unembed|unembedding)", "head"),
    (r"(?<![._])(output|classifier|score)", "head"),
    (r"(embedding|embed|embeddings|wte|wpe|embed_tokens|tok_embeddings|embed_positions)",
     "embedding"),
)  # fmt: skip

_KINDS = tuple((re.compile(rf"(?:^|[._]){pattern}$"), kind) for pattern, kind in _RULES)

KINDS = frozenset(kind for _, kind in _RULES) | {"conv", "other"}
"""Every kind of layer."""

FAMILIES = frozenset(kind.partition(".")[0] for kind in KINDS if "." in kind)
"""What stands before the dot of a kind: all the kinds of a family can be named at once."""

_PIECES = {
    "q": "attention.q",
    "k": "attention.k",
    "v": "attention.v",
    "gate": "mlp.gate",
    "up": "mlp.up",
}

_BLOCK = re.compile(r"(?:^|\.)(?:blocks|block|layers|layer|h|resblocks|stages)\.(\d+)(?:\.|$)")


def clean(name: str) -> str:
    """Remove what wrappers put into a parameter's name, and a trailing `.weight`.

    Args:
        name: as in `model.named_parameters()`.

    Returns:
        The name that traces use. Brackets, which mark splits, are escaped.

    >>> clean("_orig_mod.blocks.3.mlp.up.weight")
    'blocks.3.mlp.up'
    >>> clean("base_model.model.h.0.q_proj.lora_A.default.weight")
    'h.0.q_proj.lora_A'
    >>> clean("up.parametrizations.weight.original")
    'up'
    """
    parts = [part for part in name.split(".") if part not in WRAPPER_PREFIXES]
    if parts[:2] == ["base_model", "model"]:  # peft's own two; what it wraps keeps its names
        parts = parts[2:]
    if "parametrizations" in parts:
        at = parts.index("parametrizations")
        inside = parts[at + 1 :]
        parts = parts[:at] + (inside[:-1] if inside[1:] == ["original"] else inside)
    if len(parts) > 1 and parts[-1] == "weight":
        parts = parts[:-1]
    if len(parts) > 2 and parts[-1] == "default" and _is_adapter(parts[-2]):
        parts = parts[: -2 if parts[-2] == "modules_to_save" else -1]
    return escape(".".join(parts))


def _is_adapter(part: str) -> bool:
    """Whether peft keeps one module per adapter under a name, the first of them `default`."""
    return part.startswith("lora_") or part == "modules_to_save"


def escape(name: str) -> str:
    """Escape brackets, which mark the splits of a fused matrix.

    >>> escape("experts[0]")
    'experts%5B0%5D'
    """
    return name.replace("[", "%5B").replace("]", "%5D")


def piece_name(name: str, labels: Sequence[str]) -> str:
    """The name of a piece of a parameter, each label in brackets.

    >>> piece_name("h.0.experts.gate_up_proj", ("3", "gate")), piece_name("head", ())
    ('h.0.experts.gate_up_proj[3][gate]', 'head')
    """
    return name + "".join(f"[{label}]" for label in labels)


def kind_of(name: str) -> str:
    """The kind of layer that a cleaned name denotes; `other` where no rule knows it.

    >>> kind_of("blocks.3.mlp.up"), kind_of("transformer.h.0.attn.c_attn"), kind_of("gamma")
    ('mlp.up', 'attention.qkv', 'other')
    """
    name = name.lower()
    return next((kind for pattern, kind in _KINDS if pattern.search(name)), "other")


def kind_of_piece(kind: str, labels: Sequence[str]) -> str:
    """The kind of a piece: that of its label, where the label is one of a fused matrix.

    >>> kind_of_piece("attention.qkv", ("q", "h3")), kind_of_piece("mlp.down", ("7",))
    ('attention.q', 'mlp.down')
    """
    if kind.startswith("lora."):
        return kind
    return next((_PIECES[label] for label in labels if label in _PIECES), kind)


def block_of(name: str) -> int | None:
    """The depth of the block that a cleaned name belongs to, None outside blocks.

    >>> block_of("blocks.3.mlp.up"), block_of("head")
    (3, None)
    """
    match = _BLOCK.search(name)
    return int(match.group(1)) if match else None
