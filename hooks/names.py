"""From a parameter's name to what it is: cleaned name, kind of layer, depth.

Rules first, in one table; a name that no rule knows is `other`, never guessed.
"""

from __future__ import annotations

import re

WRAPPER_PREFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""Path components that torch.compile, FSDP, activation checkpointing and DDP put in."""

# The first pattern that matches the last components of a dotted module path decides.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"(qkv|c_attn|query_key_value|wqkv|in_proj)(_proj)?$", "attention.qkv"),
    (r"(attn|attention|self_attn)\.(.*\.)?(q|wq|q_proj|query)$", "attention.q"),
    (r"(attn|attention|self_attn)\.(.*\.)?(k|wk|k_proj|key)$", "attention.k"),
    (r"(attn|attention|self_attn)\.(.*\.)?(v|wv|v_proj|value)$", "attention.v"),
    (r"(attn|attention|self_attn)\.(.*\.)?(o|wo|o_proj|out|out_proj|c_proj|proj|dense)$",
     "attention.o"),
    (r"(q_proj|query|wq)$", "attention.q"),
    (r"(k_proj|key|wk)$", "attention.k"),
    (r"(v_proj|value|wv)$", "attention.v"),
    (r"(o_proj|wo)$", "attention.o"),
    (r"(mlp|ffn|feed_forward|ff)\.(.*\.)?(gate|gate_proj|w1_gate)$", "mlp.gate"),
    (r"(gate_proj)$", "mlp.gate"),
    (r"(mlp|ffn|feed_forward|ff)\.(.*\.)?(up|up_proj|c_fc|fc1|fc_in|w3|dense_h_to_4h)$", "mlp.up"),
    (r"(up_proj|c_fc|fc1|dense_h_to_4h|intermediate\.dense)$", "mlp.up"),
    (r"(mlp|ffn|feed_forward|ff)\.(.*\.)?(down|down_proj|c_proj|fc2|fc_out|w2|dense_4h_to_h)$",
     "mlp.down"),
    (r"(down_proj|fc2|dense_4h_to_h)$", "mlp.down"),
    (r"(lm_head|head|output|unembed|unembedding)$", "head"),
    (r"(embedding|embed|embeddings|wte|wpe|embed_tokens|tok_embeddings|embed_positions)$",
     "embedding"),
)  # fmt: skip

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
    return ".".join(parts).replace("[", "%5B").replace("]", "%5D")


def kind_of(name: str) -> str:
    """The kind of layer that a cleaned name denotes; `other` where no rule knows it.

    >>> kind_of("blocks.3.mlp.up"), kind_of("transformer.h.0.attn.c_attn"), kind_of("gamma")
    ('mlp.up', 'attention.qkv', 'other')
    """
    for pattern, kind in _KINDS:
        if re.search(rf"(?:^|\.|_){pattern}", name):
            return kind
    return "other"


def block_of(name: str) -> int | None:
    """The depth of the block that a cleaned name belongs to, None outside blocks.

    >>> block_of("blocks.3.mlp.up"), block_of("head")
    (3, None)
    """
    match = _BLOCK.search(name)
    return int(match.group(1)) if match else None
