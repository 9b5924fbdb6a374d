"""Which optimizer a configuration asks for, over which groups.

One optimizer object in every case, so that schedules and the recorder see one thing: AdamW over
everything, or Muon or NorMuon over the hidden matrices with AdamW inside for the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from optgeom.optim import Muon, NorMuon, param_groups
from optgeom.trainer.config import OptimizerConfig
from optgeom.trainer.errors import ConfigError


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, *, normuon: type[NorMuon] = NorMuon
) -> Optimizer:
    """The optimizer of a run.

    Muon takes scale match_rms, so that at equal ``lr`` it moves a matrix about as far as NorMuon
    does (RMS near 0.2 x lr). Weight decay reaches hidden matrices only.

    Args:
        model: Sharded or not; sharding comes first, since it replaces the parameters.
        config: The settings.
        normuon: The class that the name ``normuon`` stands for: it, or a variant under study.

    Returns:
        torch.optim.AdamW, optgeom.optim.Muon or optgeom.optim.NorMuon.

    Raises:
        ConfigError: A setting that the optimizer does not know or allow.
    """
    adamw = {"betas": tuple(config.betas), "eps": config.eps}
    try:
        groups = param_groups(model, lr=config.lr, adamw_lr=config.adamw_lr, adamw_settings=adamw)
        return _build(groups, config, adamw=adamw, normuon=normuon)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"optimizer {config.name}: {error}") from error


def remember_peak(optimizer: Optimizer) -> None:
    """Note every group's learning rate as its peak, ``initial_lr``; checkpoints keep it."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to a fraction of its remembered peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]


def _build(
    groups: list[dict[str, Any]],
    config: OptimizerConfig,
    *,
    adamw: dict[str, Any],
    normuon: type[NorMuon],
) -> Optimizer:
    if config.name == "adamw":
        for group in groups:
            hidden = group.pop("algorithm", None) != "adamw"
            group |= {"lr": config.adamw_lr, "weight_decay": config.weight_decay * hidden}
        return torch.optim.AdamW(groups, lr=config.adamw_lr, **adamw)
    shared = {
        "momentum": config.momentum,
        "weight_decay": config.weight_decay,
        **config.settings,
    }
    if config.name == "muon":
        return Muon(groups, config.lr, **{"scale": "match_rms", **shared})
    return normuon(groups, config.lr, family=config.family, **shared)
