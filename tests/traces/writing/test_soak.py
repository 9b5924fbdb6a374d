"""A writer's memory over many records, in short: `make soak` takes a million."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[3] / "benchmarks" / "soak.py"
MOST_MB = 12.0
"""What differs between two looks: the queue (4 MiB), the rows of a segment that is being sealed
(a thousand a table), what the allocator keeps. Half of the records, kept as they are taken, would
take 50 MB; measured were -6 to +3 MB."""


def test_memory_is_flat_from_the_first_sealed_segments_on(tmp_path: Path) -> None:
    command = [sys.executable, str(SOAK), str(tmp_path / "run")]
    command += ["--records", "100000", "--seal-rows", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (growth,) = re.findall(r"from the second ([+-][0-9.]+) MB", done.stdout)
    assert float(growth) < MOST_MB
    ((before, after),) = re.findall(r"compaction: (\d+) files to (\d+),", done.stdout)
    assert int(before) > 12
    assert int(after) == 5
