"""A computed trace takes the place of what it may replace, and of nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import optgeom
from optgeom.geometry.counterfactual import placing
from optgeom.geometry.counterfactual.placing import clear_dead, hidden_in
from optgeom.geometry.counterfactual.rule import Applied, Rule
from optgeom.rules import muon as muon_rule
from optgeom.traces.errors import NotATrace, OptgeomError, TraceError, TraceExists
from tests.geometry.counterfactual.training import train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, and what muon makes of it."""
    folder = tmp_path_factory.mktemp("placing")
    optgeom.whatif(train(folder / "a", "muon", 2), "muon")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> optgeom.Trace:
    return optgeom.open_trace(shutil.copytree(made / "a", tmp_path / "a"))


@pytest.fixture
def old(made: Path, run: optgeom.Trace, tmp_path: Path) -> Path:
    """What muon made of the run, in its place."""
    return shutil.copytree(made / "a+muon", tmp_path / "a+muon")


def _at(done: int, action: Callable[[], object]) -> Callable[[int, int], None]:
    """A progress callback that does something once so many cells are done."""

    def tell(now: int, total: int) -> None:
        if now == done:
            action()

    return tell


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(folder)): one.read_bytes()
        for one in sorted(folder.rglob("*"))
        if one.is_file()
    }


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("done", [0, 6])
def test_what_appears_meanwhile_is_left_as_it_is(
    tmp_path: Path, run: optgeom.Trace, overwrite: bool, done: int
) -> None:
    target = tmp_path / "a+muon"

    def appears() -> None:
        target.mkdir()
        (target / "precious.txt").write_text("hours")

    with pytest.raises(TraceExists, match=r"a\+muon is there, and was not computed from a by"):
        optgeom.whatif(run, "muon", overwrite=overwrite, progress=_at(done, appears))
    assert _files(target) == {"precious.txt": b"hours"}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "a+muon"]


def test_of_two_at_once_without_overwrite_one_is_refused(
    tmp_path: Path, run: optgeom.Trace
) -> None:
    def other() -> None:
        optgeom.whatif(run, "muon", steps=1)

    with pytest.raises(TraceExists, match="already holds what muon makes of a: pass overwrite"):
        optgeom.whatif(run, "muon", progress=_at(6, other))
    assert optgeom.open_trace(tmp_path / "a+muon").steps().tolist() == [1]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "a+muon"]


