"""A trace that was opened before its files were replaced answers as if nothing had happened."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from optgeom.traces import Trace, open_trace
from optgeom.traces.derived import write_derived
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.cache import Cache
from optgeom.traces.files.place import find
from optgeom.traces.info import RunInfo
from optgeom.traces.keeping.compact import compact
from optgeom.traces.keeping.export_rows import Chosen, Rows, joined_rows, list_rows
from optgeom.traces.keeping.repair import repair
from optgeom.traces.reading import parts as tables
from optgeom.traces.reading.reader import TraceFiles
from optgeom.traces.schema import KEYS, SCHEMA_VERSION
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import sink
from tests.traces.compacting import as_of_schema_1, everything, parts
from tests.traces.objects import BUCKET, Objects

Record = Callable[..., None]
STEPS = [*range(0, 200, 10)]
QUESTIONS: dict[str, Callable[[Trace], object]] = {
    "grid": lambda trace: trace.grid("neuron_norm_cv").values.tobytes(),
    "grid of spectra": lambda trace: trace.grid("condition_number").values.tobytes(),
    "words": lambda trace: trace.words("status").codes.tobytes(),
    "metrics": lambda trace: repr(trace.metrics().to_pylist()),
    "spectrum": lambda trace: trace.spectrum(100, "head.weight").tobytes(),
    "spectra": lambda trace: [one.tobytes() for one in trace.spectra("head.weight")[1]],
    "neuron norms": lambda trace: trace.neuron_norms(100, "head.weight").tobytes(),
    "neurons": lambda trace: trace.neurons("head.weight")[1].tobytes(),
    "matrix": lambda trace: trace.matrix(100, "head.weight").tobytes(),
    "matrices": lambda trace: [(cell, one.tobytes()) for cell, one in trace.matrices()],
    "scalars": lambda trace: repr(trace.scalars().to_pylist()),
    "steps": lambda trace: [*trace.steps(), trace.last_step],
    "attempts": lambda trace: trace.attempts("head.weight", "update"),
}


@pytest.fixture
def path(tmp_path: Path, info: RunInfo, record: Record, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A closed run of many segments; raw matrices at half of its steps."""
    monkeypatch.setattr(sink, "SEAL_ROWS", 20)
    with TraceWriter(tmp_path / "a", info, flush_every=1e6) as writer:
        for step in STEPS:
            record(writer, [step], raw=(*STEPS[::2],))
            writer.flush()
    assert len(parts(tmp_path / "a")["metrics"]) > 4
    return tmp_path / "a"


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("known", ["opened", "asked for keys"])
def test_every_question_is_answered_after_a_compaction(
    path: Path, question: str, known: str
) -> None:
    expected = QUESTIONS[question](open_trace(path))
    trace = open_trace(path)
    if known == "asked for keys":
        for table in ("metrics", "spectra", "neurons", "updates"):
            trace.index(table)
        trace.scalars()
    assert compact(path).merged
    assert QUESTIONS[question](trace) == expected
    assert QUESTIONS[question](trace) == expected


def test_what_was_kept_is_answered_too(path: Path) -> None:
    trace = open_trace(path)
    expected = everything(trace)
    compact(path)
    assert everything(trace) == expected
    trace.cache.limit = 0
    trace.refresh()
    assert everything(trace) == expected


def test_a_walk_through_matrices_goes_on(path: Path) -> None:
    expected = [(cell, one.tobytes()) for cell, one in open_trace(path).matrices()]
    walk, found = open_trace(path).matrices(), []
    for cell, one in walk:
        found.append((cell, one.tobytes()))
        if len(found) == 7:
            compact(path)
    assert found == expected


def test_threads_go_on_while_files_are_replaced(path: Path, info: RunInfo, record: Record) -> None:
    asking = ("grid", "spectra", "neurons", "matrix", "matrices", "scalars")
    expected = {name: QUESTIONS[name](open_trace(path)) for name in asking}
    trace, stop = open_trace(path), threading.Event()
    trace.cache.limit = 20_000  # most is read anew each time

    def ask_on(name: str) -> int:
        count = 0
        while not stop.is_set():
            assert QUESTIONS[name](trace) == expected[name]
            count += 1
        return count

    with ThreadPoolExecutor(len(asking)) as pool:
        asked = {name: pool.submit(ask_on, name) for name in asking}
        try:
            compact(path)
        finally:
            threading.Event().wait(0.3)
            stop.set()
        assert all(one.result() for one in asked.values())


def test_a_segment_that_is_lost_is_named_each_time(path: Path) -> None:
    trace = open_trace(path)
    trace.index("neurons")
    victim = path / "neurons" / parts(path)["neurons"][1].file
    victim.unlink()
    for _ in range(2):
        with pytest.raises(DamagedTrace, match=f"{victim.name} is gone"):
            trace.neurons("head.weight")
        with pytest.raises(DamagedTrace, match=f"{victim.name} is gone"):
            trace.neuron_norms(STEPS[4], "head.weight")
    assert trace.spectra("head.weight")[0].tolist() == STEPS


def test_an_analysis_that_is_removed_is_named(path: Path) -> None:
    keys = open_trace(path).metrics().select(list(KEYS))
    write_derived(
        open_trace(path), "later", keys.append_column("y", pa.array([1.0] * keys.num_rows))
    )
    trace = open_trace(path)
    assert trace.grid("neuron_norm_cv").values.size
    shutil.rmtree(path / "derived")
    with pytest.raises(DamagedTrace, match="is gone"):
        trace.grid("y")
    trace.refresh()
    assert not trace.grid("y").recorded.any()


