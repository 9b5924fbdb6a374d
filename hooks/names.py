"""From a parameter's name to what it is: cleaned name, kind of layer, depth.

Rules first, in one table; a name that no rule knows is `other`, never guessed.
"""

from __future__ import annotations

import re

WRAPPER_PREFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""Path components that torch.compile, FSDP, activation checkpointing and DDP put in."""

_ATTENTION = r"(attn|attention|selfattention|encdecattention|mha)\.(.*\.)?"
_MLP = r"(mlp|ffn|feed_forward|ff|densereludense|experts\.\d+)\.(.*\.)?"

# Matched against the end of a lower-case dotted path, at a dot or an underscore; the first decides.
_RULES: tuple[tuple[str, str], ...] = (
    (r"(qkv|qkv_w|c_attn|query_key_value|wqkv|in_proj|in_proj_weight)(_proj)?", "attention.qkv"),
    (_ATTENTION + r"(q|wq|c_q|q_proj|q_proj_weight|query)", "attention.q"),
    (_ATTENTION + r"(k|wk|c_k|k_proj|k_proj_weight|key)", "attention.k"),
    (_ATTENTION + r"(v|wv|c_v|v_proj|v_proj_weight|value)", "attention.v"),
    (_ATTENTION + r"(o|wo|o_proj|out|out_proj|c_proj|proj|dense)", "attention.o"),
    (r"(q_proj|wq)", "attention.q"),
    (r"(k_proj|wk)", "attention.k"),
    (r"(v_proj|wv)", "attention.v"),
    (_MLP + r"(gate|gate_proj|w1|wi_0)", "mlp.gate"),
    (_MLP + r"(up|up_proj|c_fc|fc1|fc_in|w3|wi|wi_1|dense_h_to_4h)", "mlp.up"),
    (_MLP + r"(down|down_proj|c_proj|fc2|fc_out|w2|wo|dense_4h_to_h)", "mlp.down"),
    (r"(o_proj|wo)", "attention.o"),
    (r"gate_proj", "mlp.gate"),
    (r"(up_proj|c_fc|fc1|dense_h_to_4h|intermediate\.dense|layers\.\d+\.linear1)", "mlp.up"),
    (r"(down_proj|fc2|dense_4h_to_h|output\.dense|layers\.\d+\.linear2)", "mlp.down"),
    (r"(lm_head|head|embed_out|unembed|unembedding)", "head"),
    (r"(?<![._])output", "head"),
    (r"(embedding|embed|embeddings|wte|wpe|embed_tokens|tok_embeddings|embed_positions)",
     "embedding"),
)  # fmt: skip

_KINDS = tuple((re.compile(rf"(?:^|[._]){pattern}$"), kind) for pattern, kind in _RULES)

KINDS = frozenset(kind for _, kind in _RULES) | {"conv", "other"}
"""Every kind of layer."""

_BLOCK = re.compile(r"(?:^|\.)(?:blocks|block|layers|layer|h|resblocks|stages)\.(\d+)(?:\.|$)")


def clean(name: str) -> str:
    """Remove what wrappers put into a parameter's name, and a trailing `.weight`.

    Args:
        name: as in `model.named_parameters()`.

    Returns:
        The name that traces use. Brackets, which mark splits, are escaped.

    >>> clean("_orig_mod.blocks.3.mlp.up.weight")
    'blocks.3.mlp.up'
    """
    parts = [part for part in name.split(".") if part not in WRAPPER_PREFIXES]
    if len(parts) > 1 and parts[-1] == "weight":
        parts = parts[:-1]
    return escape(".".join(parts))


def escape(name: str) -> str:
    """Escape brackets, which mark the splits of a fused matrix.

    >>> escape("experts[0]")
    'experts%5B0%5D'
    """
    return name.replace("[", "%5B").replace("]", "%5D")


def kind_of(name: str) -> str:
    """The kind of layer that a cleaned name denotes; `other` where no rule knows it.

    >>> kind_of("blocks.3.mlp.up"), kind_of("transformer.h.0.attn.c_attn"), kind_of("gamma")
    ('mlp.up', 'attention.qkv', 'other')
    """
    name = name.lower()
    return next((kind for pattern, kind in _KINDS if pattern.search(name)), "other")


def block_of(name: str) -> int | None:
    """The depth of the block that a cleaned name belongs to, None outside blocks.

    >>> block_of("blocks.3.mlp.up"), block_of("head")
    (3, None)
    """
    match = _BLOCK.search(name)
    return int(match.group(1)) if match else None
