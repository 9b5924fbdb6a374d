"""What pytorch-optimizer's documentation and published formulas say of every class's decay.

Most classes say `weight_decouple`: lr * weight_decay of the weights, or weight_decay times the
weights added to the gradient. Here are the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from tests.optimizers.case import (
    DECOUPLED,
    IN_DIRECTION,
    IN_GRADIENT,
    NONE,
    Decay,
    Moment,
)

INTERPOLATING = (
    "A2Grad",
    "AccSGD",
    "DAdaptSGD",
    "MADGRAD",
    "Magma",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
)
"""Every step pulls the weights towards another iterate, whatever their decay is."""

WITHOUT_EFFECT = (
    "AdamP",
    "AdamWSN",
    "Grams",
    "LaProp",
    "Prodigy",
    "RAdam",
    "SGDP",
    "SGDSaI",
    "TAM",
)
"""Classes that add coupled weight decay to a gradient which they have used already."""

ALWAYS_DECOUPLED = (
    "AdaLOMO",
    "AdamMini",
    "Conda",
    "DASH",
    "DeMo",
    "Fira",
    "FlashAdamW",
    "GaLore",
    "MuonClip",
    "SOAP",
    "SPAM",
    "SaRA",
    "StableSPAM",
)
"""Classes without a `weight_decouple` whose weight decay is AdamW's."""

AROUND_ADAMW = (
    "FriendlySAM",
    "GSAM",
    "LookSAM",
    "PCGrad",
    "SAM",
    "SafeFP16Optimizer",
    "TRAC",
    "WSAM",
)
"""Classes that leave the update to another optimizer: here AdamW."""


def _debias(beta: float, step: int) -> float:
    return 1.0 - beta**step


def _apollo(m: Moment) -> float:
    (beta1, beta2), step = m.group["betas"], m.later_group["step"]
    return m.lr * m.weight_decay * math.sqrt(_debias(beta2, step)) / _debias(beta1, step)


def _adams(m: Moment) -> float:
    states = [m.optimizer.state[p] for g in m.optimizer.param_groups for p in g["params"]]
    mean = torch.cat([s["exp_avg_sq"].flatten() for s in states]).mean().item()
    mean /= _debias(m.group["betas"][1], m.later_group["step"])
    return m.lr * m.weight_decay / math.sqrt(mean)


def _stable_adamw(m: Moment) -> float:
    gradient, second = m.parameter.grad, m.optimizer.state[m.parameter]["exp_avg_sq"]
    assert gradient is not None
    ratio = (gradient.square() / second.clip(min=m.group["eps"] ** 2)).mean().item()
    return m.lr * m.weight_decay / max(1.0, math.sqrt(ratio))


def _adapted(m: Moment) -> float:
    return float(m.group["d"] * m.lr * m.weight_decay)


def _proximal(rate: float) -> float:
    return 1.0 - 1.0 / (1.0 + rate)


def _splus(m: Moment) -> float:
    return m.lr * m.weight_decay * 2.0 / sum(m.parameter.shape)


def _lookahead(m: Moment) -> float:
    return m.lr * m.weight_decay if m.later_group["counter"] else 0.0


ADAPTED = Decay("decoupled", _adapted, "d * lr * weight_decay")

DECAYS: Mapping[tuple[str, bool | None], Decay] = {
    **{(name, way): IN_DIRECTION for name in INTERPOLATING for way in (True, False, None)},
    **{(name, False): NONE for name in WITHOUT_EFFECT},
    **{(name, None): DECOUPLED for name in ALWAYS_DECOUPLED + AROUND_ADAMW},
    # the scale of the decay is the step's own
    ("APOLLO", True): Decay("decoupled", _apollo, "lr * weight_decay, bias corrected"),
    ("ASGD", True): Decay(
        "decoupled", lambda m: m.later_group["lr"] * m.weight_decay, "new lr * weight_decay"
    ),
    ("AdamS", True): Decay("decoupled", _adams, "lr * weight_decay / rms of all"),
    ("StableAdamW", True): Decay("decoupled", _stable_adamw, "lr * weight_decay / rms"),
    ("SPlus", True): Decay("decoupled", _splus, "lr * weight_decay * 2 / (m + n)"),
    **{(name, True): ADAPTED for name in ("DAdaptAdam", "DAdaptAdan", "DAdaptLion", "Prodigy")},
    # the weights are divided by 1 + lr * weight_decay
    ("Adan", False): Decay(
        "decoupled", lambda m: _proximal(m.lr * m.weight_decay), "1 - 1 / (1 + lr * weight_decay)"
    ),
    ("DAdaptAdan", False): Decay(
        "decoupled", lambda m: _proximal(_adapted(m)), "1 - 1 / (1 + d * lr * weight_decay)"
    ),
    # after every step the weights are divided by the root of 1 + lr ** 2
    ("Fromage", None): Decay(
        "decoupled", lambda m: 1.0 - 1.0 / math.sqrt(1.0 + m.lr**2), "1 - 1 / sqrt(1 + lr ** 2)"
    ),
    # every k-th step pulls the weights half the way back
    ("Lookahead", None): Decay(
        "decoupled+in_direction", _lookahead, "lr * weight_decay, 0 every k-th step"
    ),
    # the weights are added to the gradient
    ("Amos", None): IN_GRADIENT,
    ("ApolloDQN", None): IN_GRADIENT,
    ("LARS", None): IN_GRADIENT,
    ("OrthoGrad", None): IN_GRADIENT,
    ("ScalableShampoo", None): IN_GRADIENT,
    ("ScheduleFreeWrapper", None): IN_GRADIENT,
    # they enter after the gradient was turned into a direction
    ("AdaSmooth", True): IN_DIRECTION,
    ("FAdam", None): IN_DIRECTION,
    ("FOCUS", None): IN_DIRECTION,
    ("Kron", True): IN_DIRECTION,
    ("Lamb", False): IN_DIRECTION,
    ("LoRARite", None): IN_DIRECTION,
    # it keeps the decayed gradient, and so the weights come in one step late, from its state
    ("MARS", False): NONE,
    # what it calls weight decay scales the gradient
    ("BSAM", None): NONE,
}


def decay_of(name: str, decoupled: bool | None, has_decay: bool) -> Decay:
    """What the package says of a class's weight decay.

    Args:
        name: of the class.
        decoupled: its setting `weight_decouple`, None where it has none.
        has_decay: whether a weight decay is set.
    """
    if (name, decoupled) in DECAYS:
        return DECAYS[name, decoupled]
    if not has_decay:
        return NONE
    if decoupled is None:
        raise KeyError(f"what the weight decay of {name} does is not stated")
    return DECOUPLED if decoupled else IN_GRADIENT