def test_a_segment_that_a_repair_sets_aside_is_not_missed(path: Path) -> None:
    trace = open_trace(path)
    trace.index("neurons")
    victim = path / "neurons" / parts(path)["neurons"][1].file
    data = bytearray(victim.read_bytes())
    data[-20] ^= 1
    victim.write_bytes(data)
    with pytest.raises(DamagedTrace, match=victim.name):
        trace.neurons("head.weight")
    assert repair(path)
    assert 0 < len(trace.neurons("head.weight")[0]) < len(STEPS)


def test_what_a_repair_rescues_of_a_merged_segment_is_read(path: Path) -> None:
    compact(path)
    trace = open_trace(path)
    trace.index("metrics")
    victim = path / "metrics" / parts(path)["metrics"][0].file
    data = bytearray(victim.read_bytes())
    data[len(data) // 3] ^= 1
    victim.write_bytes(data)
    (action,) = repair(path)
    assert action.file == f"metrics/{victim.name}"
    assert trace.grid("condition_number").steps.tolist() == STEPS
    assert trace.metrics().column("neuron_norm_cv").null_count == (
        trace.metrics().num_rows - action.rescued
    )


def test_a_refresh_after_a_compaction_opens_only_what_is_new(
    path: Path, info: RunInfo, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Counted(tables.SealedPart):
        def __init__(self, *args: object, **kwargs: object) -> None:
            opened.append(str(args[2]))
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(tables, "SealedPart", Counted)
    with TraceWriter(path, info, start_step=200, flush_every=1e6) as writer:
        for step in (200, 210, 220, 230):
            record(writer, [step])
            writer.flush()
        trace = open_trace(path)
        trace.grid("neuron_norm_cv")
        compact(path)
        trace.refresh()
        trace.grid("neuron_norm_cv")
        del opened[:]
        for step in (240, 250, 260, 270):
            record(writer, [step])
            writer.flush()
            assert trace.refresh()
            assert trace.grid("neuron_norm_cv").steps[-1] == step
    assert opened
    assert all("/a0001-" in one and "-000" not in one.partition("-s")[2][:7] for one in opened)
    assert trace.refresh()


def test_rows_that_were_taken_up_by_the_way_are_told_by_the_next_refresh(
    path: Path, info: RunInfo, record: Record
) -> None:
    trace = open_trace(path)
    trace.index("neurons")
    with TraceWriter(path, info, start_step=200) as writer:
        record(writer, [200])
    compact(path)
    assert trace.neurons("head.weight")[0].tolist() == [*STEPS, 200]
    assert trace.refresh()
    assert not trace.refresh()


def test_what_was_made_of_files_that_went_meanwhile_is_not_kept_for_those_of_now(
    tmp_path: Path, info: RunInfo
) -> None:
    with TraceWriter(tmp_path, info, flush_every=1e6) as writer:
        files = TraceFiles(find(tmp_path), Cache())
        seen: list[str] = []

        def made_while_a_run_goes_on() -> str:
            seen.append(files.version)
            writer.scalar(len(seen), "loss", 0.5)
            writer.flush()
            assert files.refresh()
            return seen[-1]

        assert files.kept(("x",), made_while_a_run_goes_on, len) == seen[-1]
        assert len(seen) > 1
        assert files.kept(("x",), lambda: files.version, len) == files.version != seen[-1]
        assert files.kept(("x",), made_while_a_run_goes_on, len) == files.version


def test_a_trace_in_an_object_store_is_compacted_and_stays_open(
    path: Path, objects: Objects
) -> None:
    as_of_schema_1(path)
    objects.upload(path, "stays-open/a")
    uri = objects.uri("stays-open/a")
    expected = everything(open_trace(path))
    trace = open_trace(uri)
    trace.index("neurons")
    before = files_of(objects)
    made = compact(uri)
    assert made.files_before == len(before)
    assert made.files_after == len(files_of(objects)) < len(before) / 3
    assert not made.left
    assert everything(trace) == expected
    assert everything(open_trace(uri)) == expected
    assert open_trace(uri).info.schema == SCHEMA_VERSION
    assert find(uri).shown == made.path
    assert all(BUCKET not in one.into for one in made.merged)


def files_of(objects: Objects) -> list[str]:
    """Without the copy of run.json, which nobody reads."""
    return [one for one in objects.names("stays-open/a") if not one.endswith(".run-copy.json")]


@pytest.mark.parametrize("table", ["joined", "neurons", "spectra"])
def test_an_export_goes_on(path: Path, table: str) -> None:
    def rows() -> Rows:
        trace = open_trace(path)
        files = TraceFiles(trace.place, trace.cache)
        if table == "joined":
            return joined_rows(files, Chosen(), window=4)
        return list_rows(files, table, Chosen())

    whole = [one.to_pylist() for one in rows().tables]
    assert len(whole) > 1
    left = iter(rows().tables)
    found = [next(left).to_pylist()]
    compact(path)
    assert found + [one.to_pylist() for one in left] == whole


def test_all_tables_show_the_same_moment(
    path: Path, info: RunInfo, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush between the reading of two streams shows with the next refresh, in both."""
    with TraceWriter(path, info, start_step=1000, flush_every=1e6) as writer:
        record(writer, [1000])
        writer.flush()
        trace, load = open_trace(path), TraceFiles._load
        trace.metrics()
        record(writer, [1010])
        writer.flush()
        assert trace.refresh()

        def loading(self: TraceFiles, name: str) -> object:
            found = load(self, name)
            if name == "metrics":
                monkeypatch.undo()
                record(writer, [1020])
                writer.flush()
            return found

        monkeypatch.setattr(TraceFiles, "_load", loading)
        grid = trace.grid("condition_number")
        assert grid.steps[-1] == 1010
        assert trace.metrics().column("step").to_pylist()[-1] == 1010
        assert trace.refresh()
        assert trace.grid("condition_number").steps[-1] == 1020
