"""One trace asked by several threads: each gets what it would get alone, and none waits for it."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from optgeom.traces.files.cache import Cache
from optgeom.traces.files.place import OpenFile, find
from optgeom.traces.files.window import Window
from optgeom.traces.format.checked import Segment
from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.schema import Cell
from optgeom.traces.store import Trace, open_trace
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing import sink
from tests.traces.objects import Objects

Record = Callable[..., None]

THREADS = 8
STEPS = (0, 10, 20)
SHAPES = {"small": (64, 48), "tall": (900, 300), "large": (1300, 1100)}
DTYPES = {"small": "float32", "tall": "bfloat16", "large": "float32"}
STAGES = ("momentum", "update")


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns far more often than they would."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matrices that share a row group, that fill one, and that take several."""
    path = tmp_path_factory.mktemp("threads") / "run"
    layers = tuple(
        LayerInfo(name, "other", None, shape, DTYPES[name], "o", 0)
        for name, shape in SHAPES.items()
    )
    draw = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink, "BLOCK_BYTES", 4 << 20)
        columns = {"metrics": {"neuron_norm_cv": "float64"}}
        with TraceWriter(path, RunInfo("run", layers=layers, columns=columns)) as writer:
            for step in STEPS:
                for name, shape in SHAPES.items():
                    for stage in STAGES:
                        key = Cell(step, "o", name, "other", None, stage)
                        matrix = draw.standard_normal(shape, np.float32)
                        norms = np.linalg.norm(matrix, axis=1)
                        values = matrix if name != "tall" else matrix.view(np.uint16)[:, ::2].copy()
                        writer.update(key, values, dtype=DTYPES[name])
                        writer.neurons(key, norms)
                        writer.metrics(key, {"neuron_norm_cv": norms.std() / norms.mean()})
                        writer.spectrum(key, np.sort(norms)[::-1], {})
                writer.end_step(step)
    assert writer.failure is None
    return path


def questions() -> list[tuple[str, Callable[[Trace], bytes]]]:
    """Everything that an analysis asks of a trace, named; answers to the bit."""
    asked: list[tuple[str, Callable[[Trace], bytes]]] = [
        ("metrics", lambda trace: repr(trace.metrics().to_pylist()).encode()),
        ("grid", lambda trace: trace.grid("neuron_norm_cv").values.tobytes()),
        ("last step", lambda trace: str(trace.last_step).encode()),
    ]
    for step in STEPS:
        for name in SHAPES:
            for stage in STAGES:
                key = (step, name, stage)
                asked += [
                    (f"matrix {key}", lambda trace, key=key: trace.matrix(*key).tobytes()),
                    (f"norms {key}", lambda trace, key=key: trace.neuron_norms(*key).tobytes()),
                    (f"spectrum {key}", lambda trace, key=key: trace.spectrum(*key).tobytes()),
                ]
    return asked


def hammer(trace: Trace, expected: dict[str, bytes], rounds: int) -> None:
    """Ask everything from every thread, each in an order of its own."""
    start = threading.Barrier(THREADS, timeout=60)

    def ask(seed: int) -> list[str]:
        order = questions() * rounds
        random.Random(seed).shuffle(order)
        start.wait()
        return [name for name, answer in order if answer(trace) != expected[name]]

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(ask, range(THREADS))) == [[]] * THREADS


@pytest.mark.parametrize("limit", [0, 1 << 20, 256 << 20])
def test_each_gets_what_one_gets(folder: Path, hurried: None, limit: int) -> None:
    expected = {name: answer(open_trace(folder)) for name, answer in questions()}
    hammer(Trace(find(folder), Cache(limit)), expected, rounds=2)


def test_each_gets_what_one_gets_from_an_object_store(
    folder: Path, objects: Objects, hurried: None
) -> None:
    expected = {name: answer(open_trace(folder)) for name, answer in questions()}
    objects.upload(folder, "threads")
    with objects.counted() as asked:
        hammer(open_trace(objects.uri("threads")), expected, rounds=1)
    # whoever asks for what another thread is fetching waits for that
    groups = 6 * len(STEPS)
    assert sum("/updates/" in path for _, path in asked) <= THREADS * groups
    for table in ("neurons", "spectra", "metrics"):
        fetched = [path for method, path in asked if method == "GET" and f"/{table}/" in path]
        assert len(fetched) <= 1 + len(STEPS) * len(SHAPES) * len(STAGES)


