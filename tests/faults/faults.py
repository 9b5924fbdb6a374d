"""The faults: each breaks a captured run in one way, and checks what is left of it.

Every function takes an empty folder, a source of chance and the undisturbed run; what it raises is
a failure, and what it returns is a few words of what was seen.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

import optgeom
from optgeom.traces.errors import TraceExists
from optgeom.traces.keeping.verify import verify
from optgeom.traces.schema import CELL_TABLES
from optgeom.traces.writing import sink
from tests.faults.victim import ENOUGH, STEPS, Reference, examine, live, train

Fault = Callable[[Path, random.Random, Reference], str]


def sealing_often(rows: int) -> None:
    """In a child: segments of so few rows that a short run seals many."""
    sink.SEAL_ROWS = rows


def watched(out: Path, rows: int, told: int, **more: object) -> None:
    """A run that seals often."""
    sealing_often(rows)
    train(out, told=told, **more)


def appears(path: Path) -> None:
    """Wait until a running child has made a file or folder."""
    end = time.monotonic() + ENOUGH
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.005)


def killed(folder: Path, chance: random.Random, known: Reference) -> str:
    """SIGKILL at a random moment, then the run is resumed, and perhaps killed again."""
    out, first, lives = folder / "run", None, 0
    while True:
        rows = chance.choice((16, 50, 1000))
        life = live(partial(watched, out, rows, start_step=first))
        time.sleep(chance.uniform(0.0, 1.0))
        life.kill()
        code, last = life.wait()
        lives += 1
        if not (out / "run.json").exists():
            assert last < 0
            return "before run.json"
        steps = examine(out, known, acknowledged=max(last, (first or 0) - 1))
        if code == 0 or lives > 2:
            return f"{lives} lives, {steps} steps"
        # as a checkpoint would have it: from what was acknowledged
        first = max(last + 1, first or 0)


def flushed_in_time(folder: Path, chance: random.Random, known: Reference) -> str:
    """Nobody asks for a flush: what `flush_every` promises is there all the same, then SIGKILL."""
    out, every, steps = folder / "run", chance.choice((0.1, 0.5)), 20

    def run(told: int) -> None:
        train(out, told=told, steps=steps, flushing=False, flush_every=every, held=ENOUGH)

    life = live(run)
    try:
        os.read(life.acknowledged, 4)  # the last step is over
        done, seen = time.monotonic(), 0
        while seen < steps and time.monotonic() < done + ENOUGH:
            time.sleep(0.01)
            seen = len(optgeom.open_trace(out).steps(table="metrics"))
        late = time.monotonic() - done
    finally:
        life.kill()
    life.wait()
    examine(out, known, acknowledged=steps - 1, raw=False)
    return f"flush_every {every} s: all there {late:.2f} s after the last step"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of so many bytes; False where this user may not mount one."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)],
        check=False,
        capture_output=True,
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", str(folder)], check=False)


def full_disk(folder: Path, chance: random.Random, known: Reference) -> str:
    """The disk is full at some moment: in a batch, in a seal, in run.json; training goes on."""
    size = chance.randrange(24 << 10, 700 << 10)
    rows = chance.choice((16, 50, 1000))
    disk = folder / "disk"
    disk.mkdir()
    with small_disk(disk, size) as mounted:
        if not mounted:
            return (
                f"NOT TRIED, no file system may be mounted; {file_too_large(disk, chance, known)}"
            )
        out = disk / "run"

        def run(told: int) -> None:
            sealing_often(rows)
            assert train(out, told=told) == known.loss

        life = live(run)
        code, last = life.wait()
        if not (out / "run.json").exists():
            assert code != 0  # refused where it was attached, before training
            return f"{size >> 10} KiB: no room to begin"
        assert code == 0, life.words()
        # raw matrices end before they would take a tenth of what was free
        steps = examine(out, known, acknowledged=last, raw=False)
        trace = optgeom.open_trace(out)
        if trace.failed is None:  # or there was no room to say so: then it is not closed either
            assert steps == STEPS or not trace.closed
        else:
            assert "No space" in trace.failed
        return f"{size >> 10} KiB: {steps} steps"


def file_too_large(folder: Path, chance: random.Random, known: Reference) -> str:
    """No file may grow beyond a size."""
    size, out = chance.randrange(6 << 10, 60 << 10), folder / "run"

    def run(told: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        assert train(out, told=told) == known.loss

    life = live(run)
    code, last = life.wait()
    if not (out / "run.json").exists():
        assert code != 0
        return f"{size >> 10} KiB a file: no room to begin"
    assert code == 0, life.words()
    return f"{size >> 10} KiB a file: {examine(out, known, acknowledged=last)} steps"


def unwritable(folder: Path, chance: random.Random, known: Reference) -> str:
    """The folder cannot be written any more, in the middle of the run."""
    out = folder / "run"
    folder.chmod(0o777)

    def run(told: int) -> None:
        if os.getuid() == 0:
            os.seteuid(65534)  # root may write anywhere
        sealing_often(16)
        assert train(out, told=told) == known.loss

    life = live(run)
    appears(out / "metrics")
    time.sleep(chance.uniform(0.0, 0.4))
    places = [out, *(one for one in out.iterdir() if one.is_dir())]
    for one in places:
        one.chmod(0o555)
    code, last = life.wait()
    for one in places:
        one.chmod(0o777)
    assert code == 0, life.words()
    return f"{examine(out, known, acknowledged=last)} steps"


def moved_away(folder: Path, chance: random.Random, known: Reference) -> str:
    """Somebody moves the folder while it is written."""
    out, elsewhere = folder / "run", folder / "moved"

    def run(told: int) -> None:
        sealing_often(16)
        assert train(out, told=told) == known.loss

    life = live(run)
    appears(out / "metrics")
    time.sleep(chance.uniform(0.0, 0.4))
    out.rename(elsewhere)
    code, last = life.wait()
    assert code == 0, life.words()
    return f"{examine(elsewhere, known, acknowledged=last)} steps"


def two_at_once(folder: Path, chance: random.Random, known: Reference) -> str:
    """Two runs are started on one folder at the same time: one of them is refused."""
    out = folder / "run"
    delays = [0.0, chance.uniform(0.0, 0.05)]

    def run(delay: float, told: int) -> None:
        time.sleep(delay)
        try:
            train(out, told=told)
        except TraceExists:
            os._exit(3)

    lives = [live(partial(run, delay)) for delay in chance.sample(delays, 2)]
    ends = [one.wait() for one in lives]
    assert sorted(code for code, _ in ends) == [0, 3], ends
    return f"{examine(out, known, acknowledged=STEPS - 1)} steps"


def jumping_clock(folder: Path, chance: random.Random, known: Reference) -> str:
    """The clock of the writer jumps by hours, forth and back, and so does the reader's."""
    out = folder / "run"
    jumps = [chance.uniform(-9e5, 9e5) for _ in range(8)]
    real, real_ns = time.time, time.time_ns

    def offset() -> float:
        return jumps[int(real() * 10) % len(jumps)]

    def jump() -> None:
        time.time = lambda: real() + offset()
        time.time_ns = lambda: real_ns() + int(offset() * 1e9)

    def run(told: int) -> None:
        jump()
        sealing_often(16)
        assert train(out, told=told) == known.loss

    life = live(run)
    appears(out / "run.json")
    trace, seen = optgeom.open_trace(out), 0
    try:
        jump()
        end = time.monotonic() + ENOUGH
        while len(trace.steps()) < STEPS and time.monotonic() < end:
            # the clock of the files has been moved as well: into the future, and to 1970
            stamp = chance.uniform(0, 4e9)
            for table in [one for one in out.iterdir() if one.is_dir()]:
                os.utime(table, (stamp, stamp))
            trace.refresh()
            assert len(trace.steps()) >= seen
            seen = len(trace.steps())
            time.sleep(0.02)
    finally:
        time.time, time.time_ns = real, real_ns
    code, last = life.wait()
    assert code == 0
    assert seen == STEPS, "the reader stopped to see what is new"
    return f"{examine(out, known, acknowledged=last)} steps"


