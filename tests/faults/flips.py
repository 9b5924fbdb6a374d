"""A bit in each byte region of a trace that has one of everything, and truncations of its files.

Whatever changed, each question is answered as before, or refused with an error that names the
file; for raw matrices whose footer is whole it names the cell too. `python -m tests.faults.flips`
flips a bit in some places of each region; `--all` one in every byte, which takes twenty minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optgeom.traces.trace import open_trace
from tests.traces import children
from tests.traces.asking import Question, answers, questions
from tests.traces.crafting import regions
from tests.traces.trees import KEPT

_BATCH = 40
_SHORT = 1


@dataclass(frozen=True)
class Change:
    """What is done to a file.

    Attributes:
        file: relative to the trace.
        region: which part of it.
        at: the byte in which a bit is flipped, or to which the file is cut.
        bit: which one; None: it is cut.
    """

    file: str
    region: str
    at: int
    bit: int | None

    def apply(self, data: bytes) -> bytes:
        if self.bit is None:
            return data[: self.at]
        changed = bytearray(data)
        changed[self.at] ^= 1 << self.bit
        return bytes(changed)

    def __str__(self) -> str:
        what = "cut at" if self.bit is None else f"bit {self.bit} of"
        return f"{self.file}: {what} byte {self.at} ({self.region})"


def changes(trace: Path, *, full: bool, seed: int = 0) -> Iterator[Change]:
    """What is tried: of each region some bytes, or all."""
    dice = random.Random(seed)
    files = sorted(one for one in trace.rglob("*") if one.is_file())
    # raw matrices of a step and rank each, both types in each: some are enough
    raw = [one for one in files if one.parent.name == "updates"]
    files = [one for one in files if one not in raw] + raw[::4]
    for path in files:
        file = str(path.relative_to(trace))
        size = path.stat().st_size
        for region, start, end in regions(path):
            places = [*range(start, end)]
            if not full:
                places = sorted(dice.sample(places, min(_SHORT, len(places))))
            yield from (Change(file, region, at, dice.randrange(8)) for at in places)
        cuts = sorted({0, 1, 7, size // 3, size - 9, size - 1})
        if full:
            cuts = [*range(0, size, 7)]
        elif "updates" in file:
            cuts = [0, size - 1]
        yield from (Change(file, "length", at, None) for at in cuts if 0 <= at < size)


def judge(change: Change, trace: Path, before: dict[str, str], asked: dict[str, Question]) -> str:
    """What is wrong with the answers after a change; empty: nothing.

    Streams that were cut may have lost their last rows: what was cut off by the death of a writer
    looks the same.
    """
    path = trace / change.file
    data = path.read_bytes()
    path.write_bytes(change.apply(data))
    try:
        after = dict(answers(trace, asked))
    finally:
        path.write_bytes(data)
    cut = change.bit is None and change.file.endswith((".arrows", ".sums"))
    for name, answer in after.items():
        if answer == before[name]:
            continue
        if answer.startswith("!") and _names(answer, change.file):
            if _names_cell(name, answer, change):
                continue
            return f"{name}: the error does not name the cell: {answer}"
        if not cut:
            return f"{name}: {before[name]} became {answer}"
    return ""


def concerns(question: str, file: str) -> bool:
    """Whether the answer to a question is made of a file."""
    table = file.split("/")[0]
    if table == "run.json":
        return question in ("run", "metrics", "last step", "scalars", "steps of neurons")
    words = {
        "metrics": ("metrics", "newest", "grid neuron_norm_cv", "words status"),
        "spectra": ("metrics", "newest", "grid condition_number", "spectra", "words spectrum_s"),
        "derived": ("metrics", "newest"),
        "neurons": ("neurons",),
        "updates": ("matrix",),
        "scalars": ("scalars",),
    }
    return question.startswith((*words[table], f"steps of {table}", f"cells of {table}"))


def _names(answer: str, file: str) -> bool:
    stem = file.rpartition("/")[2].removesuffix(".sums").removesuffix(".arrows")
    return answer.startswith("!DamagedTrace") and stem in answer


def _names_cell(question: str, answer: str, change: Change) -> bool:
    kind, *cell = question.split(" ")
    if kind != "matrix" or change.region not in ("values", "header of values"):
        return True
    layer, stage, _ = cell
    # another stage or step of one row group is asked for by its own name
    return f"{layer} {stage} at step" in answer


def batch(trace: Path, tried: list[Change]) -> list[str]:
    """Try some changes in this process; what was wrong with each."""
    asked = questions(open_trace(trace))
    before = dict(answers(trace, asked))
    wrong = []
    for change in tried:
        told = {name: asked[name] for name in asked if concerns(name, change.file)}
        said = judge(change, trace, before, told)
        if said:
            wrong.append(f"{change}: {said}")
    return wrong


def main(full: bool = False) -> int:
    """Try all; returns how many changes went wrong, each of which is printed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="optgeom-flips-") as folder:
        trace = Path(folder) / "run"
        shutil.copytree(KEPT, trace)
        tried = [*changes(trace, full=full)]
        seen = Counter(change.region for change in tried)
        failed = 0
        for start in range(0, len(tried), _BATCH):
            failed += _in_child(trace, tried[start : start + _BATCH])
    took = time.monotonic() - started
    print(f"flips: {len(tried)} changes in {len(seen)} regions, {failed} wrong ({took:.0f} s)")
    return failed


def _in_child(trace: Path, tried: list[Change]) -> int:
    """Try some in a child; where that dies, each in one of its own, to know which it was."""
    outcome = children.run(lambda: batch(trace, tried), seconds=120)
    if outcome.how == "done":
        for wrong in outcome.what:
            print(f"FAILED: {wrong}", flush=True)
        return len(outcome.what)
    if len(tried) == 1:
        shutil.copy(KEPT / tried[0].file, trace / tried[0].file)
        print(f"FAILED: {tried[0]}: {outcome.how} {json.dumps(outcome.what)}", flush=True)
        return 1
    for change in tried:
        shutil.copy(KEPT / change.file, trace / change.file)
    return sum(_in_child(trace, [change]) for change in tried)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="a bit in every byte")
    sys.exit(1 if main(full=parser.parse_args().all) else 0)