def test_two_processes_at_once_leave_one_whole_trace(tmp_path: Path, run: optgeom.Trace) -> None:
    """Both are told to begin when both have looked at the target."""
    code = (
        "import sys, optgeom\n"
        "run = optgeom.open_trace(sys.argv[1])\n"
        "def wait(done, total):\n"
        "    if done == 0: print('ready', flush=True); sys.stdin.readline()\n"
        "optgeom.whatif(run, 'muon', steps=int(sys.argv[2]), progress=wait)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(run.folder()), step],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for step in ("0", "1")
    ]
    for one in both:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    ended = [one.communicate()[1] for one in both]
    codes = [one.returncode for one in both]
    assert sorted(codes) == [0, 1], ended
    assert "TraceExists" in ended[codes.index(1)]
    kept = optgeom.open_trace(tmp_path / "a+muon")
    assert kept.steps().tolist() == [codes.index(0)]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "a+muon"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_rename_itself_replaces_nothing(
    run: optgeom.Trace, old: Path, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something appears after the last look, when what is replaced has been moved aside."""
    if not overwrite:
        shutil.rmtree(old)
    look = placing._refuse

    def appears_after(at: Path, target: Path, *rest: Any, **asked: Any) -> None:
        look(at, target, *rest, **asked)
        if at != target:
            target.mkdir()
            (target / "precious.txt").write_text("hours")

    monkeypatch.setattr(placing, "_refuse", appears_after)
    before = _files(old) if overwrite else None
    with pytest.raises(TraceExists, match="has appeared while it was computed") as told:
        optgeom.whatif(run, "muon", overwrite=overwrite)
    assert _files(old) == {"precious.txt": b"hours"}
    if before is not None:  # nor is what had been there lost
        beside = Path(str(told.value).partition("what was there before is ")[2])
        assert beside.name.startswith("a+muon.replaced-")
        assert _files(beside) == before


@pytest.mark.parametrize("place", ["notes.md", "updates/notes.md", "derived/notes/x", "mine/x"])
def test_overwriting_deletes_no_file_that_is_no_trace_s(
    run: optgeom.Trace, old: Path, place: str
) -> None:
    (old / place).parent.mkdir(parents=True, exist_ok=True)
    (old / place).write_text("hours")
    before = _files(old)
    told: list[int] = []
    named = "mine" if place == "mine/x" else place
    with pytest.raises(TraceExists, match=rf"a\+muon/{named} is no part of a trace"):
        optgeom.whatif(run, "muon", overwrite=True, progress=lambda done, _: told.append(done))
    assert not told  # nothing was computed first
    assert _files(old) == before


def test_locks_that_a_writer_left_are_no_other_files(run: optgeom.Trace, old: Path) -> None:
    for name in (".lock", ".lock-r00003", ".compact.lock"):
        (old / name).write_text("12 a-machine\n")
    optgeom.whatif(run, "muon", overwrite=True)
    assert not (old / ".lock-r00003").exists()


def test_nor_one_that_was_put_there_meanwhile(
    tmp_path: Path, run: optgeom.Trace, old: Path
) -> None:
    before = _files(old)
    with pytest.raises(TraceExists, match=r"notes\.md is no part of a trace"):
        optgeom.whatif(
            run,
            "muon",
            overwrite=True,
            progress=_at(6, lambda: (old / "notes.md").write_text("hours")),
        )
    assert _files(old) == before | {"notes.md": b"hours"}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "a+muon"]


def test_what_was_analyzed_may_be_replaced(tmp_path: Path, run: optgeom.Trace) -> None:
    first = optgeom.whatif(run, "muon", updates=True).traces["muon"]
    optgeom.analyze(first)
    assert (first.folder() / "derived").is_dir()
    optgeom.whatif(run, "muon", overwrite=True)
    assert not (tmp_path / "a+muon" / "derived").exists()


@pytest.mark.parametrize("leads_somewhere", [True, False])
def test_a_link_is_refused_before_computing(
    tmp_path: Path, run: optgeom.Trace, old: Path, leads_somewhere: bool
) -> None:
    elsewhere = old.rename(tmp_path / "elsewhere")
    old.symlink_to(elsewhere if leads_somewhere else tmp_path / "nowhere")
    told: list[int] = []
    with pytest.raises(TraceExists, match="is a link"):
        optgeom.whatif(run, "muon", overwrite=True, progress=lambda done, _: told.append(done))
    assert not told
    assert old.is_symlink()
    assert (elsewhere / "run.json").exists()


@pytest.mark.parametrize("within", [".", "updates", "new"])
def test_out_is_not_in_the_run(run: optgeom.Trace, within: str) -> None:
    before = _files(run.folder())
    with pytest.raises(TraceError, match="is in the run itself: pass as out a folder beside it"):
        optgeom.whatif(run, "muon", out=run.folder() / within)
    assert _files(run.folder()) == before
    assert not (run.folder() / "new").exists()


def test_out_is_no_trace(run: optgeom.Trace, old: Path) -> None:
    with pytest.raises(TraceError, match="is a trace: pass as out the folder that it stands in"):
        optgeom.whatif(run, "polar", out=old)


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".", ".hidden", "a b", "a\n", "-a", "a" * 101])
def test_a_rule_has_a_name_that_a_folder_may_have(name: str) -> None:
    with pytest.raises(OptgeomError, match="names no rule"):
        Rule(name=name, title="x", algorithm="x", apply=lambda matrix, *_: Applied(matrix))


@pytest.mark.parametrize("other", ["a-b", "A:b"])
def test_two_rules_do_not_share_a_folder(tmp_path: Path, run: optgeom.Trace, other: str) -> None:
    rule = replace(muon_rule(), name="a:b")
    with pytest.raises(OptgeomError, match=rf"the rules a:b and {other} would both be written"):
        optgeom.whatif(run, (rule, replace(rule, name=other)))
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def _hidden(folder: Path, process: int, name: str, content: Path) -> Path:
    """What a process leaves that is killed while it writes a trace."""
    at = hidden_in(folder)
    at = at.with_name(at.name.replace(f"-{os.getpid()}-", f"-{process}-"))
    shutil.copytree(content, at / name)
    return at


def _dead() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_what_a_killed_process_left_is_cleared_by_the_next_call(
    tmp_path: Path, run: optgeom.Trace, made: Path
) -> None:
    left = _hidden(tmp_path, _dead(), "a+muon", made / "a+muon")
    at_work = _hidden(tmp_path, os.getpid(), "a+muon", made / "a+muon")
    elsewhere = left.with_name(".tmp-whatif-00000000-1-ab")  # of another machine
    shutil.copytree(left, elsewhere)
    assert set(optgeom.open_traces(tmp_path)) == {"a"}
    optgeom.whatif(run, "polar")
    kept = {"a", "a+polar", at_work.name, elsewhere.name}
    assert {one.name for one in tmp_path.iterdir()} == kept


def test_a_trace_that_was_aside_when_its_process_was_killed_comes_back(
    tmp_path: Path, made: Path
) -> None:
    _hidden(tmp_path, _dead(), "replaced/a+muon", made / "a+muon")
    clear_dead(tmp_path)
    assert _files(tmp_path / "a+muon") == _files(made / "a+muon")
    # beside it where another stands meanwhile
    (tmp_path / "a+muon" / "mine").write_text("x")
    _hidden(tmp_path, _dead(), "replaced/a+muon", made / "a+muon")
    clear_dead(tmp_path)
    assert (tmp_path / "a+muon" / "mine").exists()
    other, one = sorted(tmp_path.iterdir(), key=lambda one: len(one.name), reverse=True)
    assert one.name == "a+muon"
    assert _files(other) == _files(made / "a+muon")


def test_readers_do_not_see_what_is_not_finished(tmp_path: Path, made: Path) -> None:
    _hidden(tmp_path, _dead(), "a+muon", made / "a+muon")
    with pytest.raises(NotATrace, match="holds no traces: pass the folder"):
        optgeom.open_traces(tmp_path)
    shutil.copytree(made / "a", tmp_path / ".tmp-a")
    with pytest.raises(NotATrace, match="holds no traces: pass the folder"):
        optgeom.open_traces(tmp_path)
