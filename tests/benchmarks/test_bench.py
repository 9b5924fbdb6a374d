"""All benchmarks in one go: parts run, fail, go on where they were, and make the page's table."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results" / "bench"
PAGE = ROOT / "docs" / "benchmarks.md"
EMPTY = "# A page\n\n<!-- bench: begin -->\n<!-- bench: end -->\n\nand its end\n"

WRITES = """
import json, sys, pathlib
with open({ran!r}, "a") as file:
    file.write(" ".join(sys.argv[1:-2]) + "\\n")
machine = {machine!r}
rows = [{{"state": name, "ms": ms}} for name, ms in (("alone", 4), ("team", 8), ("one core", 6))]
found = {{"machine": machine, "gflops": [10.0, 30.0, 20.0], "tables": {{"states": rows}}}}
pathlib.Path(sys.argv[-1]).write_text(json.dumps(found))
"""
FAILS = "import sys; print('warming up'); sys.exit('there is no | such thing')"
SLEEPS = "import time; time.sleep(60)"


@pytest.fixture
def bench(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("bench")


@pytest.fixture
def small(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bench with scripts that take no time: one works, one fails, one does not end."""
    parts, timing = importlib.import_module("parts"), importlib.import_module("timing")
    ran, machine = str(tmp_path / "ran"), timing.facts()
    scripts = {
        "background": WRITES.format(ran=ran, machine=machine),
        "optimizers": FAILS,
        "sharded": SLEEPS,
    }
    made = {}
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
        part = parts.Part(str(tmp_path / f"{name}.py"), ("full", "FOLDER"), ("quick",), 1.0)
        made[name] = part
    for module in (bench, importlib.import_module("summary")):
        monkeypatch.setattr(module, "PARTS", made)
    monkeypatch.setattr(parts.Part, "limit", lambda self, *, quick: 20.0)
    monkeypatch.setattr(bench.signal, "signal", lambda *_: None)
    (tmp_path / "page.md").write_text(EMPTY)
    return tmp_path


def call(bench: ModuleType, folder: Path, *more: str) -> int:
    places = ("--results", str(folder / "results"), "--page", str(folder / "page.md"))
    with pytest.raises(SystemExit) as ended:
        bench.main([*places, *more])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def lines(page: str, start: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(start)]


