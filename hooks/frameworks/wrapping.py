"""What frameworks put around an optimizer: the one inside is watched, since it is what steps.

Neither package is imported: a wrapper that is here has brought its own.
"""

from __future__ import annotations

import sys
from typing import Any

from optgeom.hooks.errors import WatchError

_WRAPPERS = {
    "AcceleratedOptimizer": ("accelerate",),
    "LightningOptimizer": ("lightning", "pytorch_lightning"),
}


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside accelerate's or Lightning's wrapper, whose `step` does not always step.

    Args:
        optimizer: any.

    Raises:
        WatchError: it is one of DeepSpeed's, whose weights are not the model's matrices.
    """
    kind = type(optimizer)
    package = kind.__module__.partition(".")[0]
    if kind.__name__ == "DeepSpeedOptimizerWrapper" or package == "deepspeed":
        raise WatchError(
            f"{kind.__name__} keeps the weights in flat pieces, which cannot be watched: "
            "use DDP or FSDP2"
        )
    if package in _WRAPPERS.get(kind.__name__, ()):
        return unwrapped(optimizer.optimizer)
    return optimizer


def rewired(optimizer: Any) -> Any:
    """Have accelerate's wrapper call the watched step under a GradScaler too.

    It keeps the step that the optimizer had when it was wrapped, and puts that in place at every
    step that a GradScaler decides on; what it keeps is made anew, as its unpickling does.

    Args:
        optimizer: any, once the one inside is watched.

    Returns:
        The same.
    """
    if unwrapped(optimizer) is not optimizer and getattr(optimizer, "scaler", None) is not None:
        patch = sys.modules[type(optimizer).__module__].patch_optimizer_step
        optimizer._optimizer_original_step_method = optimizer.optimizer.step
        optimizer._optimizer_patched_step_method = patch(optimizer, optimizer.optimizer.step)
    return optimizer
