"""However many ranks there are, capture takes none of them more memory than one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ranks import assert_ended_well, run_ranks

WORKER = Path(__file__).with_name("memory_worker.py")
MODEL = 16 * 1024 * 1024 * 4
"""Bytes of the worker's model."""

# glibc maps every block by itself, so that what is resident is what is alive
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "1048576"}

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"),
]


def extra_bytes(folder: Path, world: int) -> dict[str, int]:
    """The most that a captured step takes any rank beyond an uncaptured one, by what it is of."""
    folder.mkdir()
    assert_ended_well(run_ranks(WORKER, folder, world, env=ALLOCATOR, timeout=180))
    found = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]
    return {name: max(one[name] for one in found) for name in found[0]}


NOISE = 16 << 20
"""Bytes: buffers of the collectives, pages of the interpreter."""


def test_no_rank_holds_more_than_one_process_would(tmp_path: Path) -> None:
    found = {world: extra_bytes(tmp_path / str(world), world) for world in (1, 2, 4)}
    for name in ("norms", "spectra"):
        assert all(extra[name] < found[1][name] + NOISE for extra in found.values()), found
    assert all(extra["norms"] < MODEL - NOISE for extra in found.values()), found
    assert found[4]["spectra"] < found[1]["spectra"], found
