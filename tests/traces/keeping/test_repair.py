from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from optgeom.commands.keep.verify import verify as command
from optgeom.traces.errors import NotATrace, TraceError
from optgeom.traces.files.lock import COMPACT_LOCK, LOCK_FILE, Lock
from optgeom.traces.info import RUN_COPY, RunInfo
from optgeom.traces.keeping import repair as repairing
from optgeom.traces.keeping.compact import compact
from optgeom.traces.keeping.repair import README, Action, repair
from optgeom.traces.keeping.verify import verify
from optgeom.traces.names import SET_ASIDE
from optgeom.traces.schema import Cell
from optgeom.traces.trace import open_trace
from optgeom.traces.writer import TraceWriter
from tests.traces import children
from tests.traces.asking import answers, questions

Record = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, info: RunInfo, record: Record) -> Path:
    """Five steps, two of them with raw matrices; closed."""
    with TraceWriter(tmp_path / "a", info) as writer:
        record(writer, [0, 1, 2, 3, 4], raw=(1, 3))
    return tmp_path / "a"


@pytest.fixture
def killed(tmp_path: Path, info: RunInfo, cell: Callable[..., Cell]) -> Path:
    """A run that died a while ago: four batches of a stream, three rows each."""
    made = tmp_path / "live"
    with TraceWriter(made, info) as writer:
        for first in (0, 3, 6, 9):
            for step in range(first, first + 3):
                writer.metrics(cell(step), {"neuron_norm_cv": float(step)})
            writer.flush()
        shutil.copytree(made, tmp_path / "killed", ignore=shutil.ignore_patterns(".*lock"))
    age(tmp_path / "killed")
    return tmp_path / "killed"


def age(folder: Path, seconds: float = 120) -> None:
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (time.time() - seconds,) * 2)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def mended(folder: Path) -> tuple[Action, ...]:
    """What a repair does two minutes later."""
    age(folder)
    return repair(folder)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def everything(path: Path) -> dict[str, str]:
    asked = questions(open_trace(path))
    del asked["repr"]  # it has the folder's name
    return dict(answers(path, asked))


def steps(path: Path) -> list[int]:
    return sorted(open_trace(path).metrics().column("step").to_pylist())


def test_a_trace_that_is_whole_is_left_as_it_is(run: Path) -> None:
    before = sorted(run.rglob("*"))
    assert repair(run) == ()
    assert sorted(run.rglob("*")) == before


def test_what_is_whole_of_a_segment_is_in_another_one(run: Path) -> None:
    trace = open_trace(run)
    matrices = {(one.step, one.layer, one.stage): values for one, values in trace.matrices()}
    victim = only(run, "updates/*s000000-*.parquet")
    flip(victim, 5)
    (action,) = repair(run)
    assert action.moved == f"{SET_ASIDE}/updates/{victim.name}"
    assert action.damage
    assert "Lost: " in action.reason
    assert not victim.exists()
    assert (run / action.moved).exists()
    assert verify(run).ok
    assert victim.name in (run / SET_ASIDE / README).read_text()
    left = {(one.step, one.layer, one.stage): values for one, values in open_trace(run).matrices()}
    assert all((matrices[key] == values).all() for key, values in left.items())
    assert {key for key in matrices if key[0] == 3} <= set(left)
    assert repair(run) == ()


