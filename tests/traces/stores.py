"""What the tests of writing to an object store share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from optgeom.traces.store import Trace
from tests.traces.objects import Environ, Objects
from tests.traces.test_s3 import everything

UNAVAILABLE = "503 Service Unavailable"


def spools(tmp_path: Path) -> list[Path]:
    return sorted(one.parent for one in tmp_path.glob("temporary/*/*/*/.spool.json"))


@contextmanager
def away(objects: Objects, answer: str = UNAVAILABLE) -> Iterator[threading.Event]:
    """A store that refuses everything; the event is set once it has."""
    refused = threading.Event()

    def refuse(_: Environ) -> str:
        refused.set()
        return answer

    with objects.answering(refuse):
        yield refused


def is_write(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")


def same_records(stored: Trace, local: Trace) -> None:
    """All that both hold but the times at which they were made."""
    first, second = everything(stored), everything(local)
    infos = first.pop("info"), second.pop("info")
    assert first == second
    plain = [replace(one, created="", attempts=()) for one in infos]
    assert plain[0] == plain[1]


def let_mirrors_end() -> None:
    """A writer that is closed leaves a request that is under way to its thread."""
    for one in threading.enumerate():
        if one.name == "optgeom-mirror":
            one.join(20)
