"""Numbers in TensorBoard's event files."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optgeom.hooks.errors import WatchError
from optgeom.hooks.sinks.series import Point, Series
from optgeom.hooks.sinks.sink import package
from optgeom.traces.files.address import is_uri, masked


class TensorBoard:
    """Writes event files into a folder, a new one each time it is opened."""

    def __init__(self, folder: str | os.PathLike[str], *, series: Series | None = None) -> None:
        """Be ready; nothing is written before the run begins.

        Args:
            folder: a log folder, that of the framework's own logger or another.
            series: which numbers; None: Series().

        Raises:
            WatchError: the package tensorboard is not installed, or the folder is no local one.
        """
        if is_uri(os.fspath(folder)):
            raise WatchError(
                f"TensorBoard writes to local folders, got {masked(os.fspath(folder))}: write "
                "one and copy it"
            )
        self.series = Series() if series is None else series
        self._folder = Path(folder)
        self._writers = package("tensorboard.summary.writer.event_file_writer", "TensorBoard")
        self._events = package("tensorboard.compat.proto.event_pb2", "TensorBoard")
        self._writer: Any = None

    def open(self, run: str) -> None:
        """Make the folder and the file.

        Args:
            run: is not used; TensorBoard calls a run as its folder.

        Raises:
            WatchError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = self._writers.EventFileWriter(str(self._folder))
        except OSError as error:
            raise WatchError(f"TensorBoard cannot write to {self._folder}: {error}") from error

    def send(self, points: Sequence[Point]) -> None:
        """Write one event per number.

        Args:
            points: by step and name.
        """
        for step, name, value in points:
            event = self._events.Event(wall_time=time.time(), step=step)
            event.summary.value.add(tag=name, simple_value=value)
            self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