def test_a_run_is_followed_while_others_ask(
    tmp_path: Path, info: RunInfo, record: Record, hurried: None
) -> None:
    done = threading.Event()
    with TraceWriter(tmp_path, info, flush_every=1e6) as writer:
        record(writer, [0], raw=(0,))
        writer.flush()
        trace = open_trace(tmp_path)

        def ask() -> int:
            rounds = 0
            while not done.is_set() or not rounds:
                steps = trace.steps(table="updates").tolist()
                assert steps == [*range(len(steps))]
                assert trace.metrics(steps=steps[-1]).num_rows == 6
                assert (trace.matrix(steps[-1], "head.weight") == steps[-1]).all()
                assert trace.neurons("head.weight")[1].shape[0] >= len(steps)
                rounds += 1
            return rounds

        with ThreadPoolExecutor(THREADS) as pool:
            asking = [pool.submit(ask) for _ in range(THREADS)]
            for step in range(1, 12):
                record(writer, [step], raw=(step,))
                writer.flush()
                trace.refresh()
            done.set()
            assert all(one.result(timeout=60) for one in asking)
    assert trace.last_step == 11


@pytest.fixture
def apart(tmp_path: Path) -> Trace:
    """As many matrices as threads, each in a row group of its own."""
    layer = LayerInfo("w", "other", None, (1100, 1000), "float32", "o", 0)
    with TraceWriter(tmp_path / "apart", RunInfo("apart", layers=(layer,))) as writer:
        for step in range(THREADS):
            matrix = np.full(layer.shape, step, np.float32)
            writer.update(Cell(step % 4, "o", "w", "other", None, STAGES[step // 4]), matrix)
    return open_trace(tmp_path / "apart")


@pytest.mark.parametrize("method", ["read_at", "_compare", "parse"])
def test_no_lock_is_held_while_a_matrix_is_fetched_compared_and_copied(
    apart: Trace, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """All threads are in the same function at once, or the barrier breaks."""
    assert len(apart.steps("w", table="updates")) == 4
    barrier = threading.Barrier(THREADS, timeout=20)
    owner = OpenFile if method == "read_at" else Segment
    original = getattr(owner, method)

    def meet(*arguments: object, **named: object) -> object:
        barrier.wait()
        return original(*arguments, **named)

    monkeypatch.setattr(owner, method, meet)
    keys = [(step % 4, "w", STAGES[step // 4]) for step in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda key: apart.matrix(*key), keys))
    for number, matrix in enumerate(found):
        assert (matrix == number).all()


def test_a_matrix_needs_its_row_group_and_no_more(
    apart: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart.steps(table="updates")
    asked: list[int] = []
    read = OpenFile.read_at

    def counted(self: OpenFile, nbytes: int, offset: int) -> bytes:
        asked.append(nbytes)
        return read(self, nbytes, offset)

    monkeypatch.setattr(OpenFile, "read_at", counted)
    before = apart.cache.nbytes
    matrix = apart.matrix(3, "w")
    (nbytes,) = asked
    assert matrix.nbytes < nbytes < matrix.nbytes + 4000
    assert apart.cache.nbytes == before


class TestCache:
    def test_one_makes_what_several_ask_for(self) -> None:
        cache, made = Cache(0), []
        started, go = threading.Barrier(THREADS + 1, timeout=60), threading.Event()

        def make() -> list[int]:
            go.wait(60)
            made.append(1)
            return made

        def ask() -> list[int]:
            started.wait()
            return cache.made("a", make, lambda _: 1)

        with ThreadPoolExecutor(THREADS) as pool:
            asking = [pool.submit(ask) for _ in range(THREADS)]
            started.wait()
            while not cache._making:
                pass
            assert cache.made("b", lambda: 2, lambda _: 1) == 2
            go.set()
            assert all(one.result(timeout=60) is made for one in asking)
        assert cache.get("a") is None
        assert not cache._making


class TestWindow:
    def test_ranges_that_lie_close_together_are_one_request(self) -> None:
        asked: list[tuple[int, int]] = []
        data = bytes(range(256)) * 4096

        class File:
            def size(self) -> int:
                return len(data)

            def read_at(self, nbytes: int, offset: int) -> bytes:
                asked.append((offset, nbytes))
                return data[offset : offset + nbytes]

        window = Window.read(File(), len(data), [(900_000, 900_500), (10, 20), (15, 1000)])
        assert asked == [(10, 990), (900_000, 500)]
        assert window.nbytes == 1490
        assert bytes(window.at(900_100, 50)) == data[900_100:900_150]
        for start, nbytes in ((0, 20), (990, 20), (500_000, 1), (900_000, 501)):
            with pytest.raises(EOFError, match="were not fetched"):
                window.at(start, nbytes)
        with pytest.raises(EOFError):
            Window.read(File(), len(data), [(len(data) - 1, len(data) + 1)])

    def test_arrow_reads_it_as_the_file(self) -> None:
        window = Window(100, (10,), (b"abcdef",))
        one, other = window.open(), window.open()
        one.seek(12)
        other.seek(10)
        assert (one.read(2), other.read(2), one.size()) == (b"cd", b"ab", 100)
        assert isinstance(one, pa.PythonFile)