def test_row_groups_that_are_whole_are_rescued(
    tmp_path: Path, info: RunInfo, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optgeom.traces.format.layout.GROUP_BYTES", 64)
    with TraceWriter(tmp_path / "a", info) as writer:
        record(writer, [0, 1, 2, 3])
    run, before = tmp_path / "a", open_trace(tmp_path / "a")
    victim = only(run, "neurons/a*.parquet")
    flip(victim, 60)
    (finding,) = verify(run).findings
    assert finding.lost is not None
    rows = 24 - finding.lost.rows
    assert 0 < rows < 24
    (layer,), (stage,) = finding.lost.layers, finding.lost.stages
    assert f"layer {layer}, stage {stage}" in finding.message
    (action,) = repair(run)
    assert (action.rescued, action.into[: len("neurons/a")]) == (rows, "neurons/a")
    assert verify(run).ok
    after = open_trace(run)
    for name, of in before.cell_names("neurons"):
        if (name, of) != (layer, stage):
            assert (after.neurons(name, of)[1] == before.neurons(name, of)[1]).all()


def test_batches_before_and_behind_a_damaged_one_are_rescued(killed: Path) -> None:
    stream = only(killed, "metrics/.wal-*.arrows")
    ends = [int(line[:16]) for line in stream.with_suffix(".sums").read_text().splitlines()]
    flip(stream, (ends[1] + ends[2]) // 2)
    (action,) = mended(killed)
    assert action.rescued == 9
    assert steps(killed) == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert sorted(one.name for one in (killed / SET_ASIDE / "metrics").iterdir()) == sorted(
        [stream.name, stream.with_suffix(".sums").name]
    )
    assert verify(killed).ok


def test_a_damaged_schema_costs_no_row(killed: Path) -> None:
    flip(only(killed, "metrics/.wal-*.arrows"), 40)
    assert mended(killed)[0].rescued == 12
    assert steps(killed) == [*range(12)]


@pytest.mark.parametrize(("line", "kept"), [(1, 9), (4, 12)])
def test_a_damaged_line_of_checksums(killed: Path, line: int, kept: int) -> None:
    """What its message is cannot be told, but of the last one, whose checksum is right."""
    sums = only(killed, "metrics/.wal-*.sums")
    data = bytearray(sums.read_bytes())
    data[26 * line : 26 * line + 2] = b"9" * 2 if line == 4 else b"zz"
    sums.write_bytes(data)
    assert not verify(killed).ok
    assert mended(killed)[0].rescued == kept
    assert len(steps(killed)) == kept
    assert verify(killed).ok


@pytest.mark.parametrize("lines", [None, 0, 3])
def test_what_has_no_checksums_is_taken_as_it_is_and_that_is_said(
    killed: Path, lines: int | None
) -> None:
    """After a power cut: of the two files of a stream, either may be shorter than the other."""
    stream = only(killed, "metrics/.wal-*.arrows")
    sums, content = stream.with_suffix(".sums"), stream.read_bytes()
    if lines is None:
        sums.unlink()
    else:
        os.truncate(sums, 26 * lines)
    age(killed)
    missing = 12 if not lines else 12 - 3 * (lines - 1)
    (finding,) = verify(killed).findings
    assert finding.damaged
    if lines is not None:
        assert len(steps(killed)) == 12 - missing
        assert f"line are missing ({missing // 3} of them whole)" in finding.message
        made = compact(killed)
        assert not made.ok
        assert stream.read_bytes() == content
    (action,) = mended(killed)
    assert action.rescued == 12
    assert f"{missing} rows of it have no checksum, and may have changed" in action.reason
    assert "no checksum" in (killed / SET_ASIDE / README).read_text()
    assert (killed / action.moved).read_bytes() == content
    assert steps(killed) == [*range(12)]
    assert verify(killed).ok


def test_of_what_has_no_checksums_only_the_beginning_that_arrow_reads(killed: Path) -> None:
    stream = only(killed, "metrics/.wal-*.arrows")
    ends = [int(line[:16]) for line in stream.with_suffix(".sums").read_text().splitlines()]
    os.truncate(stream.with_suffix(".sums"), 26 * 2)
    data = bytearray(stream.read_bytes())
    data[ends[2] : ends[2] + 8] = bytes(8)
    stream.write_bytes(data)
    assert mended(killed)[0].rescued == 6
    assert steps(killed) == [*range(6)]


def test_a_batch_that_was_cut_off_by_death_is_no_damage(killed: Path) -> None:
    stream = only(killed, "metrics/.wal-*.arrows")
    os.truncate(stream, stream.stat().st_size - 9)
    assert verify(killed).ok
    assert mended(killed) == ()
    os.truncate(stream.with_suffix(".sums"), 26 * 4 + 7)
    assert verify(killed).ok
    age(killed)
    assert compact(killed).ok
    assert steps(killed) == [*range(9)]


def test_checksums_that_follow_later_are_no_damage(killed: Path) -> None:
    """As in an object store, where they are an object of their own."""
    os.truncate(only(killed, "metrics/.wal-*.sums"), 26 * 2)
    (finding,) = verify(killed).findings
    assert not finding.damaged
    assert "no checksums yet" in finding.message


@pytest.mark.parametrize("name", ["a0000-r00000-s000009-0123456789abcdef.parquet", "pipe"])
def test_what_is_called_like_a_file_and_is_none_is_set_aside(run: Path, name: str) -> None:
    before = everything(run)
    odd = run / "metrics" / name
    if name == "pipe":
        odd = run / "metrics" / ".wal-a0000-r00000-s000007.arrows"
        os.mkfifo(odd)
    else:
        (odd / "below").mkdir(parents=True)
    (finding,) = verify(run).findings
    assert (finding.damaged, finding.repairable) == (True, True)
    with pytest.raises(TraceError, match="is no file but a"):
        open_trace(run).metrics()
    (action,) = repair(run)
    assert action.moved == f"{SET_ASIDE}/metrics/{odd.name}"
    assert "is no file but a" in action.reason
    assert verify(run).findings == ()
    assert everything(run) == before


def test_run_json_that_is_missing_is_made_anew_and_nothing_is_said_to_be_moved(run: Path) -> None:
    (run / "run.json").rename(run / RUN_COPY)
    (action,) = repair(run)
    assert str(action) == f"run.json was missing: made anew from {RUN_COPY}"
    assert (action.moved, action.made_from) == ("", RUN_COPY)
    assert verify(run).ok


def test_of_a_run_that_cannot_be_read_it_is_not_said_whether_it_has_ended(run: Path) -> None:
    (run / "run.json").write_bytes(b"{")
    (run / RUN_COPY).unlink()
    with pytest.raises(TraceError, match=r"run.json cannot be read, so it is not known whether a"):
        repair(run)


def test_run_json_is_restored_from_its_copy(run: Path) -> None:
    before = (run / "run.json").read_bytes()
    (run / "run.json").write_bytes(before[:100])
    report = verify(run)
    assert [one.file for one in report.findings if one.damaged] == ["run.json"]
    (action,) = repair(run)
    assert action.moved == f"{SET_ASIDE}/run.json.damaged"
    assert (run / action.moved).read_bytes() == before[:100]
    assert (run / "run.json").read_bytes() == before
    assert repair(run) == ()
    (run / "run.json").unlink()
    assert not verify(run).ok
    repair(run)
    assert verify(run).ok


def test_run_json_without_a_copy_is_left_and_it_is_said_how_to_go_on(run: Path) -> None:
    content = json.loads((run / "run.json").read_bytes())
    content["run"] = "other"
    (run / "run.json").write_text(json.dumps(content))
    (run / RUN_COPY).unlink()
    age(run)
    (action,) = repair(run)
    assert not action.moved
    assert 'remove its "digest" entry' in action.reason
    assert "no copy of it is whole" in action.reason


def test_a_stream_that_was_sealed_already_is_out_of_the_way(killed: Path, run: Path) -> None:
    segment = only(run, "metrics/a*.parquet")
    shutil.copy(segment, killed / "metrics" / segment.name)
    (action,) = mended(killed)
    assert not action.damage
    assert "stands for it" in action.reason
    assert not list((killed / "metrics").glob(".wal-*"))


def test_a_stream_counts_again_where_its_segment_is_damaged(killed: Path, run: Path) -> None:
    segment = only(run, "metrics/a*.parquet")
    victim = killed / "metrics" / segment.name
    shutil.copy(segment, victim)
    flip(victim, 50)
    (action,) = mended(killed)
    assert "counts again" in action.reason
    assert steps(killed) == [*range(12)]


def test_what_killed_writers_left(run: Path) -> None:
    new, old = (run / "metrics" / f".tmp-{name}" for name in ("new", "old"))
    new.touch()
    old.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    (action,) = repair(run)
    assert action.file == "metrics/.tmp-old"
    assert new.exists()


def test_a_run_that_is_being_written_is_refused(
    tmp_path: Path, info: RunInfo, cell: Callable[..., Cell], run: Path
) -> None:
    with TraceWriter(tmp_path / "b", info) as writer:
        writer.metrics(cell(0), {})
        writer.flush()
        child = children.run(lambda: _refused(tmp_path / "b"), memory=None)
        assert re.search(r"process \d+ on \S+ is writing it: wait until that has ended", child.what)
        shutil.copytree(tmp_path / "b", tmp_path / "c", ignore=shutil.ignore_patterns(".*lock"))
        with pytest.raises(TraceError, match=r"c may not.*written \d s ago.*quiet for a minute"):
            repair(tmp_path / "c")
    for file, words in ((LOCK_FILE, "is writing it"), (COMPACT_LOCK, "being compacted")):
        lock = Lock.take(run, file)
        assert lock is not None
        assert words in children.run(lambda: _refused(run), memory=None).what
        lock.release()


def _refused(path: Path) -> str:
    try:
        repair(path)
    except TraceError as error:
        return str(error)
    return "not refused"


def test_no_trace(tmp_path: Path) -> None:
    with pytest.raises(NotATrace):
        repair(tmp_path)


def test_the_folder_of_what_is_damaged_may_not_lead_out(run: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (run / SET_ASIDE).symlink_to(tmp_path / "outside")
    flip(only(run, "metrics/a*.parquet"), 50)
    with pytest.raises(TraceError, match="leads out of the trace"):
        repair(run)
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("renames", range(8))
def test_killed_at_any_rename_nothing_is_lost(run: Path, renames: int, tmp_path: Path) -> None:
    """And the repair after that does the rest."""
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    flip(only(broken, "updates/*s000000-*.parquet"), 5)
    flip(only(broken, "spectra/a*.parquet"), 50)
    (broken / "run.json").write_bytes(b"{")
    reference = tmp_path / "reference"
    shutil.copytree(broken, reference)
    repair(reference)

    def die() -> None:
        left, replace = renames, os.replace

        def counted(*given: object, **named: object) -> None:
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            replace(*given, **named)  # type: ignore[arg-type]

        os.replace = counted  # type: ignore[assignment]
        repair(broken)

    outcome = children.run(die, memory=None)
    assert outcome.how in ("signal", "done")
    repair(broken)
    assert verify(broken).ok
    assert everything(broken) == everything(reference)
    moved = {one.name for one in (broken / SET_ASIDE).rglob("*") if one.is_file()}
    assert {one.name for one in (reference / SET_ASIDE).rglob("*") if one.is_file()} <= moved


def test_an_object_store_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class There:
        is_local, shown = False, "s3://bucket/run"

    monkeypatch.setattr(repairing, "find", lambda _: There())
    with pytest.raises(TraceError, match="copy it to a local folder"):
        repair("s3://bucket/run")


def test_the_command(run: Path) -> None:
    runner = CliRunner()
    fine = runner.invoke(command, [str(run)])
    assert fine.exit_code == 0
    assert "everything reads back" in fine.output
    victim = only(run, "metrics/a*.parquet")
    flip(victim, 50)
    found = runner.invoke(command, [str(run.parent)])
    assert found.exit_code == 1
    assert "--repair sets it aside" in found.output
    done = runner.invoke(command, [str(run), "--repair", "--json"])
    assert done.exit_code == 1
    told = json.loads(done.output)
    assert told["ok"]
    assert [one["file"] for one in told["repaired"]] == [f"metrics/{victim.name}"]
    assert runner.invoke(command, [str(run), "--repair"]).exit_code == 0
