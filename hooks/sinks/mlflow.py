"""Numbers in a run of MLflow."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from optgeom.hooks.errors import WatchError
from optgeom.hooks.sinks.series import Point, Series
from optgeom.hooks.sinks.sink import package, refusal

BATCH = 1000
"""Metrics that a server takes at once."""

_REFUSED = re.compile(r"[^\w\-. :/]")


class MLflow:
    """Logs to the run that is active, or to one of its own. Needs no more than `mlflow-skinny`."""

    def __init__(
        self,
        run_id: str | None = None,
        *,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        series: Series | None = None,
    ) -> None:
        """Be ready; nothing is sent before the run begins.

        Args:
            run_id: a run that is there; None: the one that is active when training begins, else
                one that is made, and ended at the end.
            tracking_uri: of the server or store; None: MLflow's own setting.
            experiment: by name, of a run that is made; it is made if it is not there.
            series: which numbers; None: Series().

        Raises:
            WatchError: the package mlflow is not installed, or settings that exclude each other.
        """
        self.series = Series() if series is None else series
        self._mlflow = package("mlflow", "MLflow")
        self._exceptions = package("mlflow.exceptions", "MLflow")
        if run_id is not None and experiment is not None:
            raise WatchError("MLflow takes run_id= or experiment= of a new run, got both")
        self._given, self._uri, self._experiment = run_id, tracking_uri, experiment
        self._client: Any = None
        self._run_id = ""
        self._is_ours = False

    def open(self, run: str) -> None:
        """Take the run, or make it.

        Args:
            run: the name of one that is made.

        Raises:
            WatchError: the store refuses, or has no such run.
        """
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=self._uri)
            found = self._given or self._active()
            self._is_ours = found is None
            if found is not None:
                self._run_id = self._client.get_run(found).info.run_id
            else:
                made = self._client.create_run(self._experiment_id(), run_name=run)
                self._run_id = made.info.run_id
        except self._exceptions.MlflowException as error:
            raise self._refusal("MLflow did not begin a run", error)  # noqa: B904 -- it sets the cause

    def send(self, points: Sequence[Point]) -> None:
        """Log metrics in batches.

        Args:
            points: by step and name. Signs that MLflow refuses, such as the brackets of a piece of
                a fused matrix, become underscores.

        Raises:
            WatchError: the store refuses.
        """
        now = time.time_ns() // 1_000_000
        metric = self._mlflow.entities.Metric
        for start in range(0, len(points), BATCH):
            some = points[start : start + BATCH]
            made = [metric(_REFUSED.sub("_", name), value, now, step) for step, name, value in some]
            try:
                self._client.log_batch(self._run_id, metrics=made, synchronous=True)
            except self._exceptions.MlflowException as error:
                raise self._refusal("MLflow refused metrics", error)  # noqa: B904 -- as above

    def close(self) -> None:
        """End the run, if it was made here.

        Raises:
            WatchError: the store refuses.
        """
        client, self._client = self._client, None
        if self._is_ours and client is not None:
            try:
                client.set_terminated(self._run_id)
            except self._exceptions.MlflowException as error:
                raise self._refusal("MLflow did not end the run", error)  # noqa: B904 -- as above

    def _refusal(self, said: str, error: BaseException) -> WatchError:
        """An error that shows no password: the address may hold one, and MLflow's texts it."""
        return refusal(said, error, self._uri or str(self._mlflow.get_tracking_uri()))

    def _active(self) -> str | None:
        asked = self._uri is not None or self._experiment is not None
        active = None if asked else self._mlflow.active_run()
        return None if active is None else str(active.info.run_id)

    def _experiment_id(self) -> str:
        if self._experiment is None:
            return "0"
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            return str(self._client.create_experiment(self._experiment))
        return str(found.experiment_id)
