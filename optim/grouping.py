"""Which parameters are hidden matrices, and which belong to AdamW."""

from __future__ import annotations

import difflib
import fnmatch
import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from optgeom.optim.checks import check_choice, check_lr
from optgeom.optim.families import AdamWSettings, with_overrides

__all__ = ["Choice", "Decision", "decide", "param_groups"]

logger = logging.getLogger(__name__)

Choice = Literal["matrix", "adamw", "skip"]

_INDEX = re.compile(r"(?<![^.])\d+(?![^.])")
_CHOICES = ("matrix", "adamw", "skip")
_HEADS = frozenset(
    {"lm_head", "head", "output", "classifier", "unembed", "unembedding", "embed_out", "score"}
)
_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_TABLES = ("embed", "position", "pos_", "token", "bias")


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one parameter goes, and why.

    Attributes:
        name: The first of the parameter's names.
        parameter: The parameter.
        choice: "matrix", "adamw" or "skip".
        reason: In a few words.
    """

    name: str
    parameter: nn.Parameter
    choice: Choice
    reason: str


def param_groups(
    model: nn.Module,
    *,
    lr: float | Tensor | None = None,
    adamw_lr: float | Tensor = 3e-4,
    overrides: Mapping[str, Choice] | None = None,
    matrix_settings: Mapping[str, Any] | None = None,
    adamw_settings: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Split a model's parameters for ``NorMuon`` or ``Muon``; one INFO line per reason.

    Hidden matrices, and 3-D stacks of them, form the first group. Embeddings, the head, norms,
    biases, convolutions and whatever else is no matrix form a second one, marked
    ``algorithm="adamw"``. Frozen parameters are left out; tied ones appear once, and are
    AdamW's as soon as one of their places is.

    Args:
        model: Any module, sharded by ``fully_shard`` or not.
        lr: Of the matrices; None leaves it to the optimizer.
        adamw_lr: Of the rest.
        overrides: Glob patterns on parameter names to "matrix", "adamw" or "skip"; the first
            that matches wins.
        matrix_settings: Further settings of the matrix group.
        adamw_settings: ``betas``, ``eps``, ``weight_decay`` of the other; no decay by default.

    Returns:
        At most two groups, each with ``params`` and ``param_names``; an empty one is left out.

    Raises:
        ValueError: A pattern that matches no parameter, an unknown choice, a model without
            trainable parameters.
        TypeError: An AdamW setting that does not exist.

    Examples:
        >>> groups = param_groups(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)))
        >>> [group["param_names"] for group in groups]
        [['0.weight'], ['0.bias', '1.weight', '1.bias']]
    """
    check_lr(adamw_lr)
    if lr is not None:
        check_lr(lr)
    with_overrides(AdamWSettings(), adamw_settings or {}, owner="AdamW")
    decisions = decide(model, overrides=overrides)
    _log(decisions)

    matrices = _group(decisions, "matrix") | dict(matrix_settings or {})
    if lr is not None:
        matrices["lr"] = lr
    rest = _group(decisions, "adamw") | {"algorithm": "adamw", "lr": adamw_lr}
    rest |= dict(adamw_settings or {})
    groups = [group for group in (matrices, rest) if group["params"]]
    if not groups:
        raise ValueError("the model has no trainable parameters: nothing to optimize")
    if not matrices["params"]:
        logger.warning("no hidden matrix found: every parameter goes to AdamW")
    return groups


def decide(
    model: nn.Module, *, overrides: Mapping[str, Choice] | None = None
) -> tuple[Decision, ...]:
    """Where every parameter goes, in the model's order, tied ones once.

    Args:
        model: Any module.
        overrides: As in ``param_groups``.

    Raises:
        ValueError: A pattern that matches no parameter, an unknown choice.
    """
    places = _places(model)
    overrides = overrides or {}
    all_names = [name for named in places.values() for name, _ in named]
    for pattern, choice in overrides.items():
        check_choice(f"overrides[{pattern!r}]", choice, choices=_CHOICES)
        if not fnmatch.filter(all_names, pattern):
            near = difflib.get_close_matches(pattern, all_names, n=3, cutoff=0.3)
            raise ValueError(
                f"override pattern {pattern!r} matches no parameter; "
                f"nearest names: {', '.join(near) or ', '.join(all_names[:3])}"
            )

    outputs = _output_parameters(model)
    decisions = []
    for parameter, named in places.items():
        matched = _first_match(overrides, [name for name, _ in named])
        choice, reason = (
            (overrides[matched], f"override {matched!r}")
            if matched is not None
            else _by_rule(parameter, named, is_output=parameter in outputs)
        )
        decisions.append(Decision(named[0][0], parameter, choice, reason))
    return tuple(decisions)


_Named = list[tuple[str, nn.Module]]


def _places(model: nn.Module) -> dict[nn.Parameter, _Named]:
    places: dict[nn.Parameter, _Named] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{leaf}" if prefix else leaf
            places.setdefault(parameter, []).append((name, module))
    return places


def _output_parameters(model: nn.Module) -> set[nn.Parameter]:
    # Hugging Face models name their own head; everyone else's is known by name or by size.
    getter = getattr(model, "get_output_embeddings", None)
    module = getter() if callable(getter) else None
    return set(module.parameters()) if isinstance(module, nn.Module) else set()


def _first_match(overrides: Mapping[str, Choice], names: list[str]) -> str | None:
    return next((pattern for pattern in overrides if fnmatch.filter(names, pattern)), None)


def _by_rule(parameter: nn.Parameter, named: _Named, *, is_output: bool) -> tuple[Choice, str]:
    if not parameter.requires_grad:
        return "skip", "frozen"
    if parameter.ndim < 2:
        return "adamw", "norm, bias or scalar"
    if is_output or any(_is_head(name) for name, _ in named):
        return "adamw", "head"
    for name, module in named:
        leaf = name.rpartition(".")[2].lower()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            return "adamw", "embedding"
        if isinstance(module, _CONVOLUTIONS):
            return "adamw", "convolution"
        if "norm" in type(module).__name__.lower():
            return "adamw", "norm, bias or scalar"
        if any(word in leaf for word in _TABLES):
            return "adamw", "embedding or bias table"
    if parameter.ndim > 3:
        return "adamw", "more than three dimensions"
    if min(parameter.shape[-2:]) == 1:
        return "adamw", "a single row or column"
    return "matrix", "hidden matrix" if parameter.ndim == 2 else "stack of matrices"


def _is_head(name: str) -> bool:
    *path, module, _ = ["", *name.split(".")]
    return module in _HEADS and not any(part.isdigit() for part in path)


def _group(decisions: tuple[Decision, ...], choice: Choice) -> dict[str, Any]:
    chosen = [decision for decision in decisions if decision.choice == choice]
    return {
        "params": [decision.parameter for decision in chosen],
        "param_names": [decision.name for decision in chosen],
    }


def _log(decisions: tuple[Decision, ...]) -> None:
    reasons: dict[tuple[str, str], list[Decision]] = {}
    for decision in decisions:
        reasons.setdefault((decision.choice, decision.reason), []).append(decision)
    for (choice, reason), members in sorted(
        reasons.items(), key=lambda item: item[0][0] != "matrix"
    ):
        values = sum(member.parameter.numel() for member in members)
        # "blocks.*.mlp.up.weight (12)" says what twelve names would.
        patterns = Counter(_INDEX.sub("*", member.name) for member in members)
        names = ", ".join(f"{name} ({count})" for name, count in patterns.items())
        logger.info("%s: %s, %s values: %s", choice, reason, f"{values:,}", names)