def test_a_part_that_fails_is_named_and_the_others_go_on(
    bench: ModuleType, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(bench, small, "--only", "optimizers", "background") == 1
    page = (small / "page.md").read_text()
    (line,) = lines(page, "| optimizer steps on ranks |")
    assert "failed: there is no \\| such thing (exit code 1)" in line
    alone, team = lines(page, "| a training step while the capture's thread only waits |")
    assert "| 6.0 ms | nobody | 4.0 ms | 1.50 |" in alone
    assert "| 6.0 ms | a thread with a team of its own | 8.0 ms | 0.75 |" in team
    assert "20, 10 to 30" in page
    assert page.startswith("# A page\n")
    assert page.endswith("\n\nand its end\n")
    printed = capsys.readouterr()
    assert "[2/2] optimizers" in printed.out
    assert "failed: optimizers: there is no" in printed.err
    assert {file.name for file in (small / "results").iterdir()} == {
        "background.json",
        "optimizers.json",
        "summary.md",
    }


def test_a_part_that_does_not_end_is_ended(
    bench: ModuleType, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("parts").Part, "limit", lambda self, **_: 0.5)
    assert call(bench, small, "--only", "sharded") == 1
    (line,) = lines((small / "page.md").read_text(), "| a model under FSDP2, two ranks |")
    assert "no result within" in line


def test_what_is_there_is_not_run_again(
    bench: ModuleType, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = small / "ran"
    only = ("--only", "background")
    assert call(bench, small, *only) == 0
    assert call(bench, small, *only) == 0
    (first,) = ran.read_text().splitlines()
    assert first.startswith("full ")
    assert Path(first.split()[1]).name == "folder"
    assert call(bench, small, *only, "--fresh") == 0
    assert len(ran.read_text().splitlines()) == 2
    other = {**bench.facts(), "processor": "another"}
    monkeypatch.setattr(bench, "facts", lambda: other)
    assert call(bench, small, *only) == 0
    assert len(ran.read_text().splitlines()) == 3
    monkeypatch.setattr(bench, "git", lambda *words: "another" if words[0] == "diff" else "a")
    assert call(bench, small, *only) == 0
    assert len(ran.read_text().splitlines()) == 4
    # nothing at all is known of the code where there is no repository
    monkeypatch.setattr(bench, "git", lambda *_: "")
    assert call(bench, small, *only) == call(bench, small, *only) == 0
    assert len(ran.read_text().splitlines()) == 6


def test_tiny_sizes_replace_no_full_result_and_are_not_judged(
    bench: ModuleType, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("--only", "background")
    assert call(bench, small, *only, "--quick") == 0
    assert "**Of `--quick`" in (small / "page.md").read_text()
    assert call(bench, small, *only) == 0
    assert "--quick" not in (small / "page.md").read_text()
    assert call(bench, small, *only, "--quick") == 2
    assert "holds full results of background" in capsys.readouterr().err


def test_results_elsewhere_leave_the_documentation_alone(
    bench: ModuleType, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = small / "page.md"
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "RESULTS", (small / "own").resolve())
    monkeypatch.setattr(bench, "TINY", small / "tiny")
    only = ["--only", "background"]

    def run(*more: str) -> None:
        with pytest.raises(SystemExit) as ended:
            bench.main([*only, *more])
        assert ended.value.code == 0

    run("--results", str(small / "other"))
    run("--quick")
    assert (small / "other" / "summary.md").exists()
    assert (small / "tiny" / "summary.md").exists()
    assert page.read_text() == EMPTY
    run()
    assert page.read_text() != EMPTY


def test_a_result_beside_others_depends_on_their_versions(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = importlib.import_module("parts").PARTS
    monkeypatch.setattr(bench, "git", lambda *_: "the same")
    keys = []
    for version in ("1.0", "1.1"):
        monkeypatch.setattr(bench, "versions", lambda version=version: {"wandb": version})
        keys.append([bench.key_of(parts[name], quick=False) for name in ("instruments", "steps")])
    (peers, own), (other_peers, other_own) = keys
    assert peers != other_peers
    assert own == other_own


def test_the_machine_s_folders_are_not_written_down(bench: ModuleType, small: Path) -> None:
    (small / "optimizers.py").write_text(f"import sys; sys.exit('no file {ROOT}/benchmarks/x')")
    assert call(bench, small, "--only", "optimizers") == 1
    written = json.loads((small / "results" / "optimizers.json").read_text())
    assert written["failed"] == "no file benchmarks/x (exit code 1)"


def test_a_page_without_markers_is_refused(bench: ModuleType) -> None:
    put = importlib.import_module("summary").put
    with pytest.raises(ValueError, match="bench: begin"):
        put("text", "a page\n<!-- bench: end -->\n")


def committed() -> dict[str, Any]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}


def test_the_page_shows_the_results_that_are_committed(bench: ModuleType) -> None:
    summary = importlib.import_module("summary")
    found = bench.read(RESULTS)
    assert set(found) == set(committed())
    text = summary.summary(found)
    assert summary.put(text, PAGE.read_text()) == PAGE.read_text()
    if found:
        assert (RESULTS / "summary.md").read_text() == text + "\n"


def test_every_part_has_its_lines_and_its_script(bench: ModuleType) -> None:
    parts, summary = importlib.import_module("parts"), importlib.import_module("summary")
    assert set(parts.PARTS) == set(summary.ASKED)
    for part in parts.PARTS.values():
        assert "json_option(parser)" in (BENCHMARKS / part.script).read_text()


def asked_limits() -> Iterator[str]:
    """Patterns of the names that the scripts ask of LIMITS."""
    for script in BENCHMARKS.glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "LIMITS":
                for word in ast.walk(node.slice):
                    if isinstance(word, ast.JoinedStr):
                        fixed = [getattr(part, "value", None) for part in word.values]
                        yield "".join(re.escape(w) if isinstance(w, str) else ".+" for w in fixed)
                    elif isinstance(word, ast.Constant):
                        yield re.escape(str(word.value))


def test_every_limit_says_what_sets_it_and_is_asked_for(bench: ModuleType) -> None:
    limits = importlib.import_module("limits").LIMITS
    asked = set(asked_limits())
    for name, limit in limits.items():
        assert limit.source.endswith("."), name
        assert len(limit.source.split()) > 5, name
        for page in re.findall(r"docs/\w+\.md", limit.source):
            assert (ROOT / page).is_file(), page
        assert any(re.fullmatch(pattern, name) for pattern in asked), name


def test_a_limit_is_kept_on_its_side(bench: ModuleType) -> None:
    limit = importlib.import_module("limits").Limit
    assert limit(2.0, "", "x").keeps(2.0)
    assert not limit(2.0, "", "x").keeps(2.1)
    assert limit(2.0, "", "x", "at least").keeps(2.1)
    assert not limit(2.0, "", "x", "at least").keeps(1.9)


def test_steps_are_held_against_limits_by_their_intervals(bench: ModuleType) -> None:
    summary = importlib.import_module("summary")
    added = {"median": 4.5, "low": 4.1, "high": 5.0, "count": 9}
    steps = [{"optimizer": "adamw", "what": "optgeom: norms and CV", "added": added}]
    one = {"failed": None, "quick": False, "result": {"tables": {"steps": steps}}}
    (row,) = summary.rows_of("steps", one)
    assert (row["ours"], row["limit"], row[""]) == (
        "4.5\xa0[4.1,\xa05.0] % of a step",
        "at most 4 %",
        "**missed**",
    )
    added["low"] = 3.9
    assert summary.rows_of("steps", one)[0][""] == "not resolved"
    added["high"] = 4.0
    assert summary.rows_of("steps", one)[0][""] == "kept"
    (row,) = summary.rows_of("steps", one | {"quick": True})
    assert row[""] == "not judged"


def test_other_instruments_stand_beside_ours(bench: ModuleType) -> None:
    summary = importlib.import_module("summary")

    def case(what: str, added: float, beside: float, background: float = 0.0) -> dict[str, Any]:
        spread = {"low": added - 1, "high": added + 1, "count": 9}
        return {
            "what": what,
            "added": {"median": added, **spread},
            "beside": {"median": beside, "low": beside - 1, "high": beside + 1},
            "background": background,
        }

    steps = [
        case("optgeom: norms and CV", 4.0, 1.0),
        case("optgeom: raw matrices", -20.0, 48.0, 14.0),
        case("by hand: torch.save of every update", 8.0, 1.0),
    ]
    peers = [
        case("TensorBoard histograms", 20.0, 0.0),
        case("nvdlfw-inspect, gradients", 0.5, 0.0),
        case("Cockpit, sizes of updates and gradients", 9.0, 20.0),
        {"what": "Cockpit, economy", "added, %": "failed: x", "failed": "no pkg_resources"},
    ]
    one = {
        "failed": None,
        "quick": False,
        "result": {"tables": {"steps": steps, "peers": peers}},
    }
    rows = {row["beside"]: row for row in summary.rows_of("instruments", one)}
    assert rows["TensorBoard histograms"]["ours / theirs"] == "0.20"
    assert rows["nvdlfw-inspect, gradients"]["ours / theirs"] == "one may be 0"
    assert rows["Cockpit, economy"]["theirs"].startswith("failed: ")
    assert rows["wandb.watch offline, log=all"]["theirs"] == "not measured"
    saved = rows["by hand: torch.save of every update"]
    # a captured step and the one after it: 1.48 * (0.8 + 1) - 2; nothing of theirs is done later
    assert (saved["ours / theirs"], saved[""]) == ("8.30", "**missed**")
    moved = rows["Cockpit, sizes of updates and gradients"]
    assert moved["ours / theirs"] == "at most 0.44"  # what theirs take beside is not in it
    assert "steps beside +20.0\xa0[+19.0,\xa0+21.0]" in moved["theirs"]
    peers[2]["beside"]["low"] = -1.0  # may as well be nothing
    rows = {row["beside"]: row for row in summary.rows_of("instruments", one)}
    assert rows["Cockpit, sizes of updates and gradients"]["ours / theirs"] == "0.44"
    steps[0]["beside"] |= {"median": 9.0, "low": 8.0}
    rows = {row["beside"]: row for row in summary.rows_of("instruments", one)}
    assert rows["TensorBoard histograms"]["ours / theirs"] == "none: the steps beside differ"
    assert summary.failures({"instruments": one}, ["instruments"]) == ["instruments: x"]


def test_normuon_stands_beside_muon_and_the_naive_form(bench: ModuleType) -> None:
    summary = importlib.import_module("summary")

    def case(optimizer: str, ranks: str, ms: float, times: float, state: float) -> dict[str, Any]:
        return {
            "shapes": "768",
            "ranks": ranks,
            "optimizer": optimizer,
            "step, ms": ms,
            "times Muon's": {"median": times, "low": times, "high": times, "count": 3},
            "state, numbers per weight": state,
        }

    steps = [
        case("muon", "2", 100.0, 1.0, 1.0),
        case("normuon", "2", 104.0, 1.04, 1.001),
        case("normuon, naive", "2", 156.0, 1.56, 1.002),
        case("adamw", "2", 5.0, 0.05, 2.0),
        {"shapes": "768", "ranks": "4", "optimizer": "failed: no result after 900 s"},
    ]
    one = {"failed": None, "quick": False, "result": {"tables": {"steps": steps}}}
    muon, naive, lost = summary.rows_of("optimizers", one)
    assert (muon["ours / theirs"], muon[""]) == ("1.04\xa0[1.04,\xa01.04]", "kept")
    # 1.56 / 1.04, where 1.6 is aimed at
    assert (naive["ours / theirs"], naive[""]) == ("0.67; theirs / ours 1.50", "**missed**")
    assert lost["ours"] == "failed: no result after 900 s"
    assert summary.failures({"optimizers": one}, ["optimizers"]) == [
        "optimizers: no result after 900 s"
    ]


@pytest.mark.slow
def test_two_small_parts_run_from_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(EMPTY)
    places = ["--results", str(tmp_path / "results"), "--page", str(tmp_path / "page.md")]
    few = ["--quick", "--only", "kernels", "background"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench.py"), *few, *places],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text()
    assert len(lines(page, "| the kernel alone: ")) == 2
    assert len(lines(page, "| a training step while the capture's thread only waits |")) == 2
    assert "**Of `--quick`" in page
    found = json.loads((tmp_path / "results" / "kernels.json").read_text())
    for row in found["result"]["tables"]["spectra"]:
        assert isinstance(row["ms"], float)
