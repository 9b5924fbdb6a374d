"""One analysis in a process of its own: how much memory it takes at most."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import optgeom


def resident(field: str) -> int:
    """Bytes, from /proc: VmHWM is the peak, VmRSS what is held now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def main(trace: str, memory: int) -> dict[str, int]:
    """Analyze a trace; the peak of its memory over what the imports take."""
    optgeom.measure(np.eye(3))  # imports and first uses
    opened = optgeom.open_trace(trace)
    before = resident("VmRSS")
    added = optgeom.analyze(opened, memory=memory)
    return {"peak": resident("VmHWM") - before, "rows": added.num_rows}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[-1]))))
