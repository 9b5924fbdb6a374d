"""Readers of run.json, of streams and of every table, with mutations that have right checksums.

What may end in Arrow is read in children, many examples in each: an abort is then seen as one.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from optgeom.traces.errors import TraceError
from optgeom.traces.format.wal import read_stream
from optgeom.traces.info import dump, parse
from optgeom.traces.schema import TABLES, table_schema
from optgeom.traces.trace import open_trace
from tests.faults.flips import concerns
from tests.traces import children
from tests.traces.asking import Question, answers, questions
from tests.traces.crafting import Craft, read_messages, sealed_run, write_stream
from tests.traces.mutations import change_segment, changed_bytes, changed_json
from tests.traces.trees import KEPT, segment, stream

BOUNDED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # what fails is named by its seed, and need not be made smaller
    suppress_health_check=[*HealthCheck],
)
RUN = (KEPT / "run.json").read_bytes()
SEEDS = st.integers(0, 1 << 32)


@settings(BOUNDED, max_examples=300)
@given(seed=SEEDS)
def test_run_json_of_other_content(seed: int) -> None:
    content = changed_json(random.Random(seed), json.loads(RUN))
    _parse(sealed_run(content) if isinstance(content, dict) else json.dumps(content).encode())


@settings(BOUNDED, max_examples=300)
@given(seed=SEEDS)
def test_run_json_of_other_bytes(seed: int) -> None:
    _parse(changed_bytes(random.Random(seed), RUN))


@settings(BOUNDED, max_examples=200)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_run_json_of_any_bytes(data: bytes) -> None:
    _parse(data)


def _parse(data: bytes) -> None:
    try:
        info = parse(data, "run/run.json")
    except TraceError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "run.json" in said
        assert "\n" not in said
        return
    assert parse(dump(info), "again") == info
    for table in TABLES:
        table_schema(table, info.columns)


@settings(BOUNDED, max_examples=6)
@given(seed=SEEDS)
def test_streams_whose_messages_changed(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    path = tmp_path_factory.mktemp("streams") / "x.arrows"

    def read() -> int:
        said = []
        for number in range(seed, seed + 60):
            dice = random.Random(number)
            messages = read_messages(stream(KEPT, dice.choice(("metrics", "neurons", "spectra"))))
            at = dice.randrange(len(messages))
            messages[at] = changed_bytes(dice, messages[at])
            write_stream(path, messages)
            try:
                read_stream(path.read_bytes(), path.with_suffix(".sums").read_bytes(), "x.arrows")
            except TraceError as error:
                said.append(str(error))
        assert all("x.arrows" in one for one in said)
        return len(said)

    outcome = children.run(read)
    assert outcome.how == "done", (seed, outcome)
    assert outcome.what > 10


@pytest.mark.slow
@pytest.mark.parametrize("table", [*TABLES, "derived/later"])
def test_tables_whose_segments_changed(table: str, tmp_path: Path) -> None:
    asked = questions(open_trace(KEPT))
    told = {name: asked[name] for name in asked if concerns(name, f"{table}/x")}

    @settings(BOUNDED, max_examples=3)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        outcome = children.run(lambda: _read_changed(table, tmp_path, seed, told))
        assert outcome.how == "done", (table, seed, outcome)
        assert outcome.megabytes < 1000
        assert outcome.what > 1

    check()


def _read_changed(table: str, folder: Path, seed: int, asked: dict[str, Question]) -> int:
    """How many of some changed segments were refused."""
    refused = 0
    for number in range(seed, seed + 15):
        run = folder / f"{seed}-{number}"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(KEPT, run)
        made = Craft.of(segment(run, table))
        change_segment(random.Random(number), made)
        try:
            made.write(run / table)
        except (OverflowError, TypeError, ValueError, AttributeError, LookupError):
            pass  # it could not be written
        else:
            said = [text for _, text in answers(run, asked) if text.startswith("!")]
            refused += bool(said)
            assert not [text for text in said if "\n" in text], (number, said)
        shutil.rmtree(run)
    return refused