def read_while_written(folder: Path, chance: random.Random, known: Reference) -> str:
    """Readers open and ask while segments are sealed and compacted under them."""
    from optgeom.traces.keeping.compact import compact

    out, stop = folder / "run", threading.Event()
    errors: list[BaseException] = []
    opened, layers = 0, sorted({layer for _, layer in known.norms})

    def read() -> None:
        nonlocal opened
        kept = None
        while not stop.is_set():
            try:
                trace = optgeom.open_trace(out)
                kept = kept or trace
                for one in (trace, kept):
                    one.refresh()
                    steps = one.steps()
                    assert steps.tolist() == [*range(len(steps))], "a step is missing"
                    for layer in layers:
                        there, norms = one.neurons(layer)
                        for step, row in zip(there.tolist(), norms, strict=True):
                            assert (row == known.norms[step, layer]).all()
                    assert one.index("metrics").repeated() == 0
                opened += 1
            except BaseException as error:  # noqa: BLE001  the thread's, told below
                errors.append(error)
                return

    life = live(partial(watched, out, chance.choice((6, 16, 40))))
    appears(out / "metrics")
    readers = [threading.Thread(target=read) for _ in range(2)]
    for one in readers:
        one.start()
    try:
        while os.waitid(os.P_PID, life.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            compact(out)
            time.sleep(chance.uniform(0.0, 0.1))
        compact(out)
    finally:
        stop.set()
        for one in readers:
            one.join(ENOUGH)
    code, last = life.wait()
    if errors:
        raise errors[0]
    assert code == 0
    files = len([*out.rglob("a*.parquet")])
    return f"{opened} openings, {examine(out, known, acknowledged=last)} steps in {files} files"


def repaired(folder: Path, chance: random.Random, known: Reference) -> str:
    """A file is cut, emptied or changed by a bit; only what was in that file may be missing."""
    from optgeom.traces.keeping.repair import repair

    out = folder / "run"
    assert live(partial(watched, out, 16)).wait()[0] == 0
    files = [one for one in out.rglob("*") if one.is_file() and one.stat().st_size]
    victim = chance.choice(files)
    data = bytearray(victim.read_bytes())
    how = chance.choice(("cut", "emptied", "flipped"))
    if how == "flipped":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    kept = {"cut": chance.randrange(len(data)), "emptied": 0, "flipped": len(data)}[how]
    where = victim.relative_to(out)
    before, inside = cells_of(out), set[tuple[int, str]]()
    if victim.suffix == ".parquet":
        rows = pq.ParquetFile(victim).read(["step", SECOND.get(where.parts[0], "layer")])
        inside = set(zip(*(column.to_pylist() for column in rows.columns), strict=True))
    victim.write_bytes(data[:kept])
    repair(out)
    assert verify(out).ok
    examine(out, known, acknowledged=-1)
    after = cells_of(out)
    lost = {table: cells - after[table] for table, cells in before.items()}
    for table, cells in lost.items():
        assert cells <= (inside if table == where.parts[0] else set()), (str(where), table, cells)
    return f"{where.parts[0]} {how}: {sum(map(len, lost.values()))} of {len(inside)} cells lost"


SECOND = {"scalars": "name"}
"""What tells the rows of a step apart, where it is not the layer."""


def cells_of(out: Path) -> dict[str, set[tuple[int, str]]]:
    """What each table of a trace has, as its reader shows it."""
    trace = optgeom.open_trace(out)
    found = {
        table: {
            (step, layer.name)
            for layer in trace.layers
            for step in trace.steps(layer.name, table=table).tolist()
        }
        for table in CELL_TABLES
    }
    scalars = trace.scalars().to_pydict()
    return found | {"scalars": set(zip(scalars["step"], scalars["name"], strict=True))}


FAULTS: dict[str, tuple[Fault, int, int]] = {
    "SIGKILL at a random moment": (killed, 200, 4),
    "nobody asks for a flush": (flushed_in_time, 10, 1),
    "the disk is full": (full_disk, 40, 3),
    "a file may not grow": (file_too_large, 20, 1),
    "a folder becomes unwritable": (unwritable, 20, 1),
    "the folder is moved": (moved_away, 10, 1),
    "two runs on one folder": (two_at_once, 20, 1),
    "the clock jumps": (jumping_clock, 10, 1),
    "read while sealed and compacted": (read_while_written, 20, 1),
    "damaged and repaired": (repaired, 60, 4),
}
"""Each fault, with how often the full harness and the short one try it."""
