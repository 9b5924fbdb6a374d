"""What diagnosing found in each run, made once per state of its trace, by one request at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from optgeom.geometry.diagnose import diagnose
from optgeom.geometry.diagnosis.finding import SEVERITIES, Diagnosis, Finding
from optgeom.geometry.diagnosis.registry import RULES
from optgeom.traces.errors import OptgeomError

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

logger = logging.getLogger(__name__)

# A run that goes on is diagnosed again no sooner than this many times what it took: 5 % of a core.
REST = 20.0
# Seconds: who finds another request at it waits so long, then asks again later.
PATIENCE = 0.5


@dataclass(frozen=True, slots=True)
class Looked:
    """What looking at one run gave.

    Attributes:
        run: its name.
        diagnosis: what was found; None where no rule could read the run.
        problem: why there is none; "" where there is one.
        step: the last step that was seen; None before the first.
        is_late: whether the trace has gone on since.
    """

    run: str
    diagnosis: Diagnosis | None
    problem: str
    step: int | None
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    looked: Looked
    state: tuple[str, str]
    finished: float
    took: float


class Findings:
    """The diagnoses of the runs of one page, kept while their traces stay as they are.

    Any number of open tabs costs one diagnosis per state of a trace, one at a time; of a run that
    goes on, a small share of a core.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._busy = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def known(self, traces: Iterable[Trace]) -> list[Looked | None]:
        """Return what is known already of some runs; None of a run that nobody looked at yet."""
        found: list[Looked | None] = []
        for trace in traces:
            kept = self._kept.get(trace.name)
            is_late = kept is not None and kept.state[0] != trace.version
            found.append(replace(kept.looked, is_late=is_late) if kept else None)
        return found

    def look(self, traces: Sequence[Trace], token: str = "") -> float | None:
        """Bring what is known of some runs up to date, as far as it is time to.

        Args:
            traces: the runs.
            token: a run that could not be read is tried again when it changes.

        Returns:
            Seconds after which to ask again, since something is older than its trace; None where
            all is as it should be.
        """
        waits: list[float] = []
        for trace in traces:
            wait = self._wait(trace, token)
            if wait == 0.0:
                if not self._busy.acquire(timeout=PATIENCE):
                    return 1.0
                try:
                    # Another request may have done it meanwhile.
                    if self._wait(trace, token) == 0.0:
                        self._diagnose(trace, token)
                finally:
                    self._busy.release()
            elif wait is not None:
                waits.append(wait)
        return min(waits, default=None)

    def _wait(self, trace: Trace, token: str) -> float | None:
        """Return the seconds until a run is due; None where what is known is of its state."""
        kept = self._kept.get(trace.name)
        if kept is None:
            return 0.0
        if kept.state in ((trace.version, ""), (trace.version, token)):
            return None
        if trace.closed and kept.state[0] != trace.version:
            return 0.0
        return max(0.0, kept.finished + REST * kept.took - self._clock())

    def _diagnose(self, trace: Trace, token: str) -> None:
        started, version = self._clock(), trace.version
        looked, is_whole = look_at(trace)
        ended = self._clock()
        # What could be read stays so while the files do; what could not may be mended.
        state = (version, "" if is_whole else token)
        self._kept[trace.name] = _Kept(looked, state, ended, ended - started)


def look_at(trace: Trace) -> tuple[Looked, bool]:
    """Diagnose one run; what fails is said in words, and takes nothing else with it.

    Args:
        trace: the run.

    Returns:
        What was found, and whether every rule came to its end.
    """
    step: int | None = None
    try:
        step = trace.last_step
        return Looked(trace.name, diagnose(trace), "", step), True
    except OptgeomError as error:
        logger.warning("%s could not be diagnosed as a whole: %s", trace.name, error)
    except Exception:
        logger.exception("%s could not be diagnosed as a whole", trace.name)
    # Rule by rule, so that those whose records can be read are heard.
    findings: list[Finding] = []
    judged: list[str] = []
    not_judged: dict[str, str] = {}
    failed: dict[str, str] = {}
    for rule in RULES:
        try:
            one = diagnose(trace, rules=rule.name)
        except Exception as error:
            logger.debug("the rule %s failed", rule.name, exc_info=True)
            failed[rule.name] = str(error) or type(error).__name__
            continue
        findings += one.findings
        judged += one.judged
        not_judged |= one.not_judged
    if not judged and failed:
        return Looked(trace.name, None, next(iter(failed.values())), step), False
    findings.sort(key=lambda one: SEVERITIES.index(one.severity))
    not_judged |= {name: f"could not look: {why}" for name, why in failed.items()}
    reasons = {rule.name: not_judged[rule.name] for rule in RULES if rule.name in not_judged}
    found = Diagnosis(trace.info.run, tuple(findings), tuple(judged), reasons)
    return Looked(trace.name, found, "", step), False
