"""One case of the overhead benchmark: a method that captures every second step of a job.

Run by overhead.py in a process of its own: JSON arguments in, one line of JSON out.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs import Job, OptimizerName
from methods import BY_HAND, OURS, Method
from timing import Background, Calibration, Interval, added, prepare

WARM_UP = 8
"""Steps before anything is timed."""

SETTLE = 6
"""Steps after attaching that are not timed; the first one loads and compiles what is needed."""

PLAIN = 8
"""Steps with nothing attached before and after each session."""


@dataclass(frozen=True, slots=True)
class Case:
    """What was measured; per cents are of an unwatched step.

    Attributes:
        step_ms: an unwatched step, nothing attached.
        added: captured minus neighbouring uncaptured steps, per cent.
        beside: uncaptured steps of a watched run minus unwatched ones, per cent; one value per
            session, so it sees the machine's drift too.
        background: CPU seconds of other threads and processes per captured step, per cent.
        missing: matrices that were captured and are not in the records; None: not known.
        gflops: of the calibration loop.
    """

    step_ms: float
    added: Interval
    beside: Interval
    background: float
    missing: int | None
    gflops: list[float]


def method_of(name: str) -> Method:
    """A method by its name in the table."""
    known: dict[str, Callable[[], Method]] = OURS | BY_HAND
    if name not in known:
        from peers import PEERS  # not at the top: needs an environment of its own to be of use

        known = known | PEERS
    return known[name]()


def steps(job: Job, method: Method, count: int, *, captured: Callable[[int], bool]) -> list[float]:
    """Time training steps.

    Args:
        job: to train.
        method: attached to it.
        count: of steps.
        captured: whether a step, counted from 0, is one that the method captures.
    """
    seconds = []
    for i in range(count):
        started = time.perf_counter()
        method.backward(job)
        if captured(i):
            method.before_step()
        job.apply()
        if captured(i):
            method.after_step()
        job.zero_grad()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure(job: Job, method: Method, folder: Path, *, pairs: int, sessions: int) -> Case:
    """Measure a method on a job.

    Args:
        job: freshly made.
        method: not attached yet.
        folder: where it may write.
        pairs: captured steps to time, at least.
        sessions: how often it is attached and closed in between.
    """
    calibration, plain = Calibration(), Method()
    if not method.sessions:
        sessions = 1
    per_session = -(-pairs // sessions)
    relative: list[float] = []
    beside: list[float] = []
    unwatched: list[float] = []
    cpu, captures, missing = 0.0, 0, 0

    def plain_block() -> float:
        calibration.run()
        took = steps(job, plain, PLAIN, captured=lambda _: False)[2:]
        unwatched.extend(took)
        return statistics.median(took)

    steps(job, plain, WARM_UP, captured=lambda _: False)
    before = plain_block()
    for session in range(sessions):
        background = Background()
        method.attach(job, folder / str(session))

        def captured(i: int, offset: int = 0) -> bool:
            return (i + offset - method.first) % 2 == 0

        steps(job, method, SETTLE, captured=captured)
        background.settle()
        calibration.run()
        since = background.seconds
        count = 2 * per_session + 1 + captured(SETTLE)
        took = steps(job, method, count, captured=lambda i: captured(i, SETTLE))
        background.settle()
        cpu += background.seconds - since
        flags = [captured(i, SETTLE) for i in range(count)]
        captures += sum(flags)
        method.close()
        expected = method.expected(sum(captured(i) for i in range(SETTLE + count)))
        if expected is not None:
            missing += expected - (method.written() or 0)
        after = plain_block()
        quiet = statistics.median(s for s, flag in zip(took, flags, strict=True) if not flag)
        relative += [100 * difference / quiet for difference in added(took, flags)]
        beside.append(100 * (quiet / statistics.mean((before, after)) - 1))
        before = after
    step = statistics.median(unwatched)
    return Case(
        step_ms=1e3 * step,
        added=Interval.of(relative),
        beside=Interval.of(beside),
        background=100 * cpu / captures / step,
        missing=None if method.written() is None else missing,
        gflops=calibration.gflops,
    )


def main(size: str, optimizer: OptimizerName, method: str, pairs: int, sessions: int) -> None:
    """Measure one case and print it."""
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        case = measure(
            Job(size, optimizer), method_of(method), Path(folder), pairs=pairs, sessions=sessions
        )
    print(json.dumps(asdict(case)))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
