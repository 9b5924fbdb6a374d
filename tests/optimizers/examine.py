"""What one optimizer's record is worth: watched, unwatched and twin, held against each other."""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import optgeom
from tests.optimizers.case import Case
from tests.optimizers.run import Run, SameDraws, run

capture = logging.getLogger("optgeom.hooks.capture")
READ_BY_DIFFERENCE = "layer %s is read by difference: %s"


@dataclass(frozen=True)
class Finding:
    """What came out.

    Attributes:
        cannot: the error that the class's own step raises without us; then nothing else is known.
        source: of the rows; several, joined by a plus.
        decay_form: of the rows that moved, the same.
        error: the largest relative error of an update against the oracle's, Frobenius.
        worst: the step and matrix of that error.
        decay_error: the largest error of a recorded decay against the documented one.
        rate_error: the same of the divisor, relative.
        rebuilt: how far W_after made from W_before and the row is off, in spacings of the weights.
        why: the operations that were not understood.
        same_bits: weights after every step, gradients, state and random states are as without us.
        once: there is one row per layer and step.
        unverified: how many rows say so.
        statuses: of the rows.
        failure: an error of the capture.
    """

    cannot: str = ""
    source: str = ""
    decay_form: str = ""
    error: float = 0.0
    worst: str = ""
    decay_error: float = 0.0
    rate_error: float = 0.0
    rebuilt: float = 0.0
    why: tuple[str, ...] = ()
    same_bits: bool = True
    once: bool = True
    unverified: int = 0
    statuses: frozenset[str] = frozenset()
    failure: str = ""


@cache
def examine(case: Case) -> Finding:
    """Run an optimizer watched and unwatched, and hold what was recorded against the oracle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        try:
            plain = run(case, torch.float32)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the table quotes it
            return Finding(cannot=f"{type(error).__name__}: {error}".partition("\n")[0])
        with tempfile.TemporaryDirectory() as folder, _reasons() as reasons:
            seen = run(case, torch.float32, Path(folder) / "trace")
            if seen.failure:
                return Finding(failure=seen.failure)
            trace = optgeom.open_trace(Path(folder) / "trace")
            rows = trace.metrics(stages=["update"]).to_pylist()
            for row in rows:
                row["update"] = torch.from_numpy(trace.matrix(row["step"], row["layer"])).double()
        oracle = plain if case.oracle == "float32 run" else _twin(case)
    verified = [row for row in rows if row["status"] != "unverified"]
    errors = [_errors(case, row, plain, oracle) for row in verified]
    keys = {(row["step"], row["layer"]) for row in rows}
    return Finding(
        source="+".join(sorted({row["source"] for row in rows})),
        decay_form="+".join(
            sorted({row["decay_form"] for row in verified if row["status"] != "zero"})
        ),
        error=max(e[0] for e in errors),
        worst=max(
            (e[0], f"step {r['step']}, {r['layer']}") for e, r in zip(errors, verified, strict=True)
        )[1],
        decay_error=max(e[1] for e in errors),
        rate_error=max(e[2] for e in errors),
        rebuilt=max(e[3] for e in errors),
        why=tuple(dict.fromkeys(reasons)),
        same_bits=equal_bits(plain.weights, seen.weights) and equal_bits(plain.left, seen.left),
        once=len(rows) == len(keys) == case.steps * len(case.shapes),
        unverified=len(rows) - len(verified),
        statuses=frozenset(row["status"] for row in rows),
        failure=seen.failure,
    )


def _twin(case: Case) -> Run:
    if case.twin is not None:
        return run(replace(case, build=case.twin), torch.float64)
    with SameDraws() if case.oracle.endswith("same draws") else nullcontext():
        return run(case, torch.float64)


def _errors(
    case: Case, row: dict[str, Any], plain: Run, oracle: Run
) -> tuple[float, float, float, float]:
    step, place = row["step"], list(case.shapes).index(row["layer"])
    before, after = (w[place].double() for w in oracle.weights[step : step + 2])
    rate = oracle.rates[step][place]
    # what is read by difference knows of no decay, and a step that moves nothing has none
    is_free = row["source"] == "difference" or torch.equal(before, after)
    decay = 0.0 if is_free else oracle.decays[step][place]
    truth = -(after - (1 - decay) * before) / rate
    away, size = _norm(row["update"] - truth), _norm(truth)
    old, new = (w[place].double() for w in plain.weights[step : step + 2])
    again = (1 - row["decay"]) * old - row["lr"] * row["update"]
    spacing = torch.finfo(torch.float32).eps * torch.maximum(old.abs(), new.abs()).max()
    return (
        away / size if size else away,
        abs(row["decay"] - decay),
        abs(row["lr"] / rate - 1.0),
        ((again - new).abs().nan_to_num(math.inf).max() / spacing).item(),
    )


def _norm(matrix: Tensor) -> float:
    """Frobenius; infinite where an entry is no number, so that no comparison lets it through."""
    return matrix.nan_to_num(math.inf, math.inf, math.inf).norm().item()


@contextmanager
def _reasons() -> Iterator[list[str]]:
    """Collects which operations the capture names as not understood."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.msg == READ_BY_DIFFERENCE and isinstance(record.args, tuple):
                found.append(str(record.args[1]))

    listener, level = Listener(), capture.level
    capture.addHandler(listener)
    capture.setLevel(logging.DEBUG)
    try:
        yield found
    finally:
        capture.removeHandler(listener)
        capture.setLevel(level)


def equal_bits(a: Any, b: Any) -> bool:
    """Whether two nested values hold the same tensors and numbers, bit for bit."""
    if hasattr(a, "__tensor_flatten__") and type(a) is type(b):  # a quantized state
        return all(equal_bits(getattr(a, n), getattr(b, n)) for n in a.__tensor_flatten__()[0])
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.is_sparse:
            a, b = a.to_dense(), b.to_dense()
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return len(a) == len(b) and all(map(equal_bits, a.values(), b.values()))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal_bits, a, b))
    return type(a) is type(b) and (not isinstance(a, (int, float, str)) or a == b or a != a)
