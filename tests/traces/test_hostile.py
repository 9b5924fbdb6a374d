"""What a stranger's trace can do: be refused, within bounded memory and time."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import optgeom
from optgeom.traces import limits
from optgeom.traces.content import check_depth
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.printable import printable
from optgeom.traces.reading.keys import Vocabulary
from optgeom.traces.reading.matrices import refuse_many
from tests.traces import hostile, hostile_run, hostile_segments, hostile_streams

ROOT = Path(__file__).parents[2]
HARMLESS = hostile_run.HARMLESS | hostile_segments.HARMLESS | hostile_streams.HARMLESS


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Any]]:
    """Of each case, asked in a child of a process that has few threads."""
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, "-m", "tests.traces.hostile", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return {one["case"]: one for one in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("case", hostile.CASES)
def test_it_is_refused_by_name_within_two_gigabytes(
    outcomes: Mapping[str, Mapping[str, Any]], case: str
) -> None:
    outcome = outcomes[case]
    assert outcome["how"] == "done", outcome
    assert outcome["megabytes"] < 1000
    said = outcome["what"]
    assert (case in HARMLESS) == (not said), said
    for one in said:
        assert "\n" not in one
        assert "malloc" not in one
        assert "run" in one  # the folder's name


def test_text_that_would_move_a_cursor_is_escaped() -> None:
    assert printable("a\x1b]0;x\x07\u202eb\ud800") == r"a\x1b]0;x\x07\u202eb\ud800"


def test_depth() -> None:
    inner: Any = 1
    for _ in range(limits.MAX_RUN_DEPTH):
        inner = [inner]
    check_depth(inner, "x")
    with pytest.raises(DamagedTrace, match="65 lists within lists, more than 64"):
        check_depth({"a": inner}, "x")


def test_words_of_a_trace_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optgeom.traces.reading.keys.MAX_WORDS", 3)
    vocabulary = Vocabulary()
    assert [vocabulary.code(word) for word in "abcab"] == [0, 1, 2, 0, 1]
    with pytest.raises(DamagedTrace, match="has 4 names of layers"):
        vocabulary.code("d")


def test_norms_over_steps_are_bounded_by_what_was_recorded() -> None:
    class Part:
        size, shown = 1000, "run/neurons/x.parquet"

    refuse_many([Part()], 1000, 1000)  # type: ignore[list-item]
    with pytest.raises(DamagedTrace, match="run/neurons has 400,000,000,000 bytes of norms"):
        refuse_many([Part()], 100_000, 1_000_000)  # type: ignore[list-item]


def test_no_code_is_read_from_files() -> None:
    """Nothing in the package unpickles, evaluates, or executes."""
    found = []
    for path in Path(optgeom.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [one.name for one in node.names] + [getattr(node, "module", None) or ""]
                found += [(path, name) for name in names if name.split(".")[0] in _MODULES]
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                loose = name in ("np.load", "numpy.load", "torch.load") and not _is_safe(node)
                if loose or name in _CALLS or name.endswith(".read_pickle"):
                    found.append((path, name))
    assert not found


_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
_CALLS = {"eval", "exec", "compile", "__import__"}


def _is_safe(call: ast.Call) -> bool:
    given = {one.arg: one.value for one in call.keywords}
    if ast.unparse(call.func) == "torch.load":
        return ast.unparse(given.get("weights_only", ast.Constant(value=False))) == "True"
    return ast.unparse(given.get("allow_pickle", ast.Constant(value=False))) == "False"


def test_arrow_runs_no_code_for_types_that_it_does_not_know() -> None:
    """A field may name an extension type, once even a pickled one: it is read as its storage."""
    told = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": b"cos\nsystem\n(S'exit 1'\ntR.",
    }
    schema = pa.schema([pa.field("x", pa.int64(), metadata=told)])
    read = pa.ipc.read_schema(schema.serialize())
    assert read.field("x").type == pa.int64()
    assert not isinstance(read.field("x").type, pa.BaseExtensionType)


def test_what_runs_write_is_far_below_every_limit() -> None:
    assert limits.rows_of(50_000_000) > 10_000_000 * 4
    assert limits.room(100_000_000) > 10_000_000 * 60 * 8
    assert limits.MAX_STREAM_BYTES >= 10 * (32 << 20)
    assert limits.MAX_PAGE_BYTES >= 10 * (20 << 20)
    assert limits.FREE_CELLS > 3 * 100_000 * 200
    assert np.prod([limits.MAX_LAYERS]) > 5 * 100_000


def test_the_limits_that_are_documented_are_those_that_hold() -> None:
    text = (ROOT / "docs" / "traces.md").read_text()
    section = text.partition("## What a stranger's trace can do")[2].partition("\n## ")[0]
    shown = [line.split("|")[2].strip() for line in section.splitlines() if line.startswith("| ")]
    constants = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert sorted(shown[1:]) == sorted(_shown(*one) for one in constants.items())


def _shown(name: str, number: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if "BYTES" in name and number >= size and not number % size:
            return f"{number // size} {unit}"
    return f"{number:,}"
