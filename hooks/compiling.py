"""Standing around a step that torch.compile compiles: our frames stay out, the step stays in.

Without this, compiling a watched step compiles the instrument too; with
`torch.compiler.disable`, the step inside would run uncompiled, with other bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch._C._dynamo.eval_frame import set_eval_frame

Result = TypeVar("Result")


def never_compiled(function: Callable[..., Any]) -> None:
    """Have the compiler break its graph at a function, and run that function's frame as it is."""
    from torch._dynamo.eval_frame import skip_code  # slow to import; optimizers have done it

    for name in [name for name in vars(function) if name.startswith("_torchdynamo")]:
        del function.__dict__[name]  # copied from a compiled function that it wraps
    function.__dict__["_torchdynamo_disable"] = True
    function.__dict__["_torchdynamo_disable_recursive"] = False
    function.__dict__["_torchdynamo_disable_msg"] = (
        "optgeom watches this step: compile it without fullgraph=True, or before watch()"
    )
    skip_code(function.__code__)
    skip_code(resumed.__code__)


pause: Callable[[Any], Any] = set_eval_frame
"""`before = pause(None)` keeps frames from being compiled, `pause(before)` lets them again."""


def resumed(before: Any, inner: Callable[[], Result]) -> Result:
    """Call something with the compiler in the state it had before the pause."""
    pause(before)
    try:
        return inner()
    finally:
        pause(None)
