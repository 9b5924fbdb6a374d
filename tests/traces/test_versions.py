"""Traces of every schema open forever: one of each is kept, with one of everything in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces import Trace, TraceWriter, open_trace, open_traces
from optgeom.traces.errors import SchemaTooNew
from optgeom.traces.keeping.compact import compact
from optgeom.traces.keeping.verify import verify
from optgeom.traces.names import parse_name
from optgeom.traces.schema import SCHEMA_VERSION, TABLES
from tests.traces.compacting import parts
from tests.traces.versions.make import FIRST, LAYERS, SECOND, matrix, number, record

FOLDER = Path(__file__).parent / "versions"
VERSIONS = [*range(1, SCHEMA_VERSION + 1)]
STEPS = range(FIRST[0], SECOND[-1] + 1)


@pytest.fixture(params=VERSIONS, ids=lambda version: f"schema {version}")
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def kept(version: int) -> Path:
    return FOLDER / f"schema{version}"


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> Path:
    """Of a process that died long ago."""
    made = Path(shutil.copytree(kept, tmp_path / "run"))
    for one in made.rglob("*"):
        os.utime(one, (1e9, 1e9))
    return made


def block_of(layer: object) -> int:
    return int(getattr(layer, "block", 0) or 0)


def assert_all_is_there(trace: Trace, steps: range = STEPS) -> None:
    """Every table and value, by the numbers that make.py wrote."""
    assert [layer.name for layer in trace.layers] == [layer.name for layer in LAYERS]
    assert trace.layers[0].shape == (6, 4)
    assert trace.info.optimizers[0].groups == ({"lr": 0.5, "momentum": 0.95},)
    assert trace.info.world_size == 2
    there = [*steps]
    raw = [step for step in there if step % 2 == 0]
    expected = [(step, layer) for step in there for layer in LAYERS]
    for row, (step, layer) in zip(trace.metrics().to_pylist(), expected, strict=True):
        block = block_of(layer)
        assert (row["step"], row["layer"], row["kind"]) == (step, layer.name, "mlp.up")
        assert (row["block"], row["optimizer"], row["stage"]) == (block, "muon", "update")
        assert row["attempt"] == (0 if step < SECOND[0] else 1 if step in SECOND else 2)
        assert (row["neuron_norm_cv"], row["zero_rows"]) == (number(step, block), step)
        assert (row["lr"], row["status"], row["source"]) == (0.5, "ok", "dispatch")
        assert (row["spectrum_status"], row["decay"]) == ("ok", None)
        assert row["condition_number"] == number(step, block, 5)
        # the analysis was made of the first attempt
        assert row["later_number"] == (number(step, 2) if step < SECOND[0] else None)
    for layer in LAYERS:
        block = block_of(layer)
        steps_there, spectra = trace.spectra(layer.name)
        assert steps_there.tolist() == there
        for step, spectrum in zip(there, spectra, strict=True):
            assert spectrum.tolist() == [number(step, block, at) for at in (3, 2, 1)]
        steps_there, norms = trace.neurons(layer.name)
        assert steps_there.tolist() == there
        assert np.array_equal(norms, [matrix(step, block)[:, 0] for step in there])
        assert trace.steps(layer.name, table="updates").tolist() == raw
    found = [(cell.step, cell.layer, one.tolist()) for cell, one in trace.matrices()]
    assert found == [
        (step, layer.name, matrix(step, block_of(layer)).tolist())
        for step in raw
        for layer in LAYERS
    ]
    assert trace.scalars("loss").to_pydict() == {
        "step": there,
        "name": ["loss"] * len(there),
        "value": [number(step, 0) for step in there],
    }
    grid = trace.grid("neuron_norm_cv")
    assert grid.values.tolist() == [[number(step, block) for block in (0, 1)] for step in there]
    assert trace.words("status").words == ("ok",)


def test_each_version_is_kept_as_it_was(version: int, kept: Path) -> None:
    assert json.loads((kept / "run.json").read_bytes())["schema"] == version
    names = [parse_name(one.name) for one in kept.rglob("*") if one.is_file()]
    attempts = {(one.attempt, bool(one.digest)) for one in names if one is not None}
    assert attempts >= {(0, True), (1, True), (1, False)}
    assert any(one is not None and one.more for one in names) == (version >= 2)
    assert [*(kept / "derived").rglob("*.parquet")]


def test_every_table_and_value_is_read(kept: Path) -> None:
    trace = open_trace(kept)
    assert_all_is_there(trace)
    assert not trace.closed
    both = trace.metrics(attempts="all")
    rows = [(step, attempt) for step in STEPS for attempt in (0, 1)]
    expected = [one for one in rows for _ in LAYERS if one[0] in (FIRST, SECOND)[one[1]]]
    assert sorted(zip(*(both.column(c).to_pylist() for c in ("step", "attempt")), strict=True)) == (
        expected
    )
    later = both.column("later_number").to_pylist()
    assert sum(one is not None for one in later) == len(FIRST) * len(LAYERS)


def test_nothing_of_it_is_damaged(kept: Path) -> None:
    report = verify(kept)
    assert report.ok
    assert report.rows > 80


def test_it_is_resumed(copy: Path) -> None:
    info = open_trace(copy).info
    for rank in (0, 1):
        attempt = None if rank == 0 else 2
        with TraceWriter(copy, info, rank=rank, start_step=8, attempt=attempt) as writer:
            record(writer, range(8, 12))
        assert writer.failure is None
    trace = open_trace(copy)
    assert trace.info.schema == SCHEMA_VERSION
    assert_all_is_there(trace, range(12))
    assert verify(copy).ok


def test_it_is_compacted(copy: Path) -> None:
    before = open_trace(copy)
    before.index("updates")
    made = compact(copy)
    assert made.ok
    assert not made.left
    assert len(made.sealed) == 5
    for trace in (before, open_trace(copy)):
        assert_all_is_there(trace)
    assert open_trace(copy).info.schema == SCHEMA_VERSION
    for table in TABLES:
        names = parts(copy)[table]
        assert all(one.digest for one in names)
        assert len(names) == len({(one.attempt, one.rank) for one in names})
    assert verify(copy).ok


def test_a_version_to_come_is_refused_by_name(copy: Path) -> None:
    content = json.loads((copy / "run.json").read_bytes())
    del content["digest"]
    newer = SCHEMA_VERSION + 1
    (copy / "run.json").write_text(json.dumps({**content, "schema": newer}))
    message = rf"run\.json has schema {newer}, this optgeom reads up to {SCHEMA_VERSION}"
    for refusing in (
        open_trace,
        verify,
        compact,
        lambda path: open_traces(path.parent),
        lambda path: TraceWriter(path, open_trace(FOLDER / "schema1").info, start_step=8),
    ):
        with pytest.raises(SchemaTooNew, match=message):
            refusing(copy)
