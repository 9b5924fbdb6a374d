"""Fuzz the reader of run.json: `python -m tests.fuzz.runfile CORPUS -max_total_time=60`."""

from __future__ import annotations

from tests.fuzz.fuzzing import KEPT, fuzz  # first: it has what follows instrumented

# isort: split

import json

from optgeom.traces.info import dump, parse
from tests.traces.crafting import sealed_run


def read(data: bytes) -> None:
    """As it is; and if it is an object, with a digest that is right."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        try:
            data = sealed_run(content)
        except RecursionError:
            return
    info = parse(data, "run.json")
    if parse(dump(info), "again") != info and b"NaN" not in data:
        raise RuntimeError("what was read is not what is written")


if __name__ == "__main__":
    kept = (KEPT / "run.json").read_bytes()
    small = json.dumps({"schema": 1, "run": "a", "layers": json.loads(kept)["layers"][:1]})
    fuzz(read, {"kept": kept, "small": small.encode()})
