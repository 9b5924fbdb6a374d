"""Whether a writer's memory stays flat, and what a compaction makes of a long run.

A process writes records of every small table through a `TraceWriter`, as fast as it takes them, and
looks at its resident memory on the way. In the first quarter of a million records buffers and
queues fill for the first time, and hardly a table seals a segment, so growth is told from the
second quarter on too. Then the run is compacted, in a process of its own. Run as
``python benchmarks/soak.py`` or ``make soak``; nothing is asserted.

``--long`` writes the files of 100,000 steps of 200 layers instead, at the default clocks (every 50
steps, raw matrices every 1,000) with short lists and small matrices.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from optgeom.traces import Cell, LayerInfo, RunInfo, TraceWriter
from optgeom.traces.writing import sink

COLUMNS = {
    "metrics": {f"metric_{at}": "float64" for at in range(12)},
    "spectra": {f"spectral_{at}": "float64" for at in range(8)},
}
LAYERS = tuple(
    LayerInfo(f"blocks.{at}.up.weight", "mlp.up", at, (64, 32), "float32", "muon", 0)
    for at in range(200)
)
SAMPLES = 40
EVERY = 50
RAW_EVERY = 1000
RAW = (32, 32)
QUEUE_BYTES = 4 << 20


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def write(folder: Path, records: int, *, long: bool) -> None:
    """Write until there are so many records; a JSON line for each sample."""
    draw = np.random.default_rng(0)
    norms = draw.random((64, LAYERS[0].shape[0]), np.float32)
    spectra = np.sort(draw.random((64, LAYERS[0].shape[1]), np.float32))[:, ::-1].copy()
    raw = draw.random(RAW, np.float32)
    info = RunInfo("soak", layers=LAYERS, columns=COLUMNS)
    with TraceWriter(folder, info, wait=True, flush_every=0.5, queue_bytes=QUEUE_BYTES) as writer:
        began, written = time.perf_counter(), 0
        for step in steps(records, long=long):
            for number, layer in enumerate(LAYERS):
                key = Cell(step, "muon", layer.name, layer.kind, layer.block, "update")
                at = (step // EVERY + number) % 64
                values = {name: float(step + number) for name in COLUMNS["metrics"]}
                writer.metrics(key, {**values, "lr": 0.1, "status": "ok", "source": "dispatch"})
                values = {name: float(step - number) for name in COLUMNS["spectra"]}
                writer.spectrum(key, spectra[at], {**values, "spectrum_status": "ok"})
                writer.neurons(key, norms[at])
                if long and step % RAW_EVERY == 0:
                    writer.update(key, raw)
            writer.scalar(step, "loss", 1.0 / (1 + step))
            writer.end_step(step)
            before, written = written, written + 3 * len(LAYERS) + 1
            if written * SAMPLES // records != before * SAMPLES // records:
                seconds = time.perf_counter() - began
                sample = {"records": written, "rss": resident(), "seconds": seconds}
                sys.stdout.write(json.dumps(sample) + "\n")
                sys.stdout.flush()
            if written >= records:
                break
    if writer.failure is not None or writer.dropped:
        raise SystemExit(f"not all was written: {writer.failure!r}, dropped {writer.dropped}")


def steps(records: int, *, long: bool) -> Iterator[int]:
    """The captured steps."""
    return iter(range(0, 100_000 if long else EVERY * records, EVERY))


def quarters(samples: list[dict[str, float]]) -> list[float]:
    """The median resident memory of each quarter of the samples, bytes."""
    found = np.array_split(np.array([one["rss"] for one in samples]), 4)
    return [float(np.median(one)) for one in found]


def soak(
    folder: Path, records: int, seal_rows: int, *, long: bool = False
) -> list[dict[str, float]]:
    """Write in a process of its own; its samples."""
    command = [sys.executable, __file__, "--child", str(folder), "--records", str(records)]
    command += ["--seal-rows", str(seal_rows)]
    if long:
        command.append("--long")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


COMPACT = """
import json, resource, sys
import pyarrow as pa
from optgeom.traces.keeping.compact import compact
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = compact(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({**made.to_json(), "grown": (after - before) << 10,
                  "pool": pa.default_memory_pool().max_memory()}))
"""


def main() -> None:
    """Write, compact, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where to write; else a temporary one")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seal-rows", type=int, default=sink.SEAL_ROWS, help="of a segment")
    parser.add_argument("--long", action="store_true", help="100,000 steps of 200 layers")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    records = 2000 * (3 * len(LAYERS) + 1) if asked.long else asked.records
    if asked.child is not None:
        sink.SEAL_ROWS = asked.seal_rows
        write(asked.child, records, long=asked.long)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch) / "run"
        print(
            f"Python {platform.python_version()}, numpy {np.__version__}, pyarrow {pa.__version__}"
        )
        samples = soak(folder, records, asked.seal_rows, long=asked.long)
        print("\n| records | seconds | resident, MB |\n|---|---|---|")
        for one in samples[:: max(len(samples) // 10, 1)]:
            print(f"| {one['records']:,} | {one['seconds']:.1f} | {one['rss'] / 1e6:.1f} |")
        medians = quarters(samples)
        told = ", ".join(f"{one / 1e6:.1f}" for one in medians)
        print(
            f"\nresident memory in each quarter: {told} MB; from the first to the last "
            f"{(medians[-1] - medians[0]) / 1e6:+.1f} MB, from the second "
            f"{(medians[-1] - medians[1]) / 1e6:+.1f} MB"
        )
        done = subprocess.run(
            [sys.executable, "-c", COMPACT, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        made = json.loads(done.stdout)
        rate = made["bytes_before"] / made["seconds"] / 1e6
        print(
            f"compaction: {made['files_before']} files to {made['files_after']}, "
            f"{made['bytes_before'] / 1e6:.1f} MB to {made['bytes_after'] / 1e6:.1f} MB, "
            f"{made['seconds']:.1f} s, {rate:.1f} MB/s; resident memory +{made['grown'] / 1e6:.1f} "
            f"MB, Arrow at most {made['pool'] / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
