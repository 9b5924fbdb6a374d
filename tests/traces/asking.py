"""Everything that a trace can be asked, and the answers in a form that compares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from optgeom.traces.errors import NotCaptured, TraceError
from optgeom.traces.schema import CELL_TABLES
from optgeom.traces.trace import Trace, open_trace

Question = Callable[[Trace], Any]


def questions(trace: Trace) -> dict[str, Question]:
    """What there is to ask of a trace by what it holds, named by table and cell."""
    asked: dict[str, Question] = {
        "run": lambda one: one.info.to_json(),
        "repr": lambda one: repr(one).partition("stages")[0],
        "last step": lambda one: one.last_step,
        "scalars": lambda one: one.scalars(),
        "metrics": lambda one: one.metrics(attempts="all"),
        "newest metrics": lambda one: one.metrics(),
    }
    stages = ("update", "momentum", "gradient", "weight")
    for table in CELL_TABLES:
        asked[f"steps of {table}"] = lambda one, table=table: one.steps(stage=None, table=table)
        asked[f"cells of {table}"] = lambda one, table=table: sorted(one.cell_names(table))
    for name in trace.metrics().schema.names:
        for stage in stages[:2]:
            asked[f"grid {name} {stage}"] = lambda one, n=name, s=stage: one.grid(n, s)
            asked[f"words {name} {stage}"] = lambda one, n=name, s=stage: one.words(n, s)
    for layer, stage in sorted(trace.cell_names("neurons") | trace.cell_names("spectra")):
        asked[f"neurons {layer} {stage}"] = lambda one, a=layer, s=stage: one.neurons(a, s)
        asked[f"spectra {layer} {stage}"] = lambda one, a=layer, s=stage: one.spectra(a, s)
    for cell, _ in trace.matrices():
        key = (cell.step, cell.layer, cell.stage)
        asked[f"matrix {cell.layer} {cell.stage} {cell.step}"] = lambda one, k=key: one.matrix(*k)
    return asked


def answers(path: Path, asked: dict[str, Question]) -> Iterator[tuple[str, str]]:
    """The answer to each question: a digest, `NotCaptured`, or `!` and the error in a line."""
    try:
        trace = open_trace(path)
    except TraceError as error:
        for name in asked:
            yield name, f"!{type(error).__name__}: {error}"
        return
    for name, question in asked.items():
        try:
            yield name, digest(question(trace))
        except NotCaptured:
            yield name, "NotCaptured"
        except TraceError as error:
            yield name, f"!{type(error).__name__}: {error}"


def digest(answer: Any) -> str:
    """A text that differs where answers do."""
    made = hashlib.blake2b(digest_size=8)
    _feed(made, answer)
    return made.hexdigest()


def _feed(made: Any, answer: Any) -> None:
    if isinstance(answer, np.ndarray):
        made.update(f"{answer.dtype} {answer.shape}".encode() + answer.tobytes())
    elif isinstance(answer, pa.Table):
        made.update(repr(answer.to_pydict()).encode())
    elif hasattr(answer, "__dataclass_fields__"):
        for name in answer.__dataclass_fields__:
            _feed(made, getattr(answer, name))
    elif isinstance(answer, (tuple, list)):
        for one in answer:
            _feed(made, one)
    else:
        made.update(repr(answer).encode())
