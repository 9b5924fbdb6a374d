"""Numbers in a run of Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from optgeom.hooks.errors import WatchError
from optgeom.hooks.sinks.series import Point, Series
from optgeom.hooks.sinks.sink import package, refusal


class WandB:
    """Logs to the run that is active, or to one of its own, with the trace's steps as x-axis.

    W&B counts a step of its own per call of `log`, so `step=` is not passed: the charts are drawn
    over `optgeom/step`.
    """

    def __init__(self, run: Any = None, *, series: Series | None = None, **init: Any) -> None:
        """Be ready; nothing is sent before the run begins.

        Args:
            run: a run of wandb's; None: the one that is active when training begins, else one that
                is made, and finished at the end.
            series: which numbers; None: Series().
            **init: for `wandb.init`, such as project=.

        Raises:
            WatchError: the package wandb is not installed, or both a run and settings of a new one
                were given.
        """
        self.series = Series() if series is None else series
        self._wandb = package("wandb", "WandB")
        if run is not None and init:
            raise WatchError(
                f"WandB takes a run or what wandb.init takes, got both: leave out {', '.join(init)}"
            )
        if run is not None and not callable(getattr(run, "log", None)):
            raise WatchError(f"WandB(run=...) takes what wandb.init returns, got {run!r}")
        self._given, self._init = run, init
        self._run: Any = None
        self._is_ours = False

    def open(self, run: str) -> None:
        """Take the run, or make it.

        Args:
            run: the name of one that is made.

        Raises:
            WatchError: wandb does not begin.
        """
        self._run = self._given or (None if self._init else self._wandb.run)
        self._is_ours = self._run is None
        if self._is_ours:
            settings = {"name": run, **self._init}
            if self._wandb.run is not None:  # beside the framework's, and not in its place
                settings.setdefault("reinit", "create_new")
            try:
                self._run = self._wandb.init(**settings)
            except self._wandb.Error as error:
                raise refusal("wandb.init failed", error)  # noqa: B904 -- it sets the cause
        step = f"{self.series.prefix}/step"
        self._run.define_metric(step, hidden=True)
        self._run.define_metric(f"{self.series.prefix}/*", step_metric=step)

    def send(self, points: Sequence[Point]) -> None:
        """Log one row per step.

        Args:
            points: by step and name.
        """
        for step, of_step in groupby(points, key=lambda one: one.step):
            row = {one.name: one.value for one in of_step}
            self._run.log({f"{self.series.prefix}/step": step, **row})

    def close(self) -> None:
        """Finish the run, if it was made here."""
        run, self._run = self._run, None
        if run is not None and self._is_ours:
            run.finish()
