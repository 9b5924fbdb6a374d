from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optgeom.traces.errors import DamagedTrace, NotATrace
from optgeom.traces.format.lost import Lost
from optgeom.traces.info import RUN_COPY, RUN_FILE, LayerInfo, RunInfo
from optgeom.traces.keeping.verify import traces_at, verify
from optgeom.traces.schema import Cell
from optgeom.traces.trace import open_trace
from optgeom.traces.writer import TraceWriter


def test_a_sound_trace(trace_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(trace_path, progress=lambda done, of: seen.append((done, of)))
    assert report.ok
    assert report.findings == ()
    assert report.files == 7
    assert report.rows == 24 + 24 + 24 + 4 + 12
    assert seen == [(count, 6) for count in range(1, 7)]


def test_a_flipped_bit_in_every_file_is_reported(trace_path: Path) -> None:
    victims = sorted(path for path in trace_path.rglob("*") if path.is_file())
    for path in victims:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
    report = verify(trace_path)
    assert not report.ok
    damaged = sorted(one.file for one in report.findings if one.damaged)
    assert damaged == [str(path.relative_to(trace_path)) for path in victims]
    assert all("\n" not in one.message for one in report.findings)


def test_a_stream_is_checked_too(tmp_path: Path, info: RunInfo, cell: Callable[..., Cell]) -> None:
    with TraceWriter(tmp_path, info) as writer:
        writer.metrics(cell(0), {})
        writer.flush()
        (stream,) = (tmp_path / "metrics").glob("*.arrows")
        data = stream.read_bytes()
        assert verify(tmp_path).rows == 1
        stream.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        (finding,) = verify(tmp_path).findings
        assert finding.damaged
        assert finding.file == f"metrics/{stream.name}"
        stream.write_bytes(data)


def test_cells_that_were_written_twice(
    tmp_path: Path, info: RunInfo, cell: Callable[..., Cell]
) -> None:
    with TraceWriter(tmp_path, info) as writer:
        for value in (1.0, 2.0):
            writer.metrics(cell(0), {"neuron_norm_cv": value})
    report = verify(tmp_path)
    assert report.ok
    assert [(one.file, one.message) for one in report.findings] == [
        ("metrics", "1 cells were written twice: the last is shown")
    ]


def test_a_list_that_cannot_be_read_is_named_by_its_cell(
    tmp_path: Path, info: RunInfo, cell: Callable[..., Cell], layers: tuple[LayerInfo, ...]
) -> None:
    wide = replace(layers[0], shape=(4096, 4))
    with TraceWriter(tmp_path, replace(info, layers=(wide,))) as writer:
        for step in range(3):
            norms = np.random.default_rng(step).random(4096, np.float32)
            writer.neurons(cell(step, wide), norms)
    (victim,) = (tmp_path / "neurons").iterdir()
    data = bytearray(victim.read_bytes())
    data[1000] ^= 1
    victim.write_bytes(data)
    with pytest.raises(
        DamagedTrace, match=rf"{victim.name} is damaged.*{wide.name} update at step 1"
    ):
        open_trace(tmp_path).neuron_norms(1, wide.name)
    (finding,) = verify(tmp_path).findings
    assert finding.lost == Lost(3, (0, 2), (wide.name,), ("update",))


def test_a_folder_of_traces_and_a_damaged_copy(trace_path: Path) -> None:
    assert traces_at(trace_path) == [str(trace_path)]
    assert traces_at(trace_path.parent) == [str(trace_path)]
    (trace_path / RUN_COPY).write_bytes(b"{")
    (finding,) = verify(trace_path).findings
    assert (finding.file, finding.damaged) == (RUN_COPY, True)
    with pytest.raises(NotATrace):
        traces_at(trace_path / "metrics")


def test_no_trace(tmp_path: Path) -> None:
    with pytest.raises(NotATrace):
        verify(tmp_path)


def test_a_trace_that_has_a_copy_of_run_json_alone(trace_path: Path) -> None:
    (trace_path / RUN_COPY).write_bytes((trace_path / RUN_FILE).read_bytes())
    (trace_path / RUN_FILE).unlink()
    (finding,) = verify(trace_path).findings
    assert (finding.file, finding.damaged, finding.repairable) == (RUN_FILE, True, True)
    with pytest.raises(NotATrace, match="--repair` makes it anew from its copy"):
        open_trace(trace_path)
    (trace_path / RUN_COPY).unlink()
    (finding,) = verify(trace_path).findings
    assert (finding.file, finding.damaged, finding.repairable) == (RUN_FILE, True, False)
    with pytest.raises(NotATrace, match="no copy of it is there: put one back"):
        open_trace(trace_path)


def test_steps_of_any_table(trace_path: Path) -> None:
    for table in ("metrics", "spectra", "neurons"):
        for path in (trace_path / table).iterdir():
            path.unlink()
    trace = open_trace(trace_path)
    assert trace.steps().tolist() == []
    assert trace.steps(stage=None, table=None).tolist() == [0, 20]
