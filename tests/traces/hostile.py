"""Traces that a stranger might hand over: each with right checksums and a content that no run has.

`python -m tests.traces.hostile FOLDER [NAME]` makes each of them in turn, asks it everything in a
child whose memory and time are bounded, and prints a line of JSON with what came of it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from optgeom.traces.errors import TraceError
from optgeom.traces.keeping.verify import verify
from optgeom.traces.trace import open_trace
from tests.traces import children, hostile_run, hostile_segments, hostile_streams
from tests.traces.asking import Question, answers, questions
from tests.traces.trees import KEPT

_ENOUGH = 5

CASES: dict[str, Callable[[Path], Any]] = {
    **hostile_run.CASES,
    **hostile_segments.CASES,
    **hostile_streams.CASES,
}


def refusals(path: Path, asked: dict[str, Question]) -> list[str]:
    """The damage that a reader names who asks the trace everything.

    Nothing else than TraceError is caught; who was refused twenty times asks no further.
    """
    said = []
    for _, text in answers(path, asked):
        if text.startswith("!") and "holds words" not in text and "holds numbers" not in text:
            said.append(text)
        if len(said) == _ENOUGH:
            break
    try:
        said += [f"!verify: {one.message}" for one in verify(path).findings if one.damaged]
    except TraceError as error:
        said.append(f"!{type(error).__name__}: {error}")
    return list(dict.fromkeys(said))


def outcomes(folder: Path, wanted: list[str]) -> Iterator[tuple[str, children.Outcome]]:
    """What came of each case."""
    asked = questions(open_trace(KEPT))
    for name in wanted or CASES:
        path = folder / "run"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(KEPT, path)
        CASES[name](path)
        yield name, children.run(lambda path=path: refusals(path, asked))  # type: ignore[misc]


if __name__ == "__main__":
    for case, outcome in outcomes(Path(sys.argv[1]), sys.argv[2:]):
        fields = {name: getattr(outcome, name) for name in outcome.__dataclass_fields__}
        print(json.dumps({"case": case} | fields), flush=True)  # noqa: T201  it is a command
