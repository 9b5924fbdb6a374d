"""What one writer says in run.json, and when: after changes, as a heartbeat, at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optgeom.traces.files.address import shareable
from optgeom.traces.info import RUN_FILE, RunInfo, dump
from optgeom.traces.writing.attempts import end, update_run

_HEARTBEAT = 20.0
_MAY_HOLD_SECRETS = ("command", "capture", "config")


class Manifest:
    """run.json in a writer's folder.

    Args:
        folder: which exists.
        info: what it says, this attempt included.
        attempt: the number of this attempt.
        writes: whether this rank writes it; the others only know what it says.
        address: of the run, whose secrets stay out of it.

    Attributes:
        info: what it says.
        has_ended: it says that the attempt was closed, or what failed.
    """

    def __init__(self, folder: Path, info: RunInfo, attempt: int, *, writes: bool, address: str):
        self._folder, self._writes, self._address = folder, writes, address
        self._attempt = attempt
        self._beaten = 0.0
        self.info = info
        self.has_ended = False

    def amend(self, changes: Mapping[str, Any]) -> None:
        """Replace fields; `save` writes them.

        Raises:
            TypeError: JSON cannot hold them; nothing is changed.
        """
        changed = without_secrets(replace(self.info, **changes), self._address)
        dump(changed)  # what JSON cannot hold must not stand in the way of the last word
        self.info = changed

    def save(self) -> None:
        """Write it, with what other processes have written meanwhile.

        Raises:
            OSError: it cannot be written.
            TraceError: another run's has taken its place.
        """
        if self._writes:
            self.info = update_run(self._folder, self.info)

    def beat(self) -> None:
        """Touch run.json now and then: how a reader tells a slow run from a dead one."""
        if not self._writes or time.monotonic() - self._beaten < _HEARTBEAT:
            return
        self._beaten = time.monotonic()
        try:
            os.utime(self._folder / RUN_FILE)
        except FileNotFoundError:
            self.save()

    def end(self, failure: BaseException | None) -> None:
        """Say that the attempt was closed, or what failed, and write it."""
        self.info = without_secrets(end(self.info, self._attempt, failure), self._address)
        self.save()
        self.has_ended = True


def without_secrets(info: RunInfo, address: str) -> RunInfo:
    """What run.json may say: keys that stand in the command or the settings are masked.

    Args:
        info: as it was given.
        address: of the run; empty for a folder.
    """
    kept = {name: shareable(getattr(info, name), address) for name in _MAY_HOLD_SECRETS}
    attempts = tuple(
        one if one.failed is None else replace(one, failed=shareable(one.failed, address))
        for one in info.attempts
    )
    return replace(info, **kept, attempts=attempts)
