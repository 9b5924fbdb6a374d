"""One recorder for one training run of a framework, again and again."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from optgeom.hooks.errors import WatchError
from optgeom.hooks.guard import is_of_a_signal
from optgeom.hooks.recorder import Recorder
from optgeom.hooks.watch import watch

logger = logging.getLogger(__name__)

_OURS = ("model", "optimizer", "out")
_SETTINGS = tuple(name for name in inspect.signature(watch).parameters if name not in _OURS)


class Attached:
    """What the callbacks share: settings checked early, one recorder open at a time."""

    def __init__(self, out: str | os.PathLike[str], **settings: Any) -> None:
        """Be ready to watch; nothing is written before training begins.

        Args:
            out: the folder of the trace, or a URI, as in `optgeom.watch`.
            **settings: what else `optgeom.watch` takes. `start_step` is the step that the
                framework resumes at, unless it is given.

        Raises:
            WatchError: a setting that `watch` does not have, or `out` that is no path.
        """
        super().__init__()
        if not isinstance(out, (str, os.PathLike)):
            raise WatchError(
                f"{type(self).__name__} takes the folder of the trace first, got {out!r}: "
                f'{type(self).__name__}("runs/a", every=50)'
            )
        unknown = [name for name in settings if name not in _SETTINGS]
        if unknown:
            hint = " comes from the framework" if unknown[0] in _OURS else ""
            raise WatchError(
                f"{type(self).__name__} has no setting {unknown[0]!r}{hint}: "
                f"there are {', '.join(_SETTINGS)}"
            )
        self._out = out
        self._settings = settings
        self._recorder: Recorder | None = None
        self._has_written = False
        self._follows = True

    @property
    def recorder(self) -> Recorder | None:
        """That of the training run which goes on, or was the last; None before the first."""
        return self._recorder

    def attach(self, model: nn.Module, optimizers: Sequence[Any], step: int) -> None:
        """Begin to watch.

        Args:
            model: that is trained.
            optimizers: that train it.
            step: that comes next; beyond 0 where a checkpoint is resumed.

        Raises:
            WatchError: as `watch` does.
            TraceError: as `watch` does.
        """
        self.detach()  # a run that ended by an exception told nobody
        settings = dict(self._settings)
        if settings.get("start_step") is None and (step or self._has_written):
            settings["start_step"] = step
        self._recorder = watch(model, list(optimizers), self._out, **settings)
        self._has_written = True

    def follow(self, read: Callable[[], Mapping[str, Any]]) -> None:
        """Record what is a number among a framework's scalars.

        Args:
            read: finds them. If it raises, that is said once, and no scalars are followed any more.
        """
        if self._recorder is None or not self._follows:
            return
        try:
            numbers = {str(name): one for name, one in read().items() if _is_number(one)}
        except Exception as error:  # the run is not stopped for a loss curve
            if is_of_a_signal(error):
                raise
            self._follows = False
            logger.warning(
                "what the framework logs is not recorded any more: %s: %s",
                type(error).__name__,
                error,
            )
            return
        if numbers:
            self._recorder.record(numbers)

    def detach(self, error: BaseException | None = None) -> None:
        """End the recorder, if one is open.

        Args:
            error: what ended training.
        """
        if self._recorder is not None:
            self._recorder.__exit__(type(error) if error else None, error, None)


def _is_number(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0
    return isinstance(value, (Number, Tensor)) and not isinstance(value, bool)


def framework(*names: str, extra: str, callback: str) -> ModuleType:
    """The first of some packages that is there.

    Args:
        *names: of modules.
        extra: of pip, that brings it.
        callback: who asks.

    Raises:
        WatchError: none is installed.
    """
    failures = []
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            failures.append(f"{name}: {error}")
    raise WatchError(
        f"{callback} needs {' or '.join(names)} ({'; '.join(failures)}): "
        f"pip install 'optgeom[{extra}]'"
    )
